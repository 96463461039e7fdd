"""The report of `train-tiny`: what every student's clips are like, and which claims that shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..recipe import Recipe
from ..types import Latents
from .measures import Estimate, border_lag, energy_distance, energy_gain, lag_error, reward
from .world import LEAD, measure

STUDENTS = {
    "untrained": "an untrained network",
    "ode": "stage 1",
    "dmd": "stage 2, plain",
    "dmd-reward": "stage 2, reward in the student's loss",
    "dmd-tilted": "stage 2, reward in the critic's loss",
    "ode-ahead": "stage 1, look-ahead",
    "dmd-ahead": "stage 2, look-ahead",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run has made.

    samples: clips of every student. teacher: two sets of its clips; together they are what students
    are compared with, and each other's noise floor. errors: of stage 1 on held-out trajectories.
    """

    samples: dict[str, Latents]
    teacher: tuple[Latents, Latents]
    errors: dict[str, Estimate]
    recipe: Recipe

    def out_of_step(self, clips: Latents) -> Estimate:
        """See `lag_error`; over all frames."""
        return lag_error(clips, lead=LEAD, frames=range(self.recipe.clip.video_latents - LEAD))

    def lag(self, clips: Latents) -> Estimate:
        """See `border_lag`."""
        return border_lag(clips, lead=LEAD, block=self.recipe.blocks.video_latents)


def report(evidence: Evidence) -> str:
    """The tables; they say what was found, whatever it is."""
    held_out = ", ".join(f"{name} {error.mean:.5f}" for name, error in evidence.errors.items())
    return "\n".join(
        [
            *_clips_table(evidence),
            "",
            f"Held-out error of stage 1: {held_out} (`teacher` is where stage 1 starts).",
            "",
            *_claims_table(evidence),
            "",
        ]
    )


def _clips_table(evidence: Evidence) -> list[str]:
    one, other = evidence.teacher
    floor = energy_distance(measure(one).places, measure(other).places)
    columns = ("clips of", "distance to the teacher", "brightness", "mean reward")
    columns += ("out of step", "late at borders")
    lines = [
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
        _row("the teacher", one, floor, evidence),
    ]
    for name, title in STUDENTS.items():
        lines.append(_row(title, evidence.samples[name], _distance(name, evidence), evidence))
    return lines


def _claims_table(evidence: Evidence) -> list[str]:
    errors, samples = evidence.errors, evidence.samples
    rewards = {name: reward(clips) for name, clips in samples.items()}
    lags = {name: evidence.lag(clips) for name, clips in samples.items()}
    distances = {name: _distance(name, evidence) for name in ("ode", "dmd")}
    places = {name: measure(samples[name]).places for name in distances}
    gain = energy_gain(places["ode"], places["dmd"], _wanted(evidence))
    teacher = evidence.out_of_step(evidence.teacher[0])
    steps = {name: evidence.out_of_step(samples[name]).off(teacher) for name in distances}
    lines = ["| claim: left below right | left | right | difference | shown |"]
    lines.append("|---|---|---|---|---|")
    for claim, left, right, difference in (
        ("stage 1 lowers the held-out error", errors["ode"], errors["untrained"], None),
        ("stage 2 comes closer to the teacher", distances["dmd"], distances["ode"], gain),
        ("stage 2 is out of step by as much as the teacher", *_pair(steps, "dmd", "ode")),
        ("the reward rises: weights in the student's loss", *_pair(rewards, "dmd", "dmd-reward")),
        ("the reward rises: weights in the critic's loss", *_pair(rewards, "dmd", "dmd-tilted")),
        ("look-ahead: the picture is less late, stage 1", *_pair(lags, "ode-ahead", "ode")),
        ("look-ahead: the picture is less late, stage 2", *_pair(lags, "dmd-ahead", "dmd")),
    ):
        apart = difference or right.minus(left)
        lines.append(f"| {claim} | {left} | {right} | {apart} | {apart.positive} |")
    return lines


def _pair(found: dict[str, Estimate], left: str, right: str) -> tuple[Estimate, Estimate, None]:
    return found[left], found[right], None


def _wanted(evidence: Evidence) -> Tensor:
    """Places in all clips of the teacher."""
    return torch.cat([measure(clips).places for clips in evidence.teacher])


def _distance(name: str, evidence: Evidence) -> Estimate:
    return energy_distance(measure(evidence.samples[name]).places, _wanted(evidence))


def _row(title: str, clips: Latents, distance: Estimate, evidence: Evidence) -> str:
    brightness = Estimate.of(measure(clips).brightness.mean(dim=1))
    apart, late = evidence.out_of_step(clips), evidence.lag(clips)
    numbers = (distance, brightness, reward(clips), apart, late)
    return f"| {title} | {' | '.join(map(str, numbers))} |"
