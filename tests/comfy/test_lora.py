"""The LoRA node inside the real ComfyUI: as strong as asked, and gone without a trace."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from hallo_live_core import HalloLive, Placement, Request
from hallo_live_core.checkpoints.convert import convert, convert_to_fp8
from hallo_live_core.models.video_vae.latents import LatentScale

from .graphs import CLIP, MODEL, SAMPLER, SECONDS, SIDE, TEXT, tiny, with_inputs

LORA = "lora"
LAYERS = "video_model.blocks.0.ffn.0", "video_model.blocks.1.self_attn.v"


@pytest.fixture(scope="module")
def transformer(tiny_models):
    return tiny_models / "diffusion_models" / "hallolive_dit.safetensors"


@pytest.fixture(scope="module")
def lora(tiny_models, transformer):
    """A change about as large as the weights, in the file names' and layers' usual form."""
    generator, weights, tensors = torch.Generator().manual_seed(0), load_file(transformer), {}
    for layer in LAYERS:
        outputs, inputs = weights[f"{layer}.weight"].shape
        name = f"diffusion_model.{layer}"
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, inputs, generator=generator) / 8
        tensors[f"{name}.lora_up.weight"] = torch.randn(outputs, 4, generator=generator) / 4
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    path = tiny_models / "loras" / "style.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    return path


def graph(strength: float | None, *, model: str = "hallolive_dit.safetensors") -> dict:
    """Sampling to a latent file; strength None is without the node."""
    nodes = with_inputs(tiny("Two steps with separate decode"), MODEL, model_name=model)
    nodes = {number: nodes[number] for number in (MODEL, CLIP, TEXT, SAMPLER)}
    if strength is not None:
        inputs = {"model": [MODEL, 0], "lora_name": "style.safetensors", "strength": strength}
        nodes[LORA] = {"class_type": "HalloLiveLora", "inputs": inputs}
        nodes = with_inputs(nodes, SAMPLER, model=[LORA, 0])
    inputs = {"samples": [SAMPLER, 0], "filename_prefix": "latents/lora"}
    return nodes | {"save": {"class_type": "SaveLatent", "inputs": inputs}}


def latents(server, strength: float | None, **how) -> torch.Tensor:
    outputs = server.run(graph(strength, **how))
    return load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def test_the_node_changes_the_clip_as_merging_does_and_its_removal_leaves_no_trace(
    server, lora, transformer, tiny_models
):
    before = latents(server, None)
    changed = latents(server, 0.75)
    after = latents(server, None)
    assert torch.equal(after, before)
    assert off(changed, before) > 0.05
    engine = HalloLive.load(tiny_models, placement=Placement.on("cpu"), loras=[(lora, 0.75)])
    settings = graph(None)[SAMPLER]["inputs"]
    prompt = "A clear test."
    with_prompt = with_inputs(graph(0.75), TEXT, raw_prompt=prompt)
    outputs = server.run(with_prompt)
    in_comfyui = load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]
    request = Request(
        prompt=prompt, seconds=SECONDS, seed=settings["seed"], height=SIDE, width=SIDE
    )
    blocks = torch.cat([block.video for block in engine.sample(request)], dim=1)
    ours = LatentScale.on(None).restore(blocks)
    torch.testing.assert_close(in_comfyui.transpose(1, 2), ours, rtol=1e-3, atol=1e-3)


def test_strength_counts_and_zero_is_nothing(server, lora):
    without, nothing = latents(server, None), latents(server, 0.0)
    weak, strong = latents(server, 0.25), latents(server, 1.0)
    assert torch.equal(nothing, without)
    assert 0 < off(weak, without) < off(strong, without)


def test_two_of_them_add_up(server, lora):
    chained = copy.deepcopy(graph(0.5))
    chained["second"] = copy.deepcopy(chained[LORA])
    chained["second"]["inputs"]["model"] = [LORA, 0]
    chained = with_inputs(chained, SAMPLER, model=["second", 0])
    outputs = server.run(chained)
    twice = load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]
    torch.testing.assert_close(twice, latents(server, 1.0), rtol=1e-3, atol=1e-3)


def test_it_works_upon_8_bit_weights_and_goes_again(server, lora, transformer):
    convert_to_fp8(transformer, transformer.with_name("eight.safetensors"))
    convert(transformer, transformer.with_name("merged.safetensors"), loras=[(lora, 1.0)])
    before = latents(server, None, model="eight.safetensors")
    changed = latents(server, 1.0, model="eight.safetensors")
    assert torch.equal(latents(server, None, model="eight.safetensors"), before)
    merged = latents(server, None, model="merged.safetensors")
    assert off(changed, merged) < off(before, merged)


def test_a_lora_of_another_model_is_refused_in_one_line(server, lora):
    tensors = load_file(lora) | {"diffusion_model.layers.0.lora_down.weight": torch.ones(1, 1)}
    save_file(tensors, lora.with_name("other.safetensors"))
    error = server.error_of(with_inputs(graph(1.0), LORA, lora_name="other.safetensors"))
    assert "other.safetensors is not a LoRA of this transformer" in error
    assert "1 of 7 names are unknown" in error and "Fix:" in error
