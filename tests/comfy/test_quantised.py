"""Transformers in 8 bits inside the real ComfyUI: close to bf16, in every layout, or refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo_live_core.checkpoints.convert import convert_to_fp8

from .graphs import CLIP, MODEL, SAMPLER, TEXT, tiny, with_inputs

CLOSE = 0.1
"""Of the norm: how far latents may move when every matrix moves by 2.6 %; 0.06 was measured after
ten passes. Latents that have nothing to do with each other are 1.4 apart."""


@pytest.fixture(scope="module")
def folder(tiny_models):
    return tiny_models / "diffusion_models"


@pytest.fixture(scope="module")
def scaled(folder):
    convert_to_fp8(folder / "hallolive_dit.safetensors", folder / "scaled.safetensors")
    return load_file(folder / "scaled.safetensors")


def graph_with(model: str, weight_dtype: str = "default") -> dict:
    graph = with_inputs(
        tiny("Two steps with separate decode"),
        MODEL,
        model_name=model,
        weight_dtype=weight_dtype,
    )
    graph = {number: graph[number] for number in (MODEL, CLIP, TEXT, SAMPLER)}
    inputs = {"samples": [SAMPLER, 0], "filename_prefix": "latents/quantised"}
    return graph | {"save": {"class_type": "SaveLatent", "inputs": inputs}}


def latents(server, model: str, weight_dtype: str = "default") -> torch.Tensor:
    """Picture latents of a short clip, by way of the host's SaveLatent."""
    outputs = server.run(graph_with(model, weight_dtype))
    return load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def test_scaled_8_bit_weights_stay_close_to_bf16_in_both_layouts(server, folder, scaled):
    old = {k: v for k, v in scaled.items() if not k.endswith(".comfy_quant")}
    old = {k.replace(".weight_scale", ".scale_weight"): v for k, v in old.items()}
    old["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    save_file(old, folder / "legacy.safetensors")
    full = latents(server, "hallolive_dit.safetensors", "bf16")
    small = latents(server, "scaled.safetensors")
    assert 0 < off(small, full) < CLOSE
    assert torch.equal(latents(server, "legacy.safetensors"), small)


def test_the_host_keeps_them_in_8_bits_unless_bf16_is_chosen(server, scaled):
    narrow, wide = (
        latents(server, "scaled.safetensors"),
        latents(server, "scaled.safetensors", "bf16"),
    )
    assert off(wide, narrow) < CLOSE / 2
    assert "mixed precision" in server.log.read_text(errors="replace")


def test_weights_that_are_quantised_in_part_are_refused_in_one_line(server, folder, scaled):
    broken = {k: v for k, v in scaled.items() if k != "video_model.blocks.1.ffn.0.weight_scale"}
    save_file(broken, folder / "refused.safetensors")
    error = server.error_of(graph_with("refused.safetensors"))
    assert "quantised in part" in error and "ffn.0 has no scale" in error and "Fix:" in error
