"""What the table of `train-tiny` says: errors, distances between sets of clips, rewards, lags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.rewards.combine import as_scores
from hallo_live_core.types import TextContext

from ..data.embeddings import TextStore
from ..data.ode_pairs import AUDIO, VIDEO, open_pairs
from ..draws import DrawnNoise, Draws, RolloutDraw, draw_states
from ..losses.ode import ode_loss
from ..phases.batches import clip_shape
from ..recipe import Recipe
from ..rollout import RolloutShape, roll_out
from ..types import Latents
from .world import measure

JUDGE = "high"
"""The toy's reward: how high the hue is."""

MIDDLE = 0.5
"""Between the two ends of the scale."""

RESAMPLES = 50

AT_ONCE = 64
"""Clips that are made together."""


class HighJudge:
    """Likes clips whose light has a high hue; see `phases.batches.LatentJudge`."""

    def score(self, clips: Latents, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Mean place of the light, of 0..1."""
        seen = measure(clips).seen.mean(dim=1)
        assert len(seen) == len(prompts)
        return {JUDGE: as_scores(seen.tolist())}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over clips and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """values: one per clip."""
        return cls(float(values.mean()), float(values.std() / len(values) ** 0.5))

    def minus(self, other: Estimate) -> Estimate:
        """The difference of two that have nothing in common."""
        return Estimate(self.mean - other.mean, (self.error**2 + other.error**2) ** 0.5)

    def off(self, goal: Estimate) -> Estimate:
        """How far this mean is from another."""
        apart = self.minus(goal)
        return Estimate(abs(apart.mean), apart.error)

    @property
    def positive(self) -> str:
        """Whether this lies above 0, as far as two standard errors can tell."""
        if abs(self.mean) <= 2 * self.error:
            return "not beyond noise"
        return "yes" if self.mean > 0 else "no"

    def below(self, other: Estimate) -> str:
        """Whether this mean lies below another."""
        return other.minus(self).positive

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f}"


def energy_distance(one: Tensor, other: Tensor) -> Estimate:
    """Energy distance of two sets of rows, unbiased: 0 on average for the same distribution.

    The error is the spread over bootstrap resamples of half the rows.
    """
    spread = [_energy(one[i], other[k]) for i, k in _halves(len(one), len(other))]
    return Estimate(_energy(one, other), float(torch.tensor(spread).std()) / 2**0.5)


def energy_gain(one: Tensor, other: Tensor, wanted: Tensor) -> Estimate:
    """By how much `other` is closer to `wanted` than `one` is; rows of the two belong together.

    Resamples take the same rows of both and of what they are compared with, so that what these
    have in common cancels.
    """
    spread = [
        _energy(one[i], wanted[k]) - _energy(other[i], wanted[k])
        for i, k in _halves(len(one), len(wanted))
    ]
    gain = _energy(one, wanted) - _energy(other, wanted)
    return Estimate(gain, float(torch.tensor(spread).std()) / 2**0.5)


def _halves(one: int, other: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of random halves of two sets."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(RESAMPLES):
        yield (
            torch.randperm(one, generator=generator)[: one // 2],
            torch.randperm(other, generator=generator)[: other // 2],
        )


def _energy(one: Tensor, other: Tensor) -> float:
    across = torch.cdist(one, other).mean()
    within = [torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (one, other)]
    return float(2 * across - within[0] - within[1])


def reward(clips: Latents) -> Estimate:
    """What `HighJudge` gives on average."""
    return Estimate.of(measure(clips).seen.mean(dim=1))


def lag_error(clips: Latents, *, lead: int, frames: Sequence[int]) -> Estimate:
    """How far the light is from where the sound puts it `lead` latents later, at some frames."""
    found = measure(clips)
    index = torch.tensor(frames)
    return Estimate.of((found.seen[:, index] - found.heard[:, index + lead]).abs().mean(dim=1))


def border_lag(clips: Latents, *, lead: int, block: int) -> Estimate:
    """By how many latents the picture is late where the sound jumps just after a block's border.

    Such a jump is to be seen `lead` latents before it is heard, at the end of the block before.
    Counted up to twice the lead; over all jumps of all clips.
    """
    found = measure(clips)
    seen, heard = (places > MIDDLE for places in (found.seen, found.heard))
    lags: list[Tensor] = []
    for border in range(block, seen.shape[1] - lead, block):
        for time in range(border, border + lead):
            jumps = heard[:, time] != heard[:, time - 1]
            window = seen[jumps, time - lead : time + lead] == heard[jumps, time, None]
            never = torch.ones(len(window), 1, dtype=torch.bool)
            lags.append(torch.cat([window, never], dim=1).int().argmax(dim=1))
    return Estimate.of(torch.cat(lags).double())


@torch.no_grad()
def student_clips(
    student: DualStreamDiT, recipe: Recipe, prompts: Sequence[str], *, seed: int
) -> Latents:
    """What the student makes of the prompts with all its steps, as its users would see it."""
    schedule = NoiseSchedule(recipe.schedule)
    exits = (len(schedule.steps) - 1,) * recipe.plan.num_blocks
    text = TextStore(Path(recipe.data.text), text_dim=student.config.video.text_dim)
    made: list[Latents] = []
    for first in range(0, len(prompts), AT_ONCE):
        some = prompts[first : first + AT_ONCE]
        shape = clip_shape(recipe, student, len(some))
        draws = Draws(seed, 0, tuple(range(first, first + len(some))))
        noise = DrawnNoise(shape, draws, device=torch.device("cpu"), dtype=torch.float32)
        draw = RolloutDraw(noise, exits)
        made.append(roll_out(student, _wide(text, some), RolloutShape(shape, schedule), draw))
    video, audio = (torch.cat(parts) for parts in zip(*made, strict=True))
    return Latents(video, audio)


@torch.no_grad()
def held_out_error(student: DualStreamDiT, recipe: Recipe, pairs: Path, *, seed: int) -> Estimate:
    """Stage-1 loss on trajectories that the student has not seen."""
    store = open_pairs(pairs, recipe.clip, student.config, steps=len(recipe.schedule.steps))
    text = TextStore(Path(recipe.data.text), text_dim=student.config.video.text_dim)
    schedule = NoiseSchedule(recipe.schedule)
    losses: list[Tensor] = []
    for number, key in enumerate(store.keys):
        sample = store[key]
        states = draw_states(Draws(seed, 0, (number,)), recipe.plan.num_blocks, len(schedule.steps))
        loss = ode_loss(
            student,
            Latents(*(sample.tensors[name][None].float() for name in (VIDEO, AUDIO))),
            states,
            _wide(text, [str(sample.info["prompt"])]),
            blocks=recipe.blocks,
            schedule=schedule,
            weights=recipe.weights,
        )
        losses.append(loss.total)
    return Estimate.of(torch.stack(losses))


def _wide(text: TextStore, prompts: Sequence[str]) -> TextContext:
    """Embeddings in float32."""
    context = text.context(prompts)
    return TextContext(video=context.video.float(), audio=context.audio.float())
