"""The report of `train-tiny`: what every student's clips are like, and which claims that shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..recipe import Recipe
from ..types import Latents
from .measures import Estimate, border_lag, energy_distance, lag_error, reward
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
    claims = [
        ("stage 1 lowers the held-out error", errors["ode"], errors["untrained"]),
        (
            "stage 2 comes closer to the teacher",
            _distance("dmd", evidence),
            _distance("ode", evidence),
        ),
        ("the reward rises: weights in the student's loss", rewards["dmd"], rewards["dmd-reward"]),
        ("the reward rises: weights in the critic's loss", rewards["dmd"], rewards["dmd-tilted"]),
        ("look-ahead: the picture is less late, stage 1", lags["ode-ahead"], lags["ode"]),
        ("look-ahead: the picture is less late, stage 2", lags["dmd-ahead"], lags["dmd"]),
    ]
    lines = ["| claim: left below right | left | right | shown |", "|---|---|---|---|"]
    for claim, left, right in claims:
        lines.append(f"| {claim} | {left} | {right} | {left.below(right)} |")
    return lines


def _distance(name: str, evidence: Evidence) -> Estimate:
    wanted = torch.cat([measure(clips).places for clips in evidence.teacher])
    return energy_distance(measure(evidence.samples[name]).places, wanted)


def _row(title: str, clips: Latents, distance: Estimate, evidence: Evidence) -> str:
    brightness = Estimate.of(measure(clips).brightness.mean(dim=1))
    frames = range(evidence.recipe.clip.video_latents - LEAD)
    apart = lag_error(clips, lead=LEAD, frames=frames)
    numbers = (distance, brightness, reward(clips), apart, evidence.lag(clips))
    return f"| {title} | {' | '.join(map(str, numbers))} |"
