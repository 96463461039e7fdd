"""A teacher whose matrices are in 8 bits: near the wide one, and only where it is alone."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hallo_live_core.checkpoints.eight_bit import transformer_nbytes
from hallo_live_core.config import HALLO_5B
from hallo_live_core.models.dit.scaled_linear import ScaledLinear
from hallo_live_core.types import TextContext
from training.cli import main
from training.config_reader import RecipeError, build
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.recipe import Recipe
from training.scores import predict_flow
from training.toy.world import TEXT_DIM
from training.trainer import Trainer
from training.types import Latents

from ..training_world import CONFIG, recipe_values, write_world

RECIPES = Path(__file__).parents[2] / "training/recipes"
BOUND = 0.02
"""Relative error of the flow; one rounded matrix is off by up to 2^-4 of each value."""
FP8 = {"teacher_weights": "fp8"}
GIB = 2**30


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def stage_2(world, processes=None, **groups):
    recipe = build(Recipe, recipe_values(world, "train-hpdmd", **groups))
    return Distillation(recipe, processes or Processes(ParallelSettings(), cpu=True))


@pytest.fixture(scope="module")
def both(world):
    return stage_2(world), stage_2(world, model=FP8)


def flow(network) -> Latents:
    drawn = torch.Generator().manual_seed(3)
    video = torch.randn(2, 2, CONFIG.video.in_channels, 2, 4, generator=drawn)
    audio = torch.randn(2, 10, CONFIG.audio.in_channels, generator=drawn)
    words = torch.randn(2, 4, TEXT_DIM, generator=drawn)
    with torch.no_grad():
        times = torch.tensor([200.0, 800.0])
        return predict_flow(network, Latents(video, audio), TextContext(words, words), times)


def test_its_flow_differs_from_the_wide_ones_by_less_than_the_bound(both):
    wide, narrow = (flow(phase.networks.teacher) for phase in both)
    for a, b in zip(wide, narrow, strict=True):
        assert 0 < (a - b).norm() / a.norm() < BOUND


def test_its_matrices_are_kept_in_8_bits_and_what_they_multiply_is_not_rounded(both):
    teacher = both[1].networks.teacher
    scaled = [m for m in teacher.modules() if getattr(m, "weight_scale", None) is not None]
    assert scaled and all(isinstance(m, ScaledLinear) and not m.in_8_bits for m in scaled)
    assert {m.weight.dtype for m in scaled} == {torch.float8_e4m3fn}
    assert not any(p.requires_grad for p in teacher.parameters())


def test_student_and_critic_stay_wide(both):
    for name in ("student", "critic"):
        one, other = (phase.learners[name].weights for phase in both)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_says_that_its_teacher_is_in_8_bits(world, caplog):
    with caplog.at_level(logging.WARNING):
        stage_2(world, model=FP8)
    assert "in 8 bits" in caplog.text


def test_a_run_learns_from_it_and_goes_on_after_a_save(world, tmp_path):
    for steps in (1, 2):
        run = {"folder": str(tmp_path / "run"), "max_steps": steps}
        recipe = build(Recipe, recipe_values(world, "train-hpdmd", model=FP8, run=run))
        processes = Processes(ParallelSettings(), cpu=True)
        phase = Distillation(recipe, processes)
        trainer = Trainer(recipe, processes, phase)
        trainer.run()
        assert (trainer.counters.step, trainer.counters.bad) == (steps, 0)


def test_adapters_on_the_teachers_file_are_refused(world):
    adapters = {"adapters": {"rank": 2}, "train": {"partial": True}}
    with pytest.raises(RecipeError, match="adapters stand on the teacher's file"):
        stage_2(world, model=FP8, **adapters)


def test_a_network_in_pieces_is_refused_before_anything_is_read(world):
    nowhere = {"student": "no such file"}
    with pytest.raises(RecipeError, match="sharding is on"):
        stage_2(world, processes=SimpleNamespace(sharded=True), model=FP8 | nowhere)


def test_other_phases_refuse_it(world):
    with pytest.raises(RecipeError, match="is for train-hpdmd"):
        build(Recipe, recipe_values(world, "make-ode-pairs", model=FP8))


def test_a_dry_run_counts_it(capsys):
    recipe, row = str(RECIPES / "hpdmd_5b.yaml"), "teacher: weights, matrices in 8 bits"
    command = ["train-hpdmd", "--config", recipe, "--dry-run", "--world", "1"]
    assert main([*command, "parallel.shard=no", "model.teacher_weights=fp8"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if row in x]
    expected = transformer_nbytes(HALLO_5B, torch.bfloat16, in_8_bits=True) / GIB
    assert float(line.split()[-1]) == pytest.approx(expected, abs=0.06)
    assert 1 < expected * GIB / 11_660_753_108 < 1.1  # a byte each, and the rest in two
