"""LoRA files: every way of naming them means the same change, and nothing else is let in."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo_live_core.checkpoints import load_transformer
from hallo_live_core.checkpoints.convert import convert, convert_to_fp8
from hallo_live_core.checkpoints.lora import load_lora, merge_into, read_lora
from hallo_live_core.checkpoints.tiny_weights import TRANSFORMER
from hallo_live_core.cli import main
from hallo_live_core.cli.loading import parse_lora
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit.fusion import DualStreamDiT
from hallo_live_core.models.dit.weights import to_module, to_published

from .lora_merging import merge_lora

RANK, ALPHA = 4, 2.0
PUBLISHED = "video_model.blocks.1.ffn.0", "audio_model.blocks.0.cross_attn.k_fusion"
OURS = "blocks.1.video.ffn.0", "blocks.0.audio.cross_attn.k_fusion"


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = to_published(DualStreamDiT(TRANSFORMER, device="meta").state_dict())
    return {
        k: torch.randn(t.shape, generator=generator).mul(0.02).bfloat16() for k, t in shapes.items()
    }


@pytest.fixture(scope="module")
def halves(weights):
    """Down and up of two layers, by published names."""
    generator = torch.Generator().manual_seed(1)
    shapes = {layer: weights[f"{layer}.weight"].shape for layer in PUBLISHED}
    return {
        layer: (
            torch.randn(RANK, inputs, generator=generator),
            torch.randn(outputs, RANK, generator=generator) * 0.01,
        )
        for layer, (outputs, inputs) in shapes.items()
    }


def named(halves, pattern=("{}.lora_A.weight", "{}.lora_B.weight"), names=PUBLISHED, alpha=True):
    tensors = {}
    for (down, up), name in zip(halves.values(), names, strict=True):
        tensors |= {pattern[0].format(name): down, pattern[1].format(name): up}
        if alpha:
            tensors[pattern[0].format(name).split(".lora_")[0] + ".alpha"] = torch.tensor(ALPHA)
    return tensors


def expected(weights, halves, strength):
    """W + strength * (alpha / rank) * up @ down, as the formula says, in float64."""
    changed = dict(weights)
    for layer, (down, up) in halves.items():
        weight = weights[f"{layer}.weight"]
        change = strength * (ALPHA / RANK) * up.double() @ down.double()
        changed[f"{layer}.weight"] = (weight.double() + change).to(weight.dtype)
    return changed


def same(state, wanted) -> bool:
    """Equal, but for the last bit where float32 and float64 round to different neighbours."""
    close = all(
        torch.allclose(state[k].float(), v.float(), rtol=2**-7, atol=1e-6)
        for k, v in wanted.items()
    )
    return close and state.keys() == wanted.keys()


@pytest.mark.parametrize("names", [PUBLISHED, OURS], ids=["published", "ours"])
@pytest.mark.parametrize(
    "pattern",
    [
        ("{}.lora_A.weight", "{}.lora_B.weight"),
        ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
        ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
        ("base_model.model.model.{}.lora_A.weight", "base_model.model.model.{}.lora_B.weight"),
        ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight"),
        ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight"),
        ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
        ("{}.lora_down", "{}.lora_up"),
    ],
    ids=lambda pattern: pattern[0],
)
def test_every_way_of_naming_layers_means_the_same_change(weights, halves, names, pattern):
    lora = read_lora(named(halves, pattern, names), "x")
    assert sorted(lora) == sorted(f"{name}.weight" for name in OURS)
    assert same(merge_lora(weights, lora, 0.5), expected(weights, halves, 0.5))


@pytest.mark.parametrize("strength", [-1.0, 0.25, 1.0, 3.0])
def test_strength_times_alpha_over_rank_times_the_product_is_added(weights, halves, strength):
    lora = read_lora(named(halves), "x")
    before = {name: tensor.clone() for name, tensor in weights.items()}
    merged = merge_lora(weights, lora, strength)
    assert same(merged, expected(weights, halves, strength))
    changed = {f"{layer}.weight" for layer in PUBLISHED}
    assert {k for k in weights if not torch.equal(merged[k], weights[k])} == changed
    assert all(merged[name] is weights[name] for name in weights.keys() - changed)
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_strength_zero_changes_no_bit(weights, halves):
    merged = merge_lora(weights, read_lora(named(halves), "x"), 0)
    assert all(merged[name] is weights[name] for name in weights)


def test_without_alpha_the_product_counts_once(weights, halves):
    lora = read_lora(named(halves, alpha=False), "x")
    assert {change.scale for change in lora.values()} == {1.0}
    twice = read_lora(named(halves, alpha=False), "x", {"lora_alpha": 8})
    assert {change.scale for change in twice.values()} == {2.0}


def test_weights_under_our_own_names_are_merged_too(weights, halves):
    merged = merge_lora(to_module(weights), read_lora(named(halves), "x"), 1.0)
    assert same(to_published(merged), expected(weights, halves, 1.0))


# ── Files ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def files(tmp_path, weights, halves):
    save_file(weights, tmp_path / "full.safetensors")
    save_file(named(halves), tmp_path / "lora.safetensors")
    return tmp_path


def test_merging_into_a_network_gives_the_same_weights(files, weights, halves):
    module = DualStreamDiT(TRANSFORMER, dtype=torch.bfloat16)
    module.load_state_dict(to_module(weights))
    merge_into(module, [(files / "lora.safetensors", 0.7)])
    merged = merge_lora(weights, load_lora(files / "lora.safetensors"), 0.7)
    state = to_published(module.state_dict())
    assert all(torch.equal(state[name], merged[name]) for name in merged)


def test_a_network_is_loaded_with_its_changes_and_its_file_stays(files, weights, halves):
    full, lora = files / "full.safetensors", files / "lora.safetensors"
    state = to_published(load_transformer(full, loras=[(lora, 0.5)]).state_dict())
    assert same(state, expected(weights, halves, 0.5))
    state = to_published(load_transformer(full).state_dict())
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_a_converted_file_can_hold_the_changes(files, weights, halves):
    full, lora = files / "full.safetensors", files / "lora.safetensors"
    convert(full, files / "merged.safetensors", loras=[(lora, 0.5), (lora, 0.5)])
    assert same(load_file(files / "merged.safetensors"), expected(weights, halves, 1.0))


def test_a_file_in_8_bits_can_hold_the_changes(files):
    lora = files / "lora.safetensors"
    convert(files / "full.safetensors", files / "merged.safetensors", loras=[(lora, 1.0)])
    one = convert_to_fp8(files / "merged.safetensors", files / "1.safetensors")
    two = convert_to_fp8(files / "full.safetensors", files / "2.safetensors", loras=[(lora, 1.0)])
    first, second = load_file(files / "1.safetensors"), load_file(files / "2.safetensors")
    assert one == two and first.keys() == second.keys()
    assert all(torch.equal(first[name].float(), second[name].float()) for name in first)


def test_the_command_merges_files_at_strengths(files, weights, halves):
    lora, target = files / "lora.safetensors", files / "out.safetensors"
    arguments = ["convert", str(files / "full.safetensors"), str(target)]
    assert main([*arguments, "--lora", f"{lora}:0.25", "--lora", str(lora)]) == 0
    assert same(load_file(target), expected(weights, halves, 1.25))


@pytest.mark.parametrize(
    ("text", "name", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.5", "a.safetensors", 0.5),
        ("a:b.pt:-1", "a:b.pt", -1.0),
        ("C:\\loras\\a.pt", "C:\\loras\\a.pt", 1.0),
        ("7", "7", 1.0),
    ],
)
def test_a_strength_stands_behind_the_last_colon(text, name, strength):
    assert parse_lora(text) == (Path(name), strength)


def test_a_strength_that_is_no_number_is_refused(files, capsys):
    with pytest.raises(SystemExit):
        main(["convert", "a", "b", "--lora", "x.pt:nan"])
    assert "no strength" in capsys.readouterr().err


def test_alpha_is_found_in_the_header_or_in_the_settings_beside_the_file(tmp_path, halves):
    path = tmp_path / "adapter_model.safetensors"
    settings = tmp_path / "adapter_config.json"
    settings.write_text(json.dumps({"lora_alpha": 8, "use_dora": False}))
    save_file(named(halves, alpha=False), path)
    assert {change.scale for change in load_lora(path).values()} == {2.0}
    save_file(named(halves, alpha=False), tmp_path / "other.safetensors")
    assert {change.scale for change in load_lora(tmp_path / "other.safetensors").values()} == {1.0}
    save_file(named(halves, alpha=False), path, metadata={"lora_alpha": "16"})
    assert {change.scale for change in load_lora(path).values()} == {4.0}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"lora_alpha": 8, "use_dora": true}', "use_dora"),
        ('{"lora_alpha": 8, "use_rslora": true}', "use_rslora"),
        ('{"lora_alpha": 8, "alpha_pattern": {"a": 1}}', "alpha_pattern"),
        ('{"lora_alpha": "much"}', "not a number"),
        ("{", "cannot be understood"),
        ("{}", "cannot be understood"),
    ],
)
def test_settings_that_ask_for_another_formula_are_refused(tmp_path, halves, content, found):
    (tmp_path / "adapter_config.json").write_text(content)
    save_file(named(halves, alpha=False), tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=found):
        load_lora(tmp_path / "adapter_model.safetensors")


# ── What is refused ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ({"video_model.blocks.0.ffn.0.dora_scale": torch.ones(1)}, "1 of 7 names.*dora_scale"),
        ({"lora_te_text_model.lora_up.weight": torch.ones(1, 1)}, "1 of 7 names.*lora_te"),
        ({"blocks.0.attn1.to_q.lora_A.weight": torch.ones(1, 1)}, "1 of 7 names.*attn1"),
        ({"video_model.blocks.0.ffn.0.diff": torch.ones(1)}, r"1 of 7 names.*ffn\.0\.diff"),
        ({"video_model.blocks.0.ffn.0.lora_A.weight": torch.ones(1, 1)}, "without its upper half"),
        ({"video_model.blocks.0.ffn.0.lora_up.weight": torch.ones(1, 1)}, "without its lower half"),
        ({f"{PUBLISHED[0]}.lora_A.weight": torch.ones(3, 5)}, "do not fit together"),
        ({f"{PUBLISHED[0]}.lora_A.weight": torch.ones(4)}, "do not fit together"),
        ({f"{PUBLISHED[0]}.alpha": torch.ones(2)}, "alpha that is not a number"),
        ({f"{PUBLISHED[0]}.alpha": torch.tensor(torch.inf)}, "alpha that is not a number"),
    ],
)
def test_what_is_unknown_or_incomplete_is_refused_by_name(halves, extra, found):
    with pytest.raises(CheckpointError, match=found) as caught:
        read_lora(named(halves) | extra, "x.safetensors")
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("video_model.blocks.9.ffn.0",), ("video_model.nothing",)])
def test_layers_that_this_network_does_not_have_are_refused(weights, halves, names):
    lora = read_lora(named(dict([next(iter(halves.items()))]), names=names), "x.safetensors")
    for strength in (0.5, 1.0):
        with pytest.raises(CheckpointError, match="1 of 1 changes do not fit"):
            merge_lora(weights, lora, strength, "x.safetensors")


def test_a_change_of_another_width_is_refused(weights, halves):
    names = [f"{stream}_model.blocks.0.self_attn.q" for stream in ("video", "audio")]
    lora = read_lora(named(halves, names=names), "x")
    with pytest.raises(CheckpointError, match=r"2 of 2 changes do not fit: blocks\.") as caught:
        merge_lora(weights, lora, 1.0, "x")
    assert "\n" not in str(caught.value)


def test_a_whole_model_is_no_lora(weights):
    with pytest.raises(CheckpointError, match="is not a LoRA of this transformer"):
        read_lora(weights, "hallolive_dit.pt")
