"""From scores to the weights of a loss: the reference's formula, and a robust one (spec 08 §6).

Scores are higher-is-better numbers, one per take of a batch (across all processes: gather them
first). A score that a judge could not give is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_STD = 1e-6

MAX_EXPONENT = 2.0
"""The robust loss weights stay within exp(-2)..exp(2), a factor of 7 each way."""

MISSING = math.nan


@dataclass(frozen=True, slots=True)
class LossScales:
    """Factors of the losses of picture and sound, [takes] each."""

    video: Tensor
    audio: Tensor


def as_scores(values: Sequence[float | None]) -> Tensor:
    """Values of `Score`s as float64 [takes], NaN for None."""
    return torch.tensor([MISSING if v is None else v for v in values], dtype=torch.float64)


def z_scores(values: Tensor) -> Tensor:
    """(x - mean) / population standard deviation over the takes [takes], as in the reference."""
    return (values - values.mean()) / values.std(correction=0).clamp_min(MIN_STD)


def reference_scales(
    *,
    beta: float,
    sync: Tensor | None = None,
    audio: Tensor | None = None,
    video: Tensor | None = None,
) -> LossScales:
    """The reference's loss weights; a judge that is left out counts as a factor of 1.

    Args:
        beta: sharpness.
        sync: confidence [takes]; the reference has 0 where no face was found.
        audio: CE + CU + PQ, [takes].
        video: normalised VQ, MQ, TA, [takes, 3]; enters as it is, without a z-score and unbounded.
    """
    given = next((t for t in (sync, audio, video) if t is not None), torch.zeros(1))
    nothing = given.new_zeros(len(given))
    z_sync = nothing if sync is None else z_scores(sync)
    z_audio = nothing if audio is None else z_scores(audio)
    total = nothing if video is None else video.sum(dim=1)
    sync_factor = (beta * z_sync).exp()
    return LossScales(
        video=(beta * total).exp() * sync_factor, audio=(beta * z_audio).exp() * sync_factor
    )


@dataclass(frozen=True, slots=True)
class RunningStatistics:
    """Mean and spread of a score over all takes so far; `updated` returns new ones.

    With one take a step its batch says nothing about it (its z is always 0); its history does.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def updated(self, values: Tensor) -> RunningStatistics:
        """These statistics after more takes [takes]; NaN is left out."""
        values = values[values.isfinite()].double()
        if not len(values):
            return self
        count = self.count + len(values)
        mean = float(values.mean())
        apart = mean - self.mean
        squares = (
            float((values - mean).square().sum()) + apart**2 * self.count * len(values) / count
        )
        return RunningStatistics(
            count, self.mean + apart * len(values) / count, self.squares + squares
        )

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def robust_z(values: Tensor, statistics: RunningStatistics | None = None) -> Tensor:
    """z-scores of takes [takes] among those that have a score; 0 (neutral) for NaN.

    Args:
        values: scores, NaN where missing.
        statistics: of the score's history, these takes included; None takes the batch alone.
    """
    statistics = statistics or RunningStatistics().updated(values)
    return ((values - statistics.mean) / max(statistics.std, MIN_STD)).nan_to_num(0.0)


def robust_scales(
    *,
    beta: float,
    sync_z: Tensor | float = 0.0,
    audio_z: Tensor | float = 0.0,
    video_z: Tensor | float = 0.0,
    max_exponent: float = MAX_EXPONENT,
) -> LossScales:
    """Bounded loss weights from `robust_z` of each judge; 0 leaves one out.

    All three judges count alike, a missing score changes nothing, and no take can take over.
    """

    def scale(own: Tensor | float) -> Tensor:
        exponent = beta * (torch.as_tensor(own) + torch.as_tensor(sync_z))
        return exponent.clamp(-max_exponent, max_exponent).exp()

    return LossScales(video=scale(video_z), audio=scale(audio_z))
