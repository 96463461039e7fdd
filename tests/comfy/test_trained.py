"""What `training export` writes is opened by the model loader and makes the terminal's clip."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from hallo_live_core import HalloLive, Placement, Request
from hallo_live_core.models.video_vae.latents import LatentScale
from training.config_reader import build
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.phases.export import export
from training.recipe import Recipe
from training.trainer import Trainer

from ..training_world import recipe_values, write_world
from .graphs import CLIP, MODEL, SAMPLER, SECONDS, SIDE, TEXT, tiny, with_inputs

PROMPT = "A clear test."


@pytest.fixture(scope="module")
def student(tmp_path_factory, tiny_models):
    """A student of two steps of stage 2 among the host's models."""
    root = write_world(tmp_path_factory.mktemp("trained"))
    recipe = build(Recipe, recipe_values(root, "train-hpdmd", run={"max_steps": 2}))
    processes = Processes(ParallelSettings(), cpu=True)
    Trainer(recipe, processes, Distillation(recipe, processes)).run()
    target = tiny_models / "diffusion_models" / "student.safetensors"
    export(root / "run", target)
    return target


def test_an_exported_student_makes_the_same_latents_in_the_host_as_in_the_terminal(
    server, student, tiny_models, tmp_path
):
    nodes = with_inputs(tiny("Two steps with separate decode"), MODEL, model_name=student.name)
    nodes = with_inputs(nodes, TEXT, raw_prompt=PROMPT)
    nodes = {number: nodes[number] for number in (MODEL, CLIP, TEXT, SAMPLER)}
    inputs = {"samples": [SAMPLER, 0], "filename_prefix": "latents/trained"}
    outputs = server.run(nodes | {"save": {"class_type": "SaveLatent", "inputs": inputs}})
    in_comfyui = load_file(server.file(outputs["save"]["latents"][0]))["latent_tensor"]
    models = tmp_path / "models"
    shutil.copytree(tiny_models, models)
    shutil.copy(student, models / "diffusion_models" / "hallolive_dit.safetensors")
    engine = HalloLive.load(models, placement=Placement.on("cpu"))
    seed = nodes[SAMPLER]["inputs"]["seed"]
    request = Request(prompt=PROMPT, seconds=SECONDS, seed=seed, height=SIDE, width=SIDE)
    blocks = torch.cat([block.video for block in engine.sample(request)], dim=1)
    ours = LatentScale.on(None).restore(blocks)
    torch.testing.assert_close(in_comfyui.transpose(1, 2), ours, rtol=1e-3, atol=1e-3)
