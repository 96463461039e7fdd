"""The toy world goes from nothing to a student that the terminal opens."""

from __future__ import annotations

import pytest
import torch

from hallo_live_core.cli import main as hallo_live
from training.data.ode_pairs import ClipSize
from training.toy.measures import border_lag, energy_distance, energy_gain, lag_error
from training.toy.run import SMALL, Budget, Toy
from training.toy.world import (
    AMPLITUDE,
    JUMP_EVERY,
    colour_of,
    make_clips,
    measure,
    toy_prompts,
)

SIZE = ClipSize(12, 60, 2, 2)

SHOWN = (
    "stage 1 lowers the held-out error",
    "stage 2 is out of step by as much as the teacher",
    "the reward rises: weights in the critic's loss",
    "look-ahead: the picture is less late, stage 1",
    "look-ahead: the picture is less late, stage 2",
)
"""Claims that lie far beyond noise, with other seeds as well (training/README.md)."""


def test_what_is_drawn_into_a_clip_can_be_measured_again():
    prompts = toy_prompts()
    together, ahead = (make_clips(prompts, SIZE, 1, lead=lead) for lead in (0, 2))
    found = measure(together)
    assert found.colour.tolist() == [colour_of(prompt) for prompt in prompts]
    assert (found.seen - found.heard).abs().mean() < 0.05
    assert found.brightness.mean() == pytest.approx(AMPLITUDE, rel=0.02)
    frames = range(10)
    right, wrong = (lag_error(ahead, lead=lead, frames=frames) for lead in (2, 0))
    assert right.below(wrong) == "yes"
    assert right.mean < 0.05


def test_a_picture_that_comes_late_at_borders_is_told():
    prompts = toy_prompts() * 8
    lags = [
        border_lag(make_clips(prompts, SIZE, 1, lead=lead), lead=2, block=6).mean
        for lead in (2, 1, 0)
    ]
    assert lags[0] < 0.2
    assert lags[1] == pytest.approx(1, abs=0.2)
    assert 1.4 < lags[2] <= 2  # a picture that jumped to and fro may be right by chance


def test_a_light_jumps_between_both_ends_of_its_scale():
    found = measure(make_clips(toy_prompts() * 8, SIZE, 1))
    high = found.seen > 0.5
    assert high.float().mean() == pytest.approx(0.5, abs=0.05)
    crossings = (high[:, 1:] != high[:, :-1]).float().mean()
    assert crossings == pytest.approx(0.5 / JUMP_EVERY, abs=0.02)


def test_the_distance_of_sets_tells_the_same_world_from_another():
    prompts = toy_prompts() * 4
    one, other = (measure(make_clips(prompts, SIZE, seed)).places for seed in (1, 2))
    same = energy_distance(one, other)
    assert abs(same.mean) < 0.1
    assert same.below(energy_distance(one, other + 0.2)) == "yes"


def test_of_two_sets_the_closer_one_is_told_with_less_noise_than_their_distances_have():
    rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    wanted, near = rows[:200], rows[200:] + 0.3
    gain = energy_gain(near + 0.05, near, wanted)
    assert gain.positive == "yes"
    far, close = (energy_distance(x, wanted) for x in (near + 0.05, near))
    assert gain.mean == pytest.approx(far.mean - close.mean)
    assert close.below(far) == "not beyond noise"
    assert energy_gain(near, near, wanted).mean == 0


@pytest.mark.slow
def test_all_phases_end_in_a_student_that_generates(tmp_path):
    said: list[str] = []
    table = Toy(tmp_path / "toy", SMALL, said.append).run()
    assert all(row in table for row in ("the teacher", "stage 1", "stage 2, reward", "shown"))
    assert said[0].startswith("world")
    clip = tmp_path / "clip.mp4"
    models = tmp_path / "toy/models"
    request = [toy_prompts()[0], "--models", str(models), "--seconds", "1", "--size", "32x32"]
    assert hallo_live(["generate", *request, "--device", "cpu", "-o", str(clip)]) == 0
    assert clip.stat().st_size > 0


@pytest.mark.slow
def test_students_of_the_toy_world_learn_what_is_claimed(tmp_path):
    """`make train-tiny` whole: some ten minutes on two cores."""
    table = Toy(tmp_path / "toy", Budget(), lambda _: None).run()
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    answers = {cells[1]: cells[-2] for cells in rows if len(cells) > 2}
    assert {claim: answers[claim] for claim in SHOWN} == dict.fromkeys(SHOWN, "yes")
    assert answers["stage 2 comes closer to the teacher"] != "no"
