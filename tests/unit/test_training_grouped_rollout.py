"""Exit steps per sample: a batch is its samples alone, in clips, gradients and random numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from training.config_reader import RecipeError, build
from training.distillation import DistillationSettings, critic_backward, generator_backward
from training.draws import GroupedDraw, RolloutDraw
from training.grouped_rollout import roll_out_groups, roll_out_groups_for_gradient
from training.losses.dmd import DMDSettings
from training.parallel import ParallelSettings, Processes
from training.phases.distill import Distillation
from training.recipe import Recipe
from training.rollout import RolloutSettings, roll_out_for_gradient
from training.schedules import ScoreTimeSettings, exit_interval
from training.trainer import Trainer
from training.types import Latents

from ..training_world import recipe_values, write_world
from .training_models import (
    assert_same_gradients,
    gradients,
    learner,
    like,
    networks,
    part,
    prompts,
    rollout_draw,
    shape,
    step_draw,
)

OF = shape(blocks=2, batch=4, lookahead=2)
ONE = replace(OF, clip=replace(OF.clip, batch=1))
EXITS = ((1, 0), (0, 0), (1, 0), (1, 1))
"""Of four samples; the first and the third leave at the same steps."""

MIXED = 1
"""A batch whose four samples do not all draw the same exit."""

PER_SAMPLE = RolloutSettings(exit_steps="per_sample")
SETTINGS = {
    "one exit": DistillationSettings(PER_SAMPLE),
    "an exit per block": DistillationSettings(replace(PER_SAMPLE, same_step_across_blocks=False)),
    "decoupled, from the exit": DistillationSettings(
        PER_SAMPLE, DMDSettings(decoupled=True), ScoreTimeSettings(from_exit=True)
    ),
}
STEPS = {"generator": generator_backward, "critic": critic_backward}


def grouped() -> GroupedDraw:
    both = replace(OF, clip=replace(OF.clip, batch=2))
    drawn = rollout_draw(both, 1, 0)
    drawn.noise.draws = replace(drawn.noise.draws, samples=(0, 2))
    alone = [((i,), rollout_draw(ONE, *EXITS[i], first=i)) for i in (3, 1)]
    return GroupedDraw((alone[0], ((0, 2), drawn), alone[1]))


@pytest.mark.parametrize("history", ["detached", "straight_through"])
@pytest.mark.parametrize("recompute", [True, False])
def test_clips_and_gradients_are_those_of_every_sample_alone(history, recompute):
    settings = RolloutSettings(history_gradient=history, recompute=recompute)
    together, alone, text = learner(), learner(), prompts(4)
    made = roll_out_groups_for_gradient(together, text.positive, OF, grouped(), settings)
    outward = like(made.latents, 7)
    made.backward(outward, scale=0.5)
    for i, exits in enumerate(EXITS):
        own, given = slice(i, i + 1), part(text, slice(i, i + 1)).positive
        draw = rollout_draw(ONE, *exits, first=i)
        single = roll_out_for_gradient(alone, given, ONE, draw, settings)
        for a, b in zip(made.latents, single.latents, strict=True):
            torch.testing.assert_close(a[own], b, rtol=1e-10, atol=1e-12)
        single.backward(Latents(*(g[own] for g in outward)), scale=0.5)
    assert_same_gradients(gradients(together), gradients(alone), 1e-9)


def test_without_gradient_the_same_clips_are_made():
    student, text = learner(), prompts(4).positive
    clips = roll_out_groups(student, text, OF, grouped())
    made = roll_out_groups_for_gradient(student, text, OF, grouped(), PER_SAMPLE)
    assert all(torch.equal(a, b) for a, b in zip(clips, made.latents, strict=True))


def test_a_samples_gradient_comes_from_its_own_exit_step_only():
    """Sent to one sample alone, it is the same whatever the others' exits."""
    found = []
    for other in ((0, 0), (1, 1)):
        student = learner()
        two = replace(OF, clip=replace(OF.clip, batch=2))
        groups = (((0,), rollout_draw(ONE, 1, 0)), ((1,), rollout_draw(ONE, *other, first=1)))
        made = roll_out_groups_for_gradient(
            student, prompts(2).positive, two, GroupedDraw(groups), PER_SAMPLE
        )
        outward = like(made.latents, 7)
        made.backward(Latents(*(torch.cat([g[:1], 0 * g[1:]]) for g in outward)))
        found.append(gradients(student))
    assert_same_gradients(*found)


def test_only_the_last_piece_of_the_last_group_is_announced_as_the_last():
    told = []
    made = roll_out_groups_for_gradient(learner(), prompts(4).positive, OF, grouped(), PER_SAMPLE)
    made.backward(like(made.latents, 7), before=told.append)
    assert told == [False] * 5 + [True]


def gradient_of(step, settings, pieces):
    """Of student and critic, for the samples 0 to 3 in pieces."""
    nets = networks()
    for samples in pieces:
        of = replace(OF, clip=replace(OF.clip, batch=len(samples)))
        draw = step_draw(of, settings, samples, MIXED)
        if step == "critic":
            draw = draw._replace(scores=step_draw(of, SETTINGS["one exit"], samples, MIXED).scores)
        given = part(prompts(4), slice(samples[0], samples[-1] + 1))
        STEPS[step](nets, given, of, draw, settings, scale=len(samples) / 4)
    return gradients(nets.student), gradients(nets.critic)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("step", STEPS)
def test_a_batch_with_exits_of_its_samples_may_be_cut_anywhere(step, name):
    settings = SETTINGS[name]
    assert len(step_draw(OF, settings, (0, 1, 2, 3), MIXED).rollout.groups) > 1
    whole = gradient_of(step, settings, [(0, 1, 2, 3)])
    cut = gradient_of(step, settings, [(0,), (1, 2), (3,)])
    for a, b in zip(whole, cut, strict=True):
        assert_same_gradients(a, b, 1e-9)


def test_every_sample_is_in_one_group_and_all_of_a_group_leave_alike():
    for batch in range(5):
        groups = step_draw(OF, SETTINGS["an exit per block"], (0, 1, 2, 3), batch).rollout.groups
        assert sorted(place for places, _ in groups for place in places) == [0, 1, 2, 3]
        assert len({draw.exits for _, draw in groups}) == len(groups)


def test_score_times_keep_to_the_exit_of_their_own_sample():
    settings = SETTINGS["decoupled, from the exit"]
    for batch in range(10):
        drawn = step_draw(OF, settings, (0, 1, 2, 3), batch)
        for places, draw in drawn.rollout.groups:
            high, low = exit_interval(OF.schedule, draw.exits[0])
            for place in places:
                assert drawn.scores.raw[place] >= low
                assert low <= drawn.scores.guidance_raw[place] < high


def test_the_default_is_one_exit_for_all_samples():
    assert isinstance(step_draw(OF, DistillationSettings(), (0, 1, 2, 3)).rollout, RolloutDraw)


def test_the_mean_exit_counts_samples_not_groups():
    assert grouped().mean_exit == pytest.approx(sum(map(sum, EXITS)) / 8)


def test_a_run_trains_and_logs_the_mean_exit(tmp_path):
    world = write_world(tmp_path)
    values = recipe_values(
        world,
        "train-hpdmd",
        run={"max_steps": 2, "micro_batch": 2},
        rollout={"exit_steps": "per_sample"},
        generator_every=1,
    )
    recipe, processes = build(Recipe, values), Processes(ParallelSettings(), cpu=True)
    Trainer(recipe, processes, Distillation(recipe, processes)).run()
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert all(0 <= json.loads(row)["student/exit"] <= 3 for row in rows) and len(rows) == 2


def test_sharded_networks_are_refused_because_passes_wait_for_all(tmp_path):
    values = recipe_values(tmp_path, "train-hpdmd", rollout={"exit_steps": "per_sample"})
    with pytest.raises(RecipeError, match="different numbers of passes"):
        Distillation(build(Recipe, values), SimpleNamespace(sharded=True))
