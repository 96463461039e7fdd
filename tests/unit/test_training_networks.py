"""Which network of which file learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hallo_live_core.checkpoints.files import read_file
from hallo_live_core.errors import CheckpointError
from training.config_reader import build
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.recipe import Recipe
from training.toy.files import write_network

from ..training_world import CONFIG, recipe_values, write_world

ONE_HEAD = replace(
    CONFIG,
    video=replace(CONFIG.video, num_heads=1),
    audio=replace(CONFIG.audio, dim=CONFIG.video.dim),
)
"""The reference's checkpoints do not say their sizes; so many heads are found out."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world"))
    write_network(root / "network.safetensors", ONE_HEAD, seed=1)
    return root


def stage_2(world, **model):
    """The first number of what student and critic begin with."""
    recipe = build(Recipe, recipe_values(world, "train-hpdmd", model=model))
    phase = Distillation(recipe, Processes(ParallelSettings(), cpu=True))
    return {name: first(one.parameters) for name, one in phase.learners.items()}


def first(tensors):
    return float(tensors["video_model.head.head.weight"].detach().flatten()[0])


def reference_file(world, name, **values):
    """A checkpoint as the research code writes it; every network is full of one number."""
    file = read_file(world / "network.safetensors")
    content = {
        entry: {f"model.{key}": torch.full_like(t, value) for key, t in file.tensors.items()}
        for entry, value in values.items()
    }
    torch.save(content, world / name)
    return str(world / name)


def test_stage_2_goes_on_with_student_and_critic_of_the_references_checkpoint(world):
    path = reference_file(world, "model.pt", generator=1.0, critic=2.0, generator_ema=3.0)
    assert stage_2(world, student=path, critic=path) == {"student": 1.0, "critic": 2.0}


def test_a_critic_that_is_not_named_begins_as_the_teacher(world):
    path = reference_file(world, "model.pt", generator=1.0, critic=2.0)
    teacher = first(read_file(world / "network.safetensors").tensors)
    assert stage_2(world, student=path)["critic"] == teacher


def test_a_checkpoint_without_a_critic_is_no_critic(world):
    path = reference_file(world, "stage_1.pt", generator=1.0)
    with pytest.raises(CheckpointError, match="no critic"):
        stage_2(world, student=path, critic=path)
