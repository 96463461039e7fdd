"""What the table of `train-tiny` says: errors, distances between sets of clips, rewards, lags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.rewards.combine import as_scores

from ..data.embeddings import TextStore
from ..data.ode_pairs import AUDIO, VIDEO, open_pairs
from ..draws import DrawnNoise, Draws, RolloutDraw, draw_states
from ..losses.ode import ode_loss
from ..phases.batches import clip_shape
from ..recipe import Recipe
from ..rollout import RolloutShape, roll_out
from ..types import Latents
from .world import measure

JUDGE = "right"
"""The toy's reward: how far to the right the light is."""


class RightJudge:
    """Likes clips whose light is on the right; see `phases.distill.LatentJudge`."""

    def score(self, clips: Latents, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Mean place of the light, 0 left to 1 right."""
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

    def below(self, other: Estimate) -> str:
        """Whether this mean lies below another, as far as two standard errors can tell."""
        difference = other.mean - self.mean
        if abs(difference) <= 2 * (self.error**2 + other.error**2) ** 0.5:
            return "not beyond noise"
        return "yes" if difference > 0 else "no"

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f}"


def energy_distance(one: Tensor, other: Tensor, *, resamples: int = 50) -> Estimate:
    """Energy distance of two sets of rows, unbiased: 0 on average for the same distribution.

    The error is the spread over bootstrap resamples of half the rows.
    """
    generator = torch.Generator().manual_seed(0)

    def half(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 2]]

    spread = torch.tensor([_energy(half(one), half(other)) for _ in range(resamples)]).std()
    return Estimate(_energy(one, other), float(spread) / 2**0.5)


def _energy(one: Tensor, other: Tensor) -> float:
    across = torch.cdist(one, other).mean()
    within = [torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)) for x in (one, other)]
    return float(2 * across - within[0] - within[1])


def reward(clips: Latents) -> Estimate:
    """What `RightJudge` gives on average."""
    return Estimate.of(measure(clips).seen.mean(dim=1))


def lag_error(clips: Latents, *, lead: int, frames: Sequence[int]) -> Estimate:
    """How far the light is from where the sound, `lead` latents later, puts it, at some frames."""
    found = measure(clips)
    index = torch.tensor(frames)
    return Estimate.of((found.seen[:, index] - found.heard[:, index + lead]).abs().mean(dim=1))


@torch.no_grad()
def student_clips(
    student: DualStreamDiT, recipe: Recipe, prompts: Sequence[str], *, seed: int
) -> Latents:
    """What the student makes of the prompts with all its steps, as its users would see it."""
    shape = clip_shape(recipe, student, len(prompts))
    schedule = NoiseSchedule(recipe.schedule)
    draws = Draws(seed, 0, tuple(range(len(prompts))))
    noise = DrawnNoise(shape, draws, device=torch.device("cpu"), dtype=torch.float32)
    exits = (len(schedule.steps) - 1,) * recipe.plan.num_blocks
    text = TextStore(Path(recipe.data.text), text_dim=student.config.video.text_dim)
    context = text.context(prompts)
    context = type(context)(video=context.video.float(), audio=context.audio.float())
    return roll_out(student, context, RolloutShape(shape, schedule), RolloutDraw(noise, exits))


@torch.no_grad()
def held_out_error(student: DualStreamDiT, recipe: Recipe, pairs: Path, *, seed: int) -> Estimate:
    """Stage-1 loss on trajectories that the student has not seen."""
    store = open_pairs(pairs, recipe.clip, student.config)
    text = TextStore(Path(recipe.data.text), text_dim=student.config.video.text_dim)
    schedule = NoiseSchedule(recipe.schedule)
    losses: list[Tensor] = []
    for number, key in enumerate(store.keys):
        sample = store[key]
        context = text.context([str(sample.info["prompt"])])
        states = draw_states(Draws(seed, 0, (number,)), recipe.plan.num_blocks, len(schedule.steps))
        loss = ode_loss(
            student,
            Latents(*(sample.tensors[name][None].float() for name in (VIDEO, AUDIO))),
            states,
            type(context)(video=context.video.float(), audio=context.audio.float()),
            blocks=recipe.blocks,
            schedule=schedule,
            weights=recipe.weights,
        )
        losses.append(loss.total)
    return Estimate.of(torch.stack(losses))
