"""Rewards become factors of the losses: clips that judges like count more (spec 06 §9).

What is computed is in `hallo_live_core.rewards.combine`; here it is said which judge speaks for
which stream, and what its history is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from hallo_live_core.errors import RequestError
from hallo_live_core.rewards.combine import (
    MAX_EXPONENT,
    LossScales,
    RunningStatistics,
    reference_scales,
    robust_scales,
    robust_z,
)

Stream = Literal["video", "audio", "both"]
STREAMS: tuple[Stream, ...] = get_args(Stream)

REFERENCE_JUDGES: dict[str, Stream] = {"videoalign": "video", "audiobox": "audio", "sync": "both"}
"""The judges of the paper and the losses that each multiplies."""

Histories = Mapping[str, RunningStatistics]
"""Statistics of every judge's scores so far; a value to be saved with a checkpoint."""


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """How scores become factors.

    mode: "reference" is the research code's formula to the letter: video scores un-normalised, no
    face counts as 0, the exponent unbounded. "robust" treats all judges alike, leaves missing
    scores out and bounds the exponent.
    beta: sharpness. judges: which streams each one speaks for.
    history: robust mode compares with all scores so far, not only with those of this step, which
    say nothing where a step has one clip.
    normalise: robust mode without it takes scores as they are, less nothing and divided by nothing.
    mean_one: robust mode divides the factors by their mean, so that losses keep their size.
    weigh: whose loss the factors multiply. "student" is the research code's way: clips count more
    or less, which changes nothing where the student makes what the teacher makes. "critic": robust
    mode divides the critic's loss by them, so that it expects more of what is liked less; the
    student then ends at the teacher's distribution times exp(beta reward).
    """

    mode: Literal["robust", "reference"] = "robust"
    beta: float = 1.0
    judges: Mapping[str, Stream] = field(default_factory=lambda: dict(REFERENCE_JUDGES))
    max_exponent: float = MAX_EXPONENT
    history: bool = True
    normalise: bool = True
    mean_one: bool = False
    weigh: Literal["student", "critic"] = "student"

    def __post_init__(self) -> None:
        wrong = [name for name, stream in self.judges.items() if stream not in STREAMS]
        if wrong:
            raise RequestError(
                f"Judge {wrong[0]!r} speaks for no stream",
                found=self.judges[wrong[0]],
                fix="use video, audio or both",
            )
        if self.mode == "reference" and not self.normalise:
            raise RequestError("The reference's formula normalises", fix="use mode: robust")
        if self.mode == "reference" and self.weigh != "student":
            raise RequestError(
                "The reference's formula weighs the student's loss", fix="use mode: robust"
            )
        strange = [n for n, s in self.judges.items() if REFERENCE_JUDGES.get(n) != s]
        if self.mode == "reference" and strange:
            raise RequestError(
                f"The reference's formula does not know judge {strange[0]!r} as set here",
                fix=f"use only {REFERENCE_JUDGES}, or mode: robust",
            )


def weigh(
    scores: Mapping[str, Tensor], settings: RewardSettings, histories: Histories
) -> tuple[LossScales, dict[str, RunningStatistics]]:
    """Factors of every clip of the global batch, and the histories with these scores in them.

    Args:
        scores: of every judge of the settings, [clips] over all processes, NaN where it could not
            tell; of `videoalign` also [clips, 3], its normalised parts.
        settings: see there.
        histories: what the last call returned; empty at first.

    Raises:
        RequestError: a judge's scores are missing.
    """
    absent = [name for name in settings.judges if name not in scores]
    if absent:
        raise RequestError(f"Judge {absent[0]!r} has given no scores", found=", ".join(scores))
    if settings.mode == "reference":
        return _reference(scores, settings), dict(histories)
    return _robust(scores, settings, histories)


def _reference(scores: Mapping[str, Tensor], settings: RewardSettings) -> LossScales:
    """No face counts as 0; the other two always have a score."""
    given = {name: scores[name].float() for name in settings.judges}
    video = given.get("videoalign")
    return reference_scales(
        beta=settings.beta,
        sync=given["sync"].nan_to_num(0.0) if "sync" in given else None,
        audio=given.get("audiobox"),
        video=video if video is None or video.ndim == 2 else video.unsqueeze(1),
    )


def _robust(
    scores: Mapping[str, Tensor], settings: RewardSettings, histories: Histories
) -> tuple[LossScales, dict[str, RunningStatistics]]:
    clips = len(next(iter(scores.values())))
    sums = {stream: torch.zeros(clips, dtype=torch.float64) for stream in STREAMS}
    updated = dict(histories)
    for name, stream in settings.judges.items():
        values = scores[name] if scores[name].ndim == 1 else scores[name].sum(dim=1)
        updated[name] = histories.get(name, RunningStatistics()).updated(values)
        z = robust_z(values, updated[name] if settings.history else None)
        sums[stream] = sums[stream] + (z if settings.normalise else values.nan_to_num(0.0))
    scales = robust_scales(
        beta=settings.beta,
        sync_z=sums["both"],
        audio_z=sums["audio"],
        video_z=sums["video"],
        max_exponent=settings.max_exponent,
    )
    if settings.mean_one:
        scales = LossScales(_mean_one(scales.video), _mean_one(scales.audio))
    return scales, updated


def _mean_one(scale: Tensor) -> Tensor:
    return scale / scale.mean()
