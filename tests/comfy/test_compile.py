"""Compiled layers inside the real ComfyUI: the same clip, also with 8-bit weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from hallo_live_core.checkpoints.convert import convert_to_fp8

from .graphs import CLIP, MODEL, SAMPLER, TEXT, tiny, with_inputs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for the CPU"),
]


def latents(server, **inputs) -> torch.Tensor:
    """Picture latents of a clip of one block, by way of the host's SaveLatent."""
    graph = with_inputs(tiny("Two steps with separate decode"), MODEL, **inputs)
    graph = with_inputs(graph, SAMPLER, seconds=1)
    graph = {number: graph[number] for number in (MODEL, CLIP, TEXT, SAMPLER)}
    save = {"samples": [SAMPLER, 0], "filename_prefix": "latents/compiled"}
    outputs = server.run(graph | {"save": {"class_type": "SaveLatent", "inputs": save}})
    return load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]


PLAIN, EIGHT = "hallolive_dit.safetensors", "compiled_fp8.safetensors"
COMPILE_SECONDS = 900
"""Compiling a layer takes a minute on two idle cores."""


@pytest.mark.parametrize("name", [PLAIN, EIGHT])
def test_compiled_layers_make_the_same_clip(server, tiny_models, monkeypatch, name):
    folder = tiny_models / "diffusion_models"
    if name == EIGHT:
        convert_to_fp8(folder / PLAIN, folder / EIGHT)
    plain = latents(server, model_name=name)
    monkeypatch.setattr(server, "run_seconds", COMPILE_SECONDS)
    compiled = latents(server, model_name=name, compile="blocks")
    assert ((compiled - plain).norm() / plain.norm()).item() < 0.02
    assert "Traceback" not in server.tail()
