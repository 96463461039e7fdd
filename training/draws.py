"""Random numbers of training, each keyed by (seed, batch, sample, purpose): nothing else counts.

A sample of a global batch gets the same numbers whoever computes it: on one process or on 32, at
once or in pieces, before or after a resume. What all samples share, such as the exit step, is keyed
without the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hallo_live_core.functional.noise import (
    ClipShape,
    NoiseSource,
    SeededNoise,
    keyed_generator,
    keyed_noise,
)

from .types import Latents


@dataclass(frozen=True, slots=True)
class Draws:
    """The numbers of some samples of one global batch.

    batch: number of the global batch. samples: their numbers within it.
    """

    seed: int
    batch: int
    samples: tuple[int, ...]

    def normal(self, purpose: str, *size: int) -> Tensor:
        """Normal values, float32 [b, *size] on the CPU."""
        keys = [f"{self.batch}/{sample}/{purpose}" for sample in self.samples]
        return torch.stack([keyed_noise(self.seed, key, *size) for key in keys])

    def integers(self, purpose: str, low: int, high: int, *size: int) -> Tensor:
        """Whole numbers of [low, high), int64 [b, *size] on the CPU."""
        keys = [f"{self.batch}/{sample}/{purpose}" for sample in self.samples]
        return torch.stack([self._integers(key, low, high, *size) for key in keys])

    def shared(self, purpose: str, low: int, high: int, *size: int) -> Tensor:
        """Whole numbers of [low, high) that all samples of the batch share, int64 [*size]."""
        return self._integers(f"{self.batch}/all/{purpose}", low, high, *size)

    def clips(self, purpose: str, shape: ClipShape) -> Latents:
        """Noise of whole clips, float32 on the CPU."""
        plan = shape.plan
        return Latents(
            self.normal(f"{purpose}/video", plan.video_latents, *shape.video),
            self.normal(f"{purpose}/audio", plan.audio_latents, shape.audio_channels),
        )

    def _integers(self, key: str, low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=keyed_generator(self.seed, key))


class DrawnNoise(SeededNoise):
    """The noise of a rollout, drawn by sample of the global batch."""

    def __init__(
        self, shape: ClipShape, draws: Draws, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(shape, draws.seed, device=device, dtype=dtype)
        self.draws = draws

    def draw(self, key: str, *size: int) -> Tensor:
        """See `SeededNoise`."""
        return self.place(self.draws.normal(f"rollout/{key}", *size))


@dataclass(frozen=True, slots=True)
class RolloutDraw:
    """All that is random in a self-rollout: its noise, and the last step of every block."""

    noise: NoiseSource
    exits: tuple[int, ...]

    @property
    def mean_exit(self) -> float:
        """The mean exit step over all blocks."""
        return sum(self.exits) / len(self.exits)


@dataclass(frozen=True, slots=True)
class GroupedDraw:
    """A rollout whose samples have exits of their own: samples of one batch by what they share.

    groups: places in the batch, from 0, and what these samples are made from.
    """

    groups: tuple[tuple[tuple[int, ...], RolloutDraw], ...]

    @property
    def mean_exit(self) -> float:
        """The mean exit step over all samples and blocks."""
        counts = [len(samples) for samples, _ in self.groups]
        sums = [n * draw.mean_exit for n, (_, draw) in zip(counts, self.groups, strict=True)]
        return sum(sums) / sum(counts)


@dataclass(frozen=True, slots=True)
class ScoreDraw:
    """All that is random in asking the scores.

    raw: int64 [b], one score time per sample. noise: added to the clips. guidance_raw: int64 [b],
    the second time of the decoupled loss.
    """

    raw: Tensor
    noise: Latents
    guidance_raw: Tensor | None = None


def draw_exits(
    draws: Draws,
    num_blocks: int,
    num_steps: int,
    *,
    same_step: bool = True,
    last_step_only: bool = False,
    of_first_sample: bool = False,
) -> tuple[int, ...]:
    """The last step of every block, uniform over the steps, the same for all samples.

    of_first_sample: those of the first of `draws` instead.
    """
    if last_step_only:
        return (num_steps - 1,) * num_blocks
    if of_first_sample:
        (drawn, *_) = draws.integers("exits", 0, num_steps, num_blocks).tolist()
    else:
        drawn = draws.shared("exits", 0, num_steps, num_blocks).tolist()
    return (drawn[0],) * num_blocks if same_step else tuple(drawn)


def draw_scores(
    draws: Draws,
    shape: ClipShape,
    times: tuple[int, int],
    guidance_times: tuple[int, int] | None = None,
) -> ScoreDraw:
    """times, guidance_times: limits [low, high) of raw score times (`schedules.score_range`)."""
    return ScoreDraw(
        raw=draws.integers("score time", *times),
        noise=draws.clips("score", shape),
        guidance_raw=(
            None if guidance_times is None else draws.integers("guidance time", *guidance_times)
        ),
    )


def join_scores(parts: Sequence[ScoreDraw]) -> ScoreDraw:
    """Draws of some samples, one behind the other."""
    guidance = [part.guidance_raw for part in parts if part.guidance_raw is not None]
    return ScoreDraw(
        raw=torch.cat([part.raw for part in parts]),
        noise=Latents(*(torch.cat(x) for x in zip(*(part.noise for part in parts), strict=True))),
        guidance_raw=torch.cat(guidance) if guidance else None,
    )


def draw_states(draws: Draws, num_blocks: int, num_states: int) -> Tensor:
    """Stage 1: which state of its trajectory each block of each sample is in, int64 [b, blocks]."""
    return draws.integers("state", 0, num_states, num_blocks)
