"""Whose loss the rewards of stage 2 weigh."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from training.config_reader import build
from training.losses.reward_weighting import RewardSettings, weigh
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.phases.reward_factors import RewardFactors
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


def gradients(world, who, samples):
    """Of the network whose loss is weighed, from four samples in micro-batches of `samples`."""
    rewards = {"judges": {JUDGE: "both"}, "weigh": who, "beta": 2.0}
    run = {"micro_batch": samples, "global_batch": 4}
    recipe = build(Recipe, recipe_values(world, "train-hpdmd", run=run, rewards=rewards))
    phase = Distillation(recipe, Processes(ParallelSettings(), cpu=True), HighJudge())
    batches = [tuple(range(first, first + samples)) for first in range(0, 4, samples)]
    micro_batches = [MicroBatch(0, numbers, numbers) for numbers in batches]
    phase.prepare(who, micro_batches)
    for micro_batch in micro_batches:
        logged = phase.backward(who, micro_batch, 1 / len(batches), lambda last: None)
    found = {name: p.grad for name, p in phase.learners[who].parameters.items()}
    return found, logged, phase.state()["histories"]


@pytest.mark.parametrize("who", ["student", "critic"])
def test_factors_do_not_depend_on_how_the_batch_is_cut(world, who):
    whole, logged, history = gradients(world, who, samples=4)
    parts, logged_by_one, history_by_one = gradients(world, who, samples=1)
    assert float(logged["scale/video"]) != 1
    assert float(logged_by_one["scale/video"]) == pytest.approx(float(logged["scale/video"]))
    assert history_by_one[JUDGE] == pytest.approx(history[JUDGE])
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=2e-4, atol=1e-6)


def test_every_process_gets_the_factors_of_its_own_clips():
    """Two micro-batches of two clips on the second of two processes."""
    scores = torch.arange(8.0, dtype=torch.float64).view(2, 2, 2)  # micro-batch, process, clip
    settings = RewardSettings(judges={JUDGE: "both"})
    peers = SimpleNamespace(count=2, rank=1, gather=lambda own: own)
    factors = RewardFactors(settings, HighJudge(), peers)
    found = factors.weigh([{JUDGE: of_batch.flatten()} for of_batch in scores])
    expected, _ = weigh({JUDGE: scores.flatten()}, settings, {})
    for judged, own in zip(found, expected.video.view(2, 2, 2)[:, 1], strict=True):
        assert torch.equal(judged.scales.video, own) and torch.equal(judged.scales.audio, own)
