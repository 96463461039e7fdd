"""Whose loss the rewards of stage 2 weigh."""

from __future__ import annotations

import pytest

from training.config_reader import build
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.recipe import Recipe
from training.toy.measures import JUDGE, HighJudge
from training.trainer import MicroBatch

from ..training_world import recipe_values, write_world

BATCH = MicroBatch(0, (0, 1, 2, 3), (0, 1, 2, 3))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def metrics(world, **rewards):
    """What student and critic log of one micro-batch."""
    groups = {"rewards": {"judges": {JUDGE: "both"}} | rewards} if rewards else {}
    recipe = build(Recipe, recipe_values(world, "train-hpdmd", run={"micro_batch": 4}, **groups))
    phase = Distillation(recipe, Processes(ParallelSettings(), cpu=True), HighJudge())
    return {name: phase.backward(name, BATCH, 1.0, lambda last: None) for name in phase.learners}


@pytest.mark.parametrize(("who", "other"), [("student", "critic"), ("critic", "student")])
def test_only_the_chosen_ones_clips_are_judged(world, who, other):
    found = metrics(world, weigh=who)
    assert f"reward/{JUDGE}" in found[who]
    assert f"reward/{JUDGE}" not in found[other]


def test_the_critic_is_weighed_by_the_inverse_factors(world):
    """With exponents far below the bound, factors and their inverses have a product of about 1."""
    found = metrics(world, weigh="critic", beta=0.1, history=False)["critic"]
    plain = metrics(world)["critic"]
    assert found["scale/video"] == pytest.approx(1, abs=0.02)
    assert found["loss"] != plain["loss"]
    assert found["loss"] == pytest.approx(float(plain["loss"]), rel=0.2)
