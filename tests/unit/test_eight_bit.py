"""The transformer in 8 bits without ComfyUI: small errors, small memory, every layout."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo_live_core.checkpoints import load_transformer
from hallo_live_core.checkpoints.eight_bit import (
    is_matrix,
    load_transformer_in_8_bits,
    transformer_nbytes,
)
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit import fuse_projections, scaled_linear
from hallo_live_core.models.dit.scaled_linear import ScaledLinear, rounded_rows

from .eight_bit_files import SMALL, random_weights, write_full, write_small

STEP = 2**-4
LAYER = "blocks.1.video.ffn.0"


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return write_full(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def small(full):
    return write_small(full)


def widened(module, layer=LAYER) -> torch.Tensor:
    linear = module.get_submodule(layer)
    return linear.weight.float() * linear.weight_scale


def test_every_row_keeps_its_values_up_to_the_rounding_of_three_bits():
    rows = torch.tensor([[1e-6], [0.02], [300.0]])
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)) * rows
    narrow, scale = rounded_rows(weight)
    bound = STEP * weight.abs() + 2**-10 * scale
    assert ((narrow.float() * scale - weight).abs() <= bound * 1.0001).all()
    assert torch.equal(narrow.float().abs().amax(1), torch.full((3,), 448.0))


def test_a_row_of_zeros_stays_zero():
    narrow, scale = rounded_rows(torch.zeros(2, 16))
    assert not narrow.float().any() and scale.isfinite().all()


def test_matrices_of_the_layers_are_8_bits_wide_and_nothing_else(full):
    module = load_transformer_in_8_bits(full, dtype=torch.bfloat16)
    kinds = {name: p.dtype for name, p in module.named_parameters()}
    narrow = {name for name, dtype in kinds.items() if dtype == torch.float8_e4m3fn}
    assert narrow == {n for n, p in module.named_parameters() if is_matrix(n, p)}
    assert len(narrow) == 2 * SMALL.num_layers * 12  # q k v o twice, two of the other, MLP
    assert all(kinds[name] == torch.bfloat16 for name in kinds.keys() - narrow)


def test_the_bytes_foretold_are_the_bytes_held(full):
    for in_8_bits, load in ((False, load_transformer), (True, load_transformer_in_8_bits)):
        module = load(full, dtype=torch.bfloat16)
        held = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
        assert held == transformer_nbytes(SMALL, torch.bfloat16, in_8_bits=in_8_bits)


def test_a_layer_answers_nearly_as_in_full_width(full):
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(2)).bfloat16()
    wide = load_transformer(full).get_submodule(LAYER)
    narrow = load_transformer_in_8_bits(full).get_submodule(LAYER)
    off = (narrow(x) - wide(x)).float().norm() / wide(x).float().norm()
    assert 0 < off < 0.05


def test_a_file_in_scaled_fp8_is_taken_as_it_is(small):
    stored = load_file(small)
    module = load_transformer_in_8_bits(small)
    published = "video_model.blocks.1.ffn.0"
    linear = module.get_submodule(LAYER)
    assert torch.equal(linear.weight.float(), stored[f"{published}.weight"].float())
    assert torch.equal(linear.weight_scale, stored[f"{published}.weight_scale"].expand(32, 1))
    torch.testing.assert_close(
        widened(module), load_transformer(small).get_submodule(LAYER).weight.float(), rtol=0.01,
        atol=0,
    )  # fmt: skip


def test_plain_fp8_files_have_scale_one(weights, full):
    path = full.with_name("plain.safetensors")
    save_file(
        {
            k: v.to(torch.float8_e4m3fn) if ".blocks." in k and v.ndim == 2 else v
            for k, v in weights.items()
        },
        path,
    )
    linear = load_transformer_in_8_bits(path).get_submodule(LAYER)
    assert (linear.weight_scale == 1).all()


def test_a_lora_is_merged_before_anything_is_rounded(full, small, weights):
    path = full.with_name("lora.safetensors")
    generator = torch.Generator().manual_seed(3)
    down = torch.randn(4, 128, generator=generator)
    up = torch.randn(32, 4, generator=generator) * 0.05
    save_file({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}, path)
    expected = weights["video_model.blocks.1.ffn.0.weight"].float() + 0.5 * up @ down
    for file in (full, small):
        module = load_transformer_in_8_bits(file, loras=[(path, 0.5)])
        off = (widened(module) - expected).norm() / expected.norm()
        assert 0 < off < 0.05
        untouched = widened(module, "blocks.0.video.ffn.0")
        assert torch.equal(
            untouched, widened(load_transformer_in_8_bits(file), "blocks.0.video.ffn.0")
        )


def test_joined_projections_keep_every_rows_scale(full):
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(2)).bfloat16()
    plain = load_transformer_in_8_bits(full).get_submodule("blocks.0.video.self_attn")
    apart = torch.cat([layer(x) for layer in (plain.q, plain.k, plain.v)], dim=-1)
    model = fuse_projections(load_transformer_in_8_bits(full))
    joined = model.get_submodule("blocks.0.video.self_attn").qkv
    assert joined.weight.dtype == torch.float8_e4m3fn and joined.weight_scale.shape == (384, 1)
    assert torch.equal(joined(x), apart)


def test_half_quantised_files_are_refused(small):
    broken = {k: v for k, v in load_file(small).items() if "1.ffn.0.weight_scale" not in k}
    save_file(broken, small.with_name("broken.safetensors"))
    with pytest.raises(CheckpointError, match="in part"):
        load_transformer_in_8_bits(small.with_name("broken.safetensors"))


def test_where_the_device_multiplies_in_8_bits_tokens_are_rounded_too(full, monkeypatch):
    """The CPU's product takes one scale only, so that the device's is spelled out here."""
    calls = []

    def product(x, weight, scale_a, scale_b, bias, out_dtype):
        calls.append((x.dtype, weight.dtype, scale_a.shape, scale_b.shape, weight.stride()))
        out = (x.float() * scale_a) @ (weight.float() * scale_b)
        return (out + bias.float()).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    linear = load_transformer_in_8_bits(full).get_submodule(LAYER)
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(4)).bfloat16()
    expected = linear(x)
    linear.in_8_bits = True
    off = (linear(x) - expected).float().norm() / expected.float().norm()
    assert linear(x).shape == (2, 5, 32) and 0 < off < 0.05
    narrow = torch.float8_e4m3fn
    assert calls[0] == (narrow, narrow, (10, 1), (1, 32), (1, 128))  # second one column by column


def test_a_device_without_such_products_widens_and_says_so(monkeypatch, caplog):
    bf16 = torch.bfloat16
    assert not scaled_linear.multiplies_in_8_bits(torch.device("cpu"), bf16)

    def refused(*_args, **_kwargs):
        raise RuntimeError("no such units")

    on_a_gpu(monkeypatch, refused)
    assert not scaled_linear.multiplies_in_8_bits(torch.device("cuda"), bf16)
    assert "cuda has no products in 8 bits" in caplog.text and "no such units" in caplog.text


def test_a_full_device_is_not_taken_for_one_without_such_products(monkeypatch):
    def full_up(*_args, **_kwargs):
        raise torch.OutOfMemoryError

    on_a_gpu(monkeypatch, full_up)
    with pytest.raises(torch.OutOfMemoryError):
        scaled_linear.multiplies_in_8_bits(torch.device("cuda"), torch.bfloat16)


def on_a_gpu(monkeypatch, product):
    monkeypatch.setattr(torch, "_scaled_mm", product)
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: torch.empty(16, 16))
    monkeypatch.setattr(torch, "ones", lambda *a, **k: torch.empty(16, 1))


def test_products_that_answer_in_bf16_only_are_not_used_for_other_formats(monkeypatch):
    def product(*_args, out_dtype, **_kwargs):
        if out_dtype is not torch.bfloat16:
            raise RuntimeError("Only bf16 high precision output types are supported")

    on_a_gpu(monkeypatch, product)
    formats = (torch.bfloat16, torch.float16, torch.float32)
    gpu = torch.device("cuda")
    found = [scaled_linear.multiplies_in_8_bits(gpu, dtype) for dtype in formats]
    assert found == [True, False, False]


def test_without_scales_it_is_a_linear_layer():
    plain, ours = torch.nn.Linear(8, 4), ScaledLinear(8, 4)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(ours(x), plain(x)) and ours.state_dict().keys() == plain.state_dict().keys()
