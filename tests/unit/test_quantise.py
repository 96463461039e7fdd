"""Scaled 8-bit weights: small errors, every layout the same values, half-done files refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo_live_core.checkpoints import load_transformer, quantise
from hallo_live_core.checkpoints.build import transformer_from_state_dict
from hallo_live_core.checkpoints.convert import convert, convert_to_fp8
from hallo_live_core.checkpoints.files import read_file
from hallo_live_core.checkpoints.identify import TRANSFORMER, identify
from hallo_live_core.cli import main
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit.weights import to_module, to_published

from .eight_bit_files import random_weights, write_full, write_small

HALF_STEP = 2**-4
"""e4m3 has 3 bits behind the leading one: rounding is off by at most 1/16 of the value ..."""

SMALLEST_STEP = 2**-9
"""... or by half of this times the scale, near zero."""

LAYER = "video_model.blocks.0.self_attn.q"
KINDS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k")
KINDS += ("cross_attn.v", "cross_attn.o", "cross_attn.k_fusion", "cross_attn.v_fusion")
KINDS += ("ffn.0", "ffn.2")


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_full(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def small(full):
    return write_small(full)


def legacy(stored: dict, *, full_precision: bool = False) -> dict:
    """The same file in the layout of before."""
    old = {k.replace(".weight_scale", ".scale_weight"): v for k, v in stored.items()}
    old = {k: v for k, v in old.items() if not k.endswith(".comfy_quant")}
    old |= {f"{LAYER}.scale_input": torch.ones(())}
    return old | {"scaled_fp8": torch.zeros(2 if full_precision else 0, dtype=torch.float8_e4m3fn)}


@pytest.mark.parametrize("spread", [1e-6, 0.02, 300.0])
def test_every_element_keeps_its_value_up_to_the_rounding_of_three_bits(spread):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * spread
    scale = quantise.scale_of(weight)
    back = quantise.to_8_bits(weight, scale).float() * scale
    bound = torch.maximum(HALF_STEP * weight.abs(), SMALLEST_STEP / 2 * scale)
    assert ((back - weight).abs() <= bound * 1.0001).all()
    torch.testing.assert_close(back.abs().max(), weight.abs().max())
    assert 0.01 < quantise.relative_error(weight, scale) < 0.04


def test_a_layer_of_zeros_stays_one_and_an_infinite_one_is_refused():
    zeros = torch.zeros(16, 16)
    assert not quantise.to_8_bits(zeros, quantise.scale_of(zeros)).float().any()
    assert quantise.relative_error(zeros, quantise.scale_of(zeros)) == 0
    with pytest.raises(CheckpointError, match="not finite"):
        quantise.scale_of(torch.full((2, 2), torch.inf))


def test_only_the_matrices_of_the_blocks_become_smaller(weights, small):
    stored = load_file(small)
    expected = {
        f"{stream}_model.blocks.{block}.{kind}"
        for stream in ("video", "audio")
        for block in range(2)
        for kind in KINDS
    }
    eights = {k.removesuffix(".weight") for k, t in stored.items() if t.dtype.itemsize == 1}
    marks = {k.removesuffix(".comfy_quant") for k in eights if k.endswith(".comfy_quant")}
    assert {k for k in eights if not k.endswith(".comfy_quant")} == expected == marks
    for layer in expected:
        scale, mark = stored[f"{layer}.weight_scale"], stored[f"{layer}.comfy_quant"]
        assert scale.dtype == torch.float32 and scale.shape == ()
        assert json.loads(mark.numpy().tobytes()) == {"format": "float8_e4m3fn"}
    rest = weights.keys() - {f"{layer}.weight" for layer in expected}
    assert all(torch.equal(stored[name], weights[name]) for name in rest)
    assert stored.keys() - weights.keys() == {
        f"{layer}.{extra}" for layer in expected for extra in ("weight_scale", "comfy_quant")
    }


def test_the_audio_stream_can_keep_its_width(full, tmp_path):
    errors = convert_to_fp8(full, tmp_path / "x.safetensors", keep_audio=True)
    stored = load_file(tmp_path / "x.safetensors")
    assert errors.keys() == {
        k.removesuffix(".weight_scale") for k in stored if k.endswith("_scale")
    }
    assert all(k.startswith("video_model.") for k in errors) and len(errors) == 2 * len(KINDS)


def test_sides_that_the_hardware_cannot_multiply_stay_wide():
    tensors = {"a.blocks.0.q.weight": torch.ones(16, 24), "a.blocks.0.k.weight": torch.ones(16, 32)}
    assert quantise.quantisable(tensors) == ("a.blocks.0.k",)


def test_the_errors_told_are_those_of_the_file(full, weights, tmp_path):
    errors = convert_to_fp8(full, tmp_path / "x.safetensors")
    stored = load_file(tmp_path / "x.safetensors")
    for layer, error in errors.items():
        true = weights[f"{layer}.weight"].float()
        back = stored[f"{layer}.weight"].float() * stored[f"{layer}.weight_scale"]
        assert error == pytest.approx(((back - true).norm() / true.norm()).item(), rel=1e-4)


@pytest.mark.parametrize("layout", ["current", "legacy", "declared"])
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_all_layouts_load_as_the_same_network(small, weights, tmp_path, layout, dtype):
    stored, metadata = load_file(small), {}
    if layout == "legacy":
        stored = legacy(stored)
    if layout == "declared":
        layers = [k.removesuffix(".comfy_quant") for k in stored if k.endswith(".comfy_quant")]
        stored = {k: v for k, v in stored.items() if not k.endswith(".comfy_quant")}
        formats = {"layers": {layer: {"format": "float8_e4m3fn"} for layer in layers}}
        metadata = {"_quantization_metadata": json.dumps(formats)}
    path = tmp_path / "x.safetensors"
    save_file(stored, path, metadata=metadata)
    state = to_published(load_transformer(path, dtype=dtype).state_dict())
    assert {t.dtype for t in state.values()} == {dtype or torch.bfloat16}
    for name, tensor in state.items():
        if f"{name}_scale" in load_file(small):
            value = stored[name].float() * load_file(small)[f"{name}_scale"]
            assert torch.equal(tensor, value.to(tensor.dtype))
        else:
            assert torch.equal(tensor, weights[name].to(tensor.dtype))


def test_plain_8_bit_storage_loads_at_the_width_that_is_asked_for(weights, tmp_path):
    shrunk = {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in weights.items()}
    save_file(shrunk, tmp_path / "x.safetensors")
    module = load_transformer(tmp_path / "x.safetensors", dtype=torch.bfloat16)
    state = to_published(module.state_dict())
    assert all(torch.equal(state[name], shrunk[name].bfloat16()) for name in shrunk)


def test_older_files_keep_what_they_say_of_multiplication_and_of_inputs(small):
    tensors = legacy(load_file(small), full_precision=True)
    tensors[f"{LAYER}.scale_input"] = torch.tensor(0.5)
    assert LAYER in quantise.unify(tensors, "x")
    mark = json.loads(tensors[f"{LAYER}.comfy_quant"].numpy().tobytes())
    assert mark == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    assert tensors[f"{LAYER}.input_scale"] == 0.5
    assert not {k for k in tensors if "scale_weight" in k or "scaled_fp8" in k}


def test_a_quantised_transformer_is_recognised_as_one(small):
    assert identify(load_file(small)) == TRANSFORMER


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({f"{LAYER}.weight_scale": None}, "has no scale"),
        ({f"{LAYER}.weight": None}, "has no weight"),
        ({f"{LAYER}.comfy_quant": None}, r"q\.weight in 8 bits without a scale"),
        ({f"{LAYER}.comfy_quant": b'{"format": "nvfp4"}'}, "is in the format nvfp4"),
        ({f"{LAYER}.comfy_quant": b"\xff{"}, "format that cannot be read"),
        ({f"{LAYER}.weight_scale": torch.ones(128)}, "no positive number"),
        ({f"{LAYER}.weight_scale": torch.tensor(torch.nan)}, "no positive number"),
        ({f"{LAYER}.weight": torch.ones(128, 128)}, "not a matrix of float8_e4m3fn"),
        (
            {"video_model.blocks.0.norm3.weight": torch.ones(128).to(torch.float8_e4m3fn)},
            "8 bits",
        ),
        ({"video_model.head.head.weight_scale": torch.ones(())}, "without a format"),
    ],
)
def test_a_file_that_is_quantised_in_part_is_refused_in_one_line(small, change, found):
    tensors = load_file(small)
    for name, value in change.items():
        if value is None:
            del tensors[name]
        else:
            as_tensor = (
                torch.tensor(list(value), dtype=torch.uint8) if isinstance(value, bytes) else value
            )
            tensors[name] = as_tensor
    with pytest.raises(
        CheckpointError, match=rf"x\.safetensors is quantised in part.*{found}"
    ) as e:
        transformer_from_state_dict(tensors, "x.safetensors")
    assert "\n" not in str(e.value) and "hallo-live convert --fp8" in str(e.value)


@pytest.mark.parametrize("entry", ["{", "[]", '{"layers": 3}', '{"layers": {"a": {}}}' * 2])
def test_a_header_that_makes_no_sense_is_refused(small, tmp_path, entry):
    path = tmp_path / "x.safetensors"
    save_file(load_file(small), path, metadata={"_quantization_metadata": entry})
    with pytest.raises(CheckpointError, match=r"header of x\.safetensors cannot be understood"):
        read_file(path)


def test_names_of_our_own_are_quantised_in_the_same_way(small):
    ours = to_module(load_file(small))
    assert len(quantise.unify(ours, "x")) == 4 * len(KINDS)


def test_what_is_quantised_already_is_not_converted(small, tmp_path):
    for how in (convert, convert_to_fp8):
        with pytest.raises(CheckpointError, match="quantised already"):
            how(small, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_error_of_every_layer(full, tmp_path, capsys):
    target = tmp_path / "x.safetensors"
    assert main(["convert", str(full), str(target), "--fp8"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^  \w+_model\.blocks\.\d\.\S+ +2\.\d+%$", out, re.MULTILINE)) == 48
    assert "mean of 48 layers" in out and f"wrote {target}" in out
    assert main(["convert", str(full), str(tmp_path / "y.safetensors"), "--keep-audio"]) == 1
    assert "leave out --keep-audio" in capsys.readouterr().err
