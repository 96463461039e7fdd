"""The judge of sound: how pleasant, useful and well made it is (spec 08 §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...types import CancelCheck
from ..base import Clip, Component, JudgeCallback, Scale, Score, Watch
from ..clip import JUDGE_SAMPLE_RATE, check_clip, heard
from .network import AudioBox
from .windows import WINDOW, split


@dataclass(frozen=True, slots=True)
class Target:
    """Mean and spread of the ratings an axis was trained on, on their scale of 1 to 10."""

    mean: float
    std: float


PUBLISHED_TARGETS: Mapping[str, Target] = {
    "CE": Target(5.06865, 1.93029),
    "CU": Target(5.73633, 1.75669),
    "PC": Target(3.18591, 1.86637),
    "PQ": Target(6.57505, 1.51466),
}
"""Content enjoyment, content usefulness, production complexity, production quality."""

REWARDED = ("CE", "CU", "PQ")
"""Their sum is the reward; complexity is shown but is not a quality."""

SCALE = Scale(
    good=0.0,
    doubtful=-1.0,
    source="mean and spread of the human ratings AudioBox was trained on: "
    "good from their mean on, doubtful down to one standard deviation below",
)
"""About the normalised value."""

WINDOWS_PER_PASS = 4
"""Bounds memory: 13 layers of 499 frames per window, and attention over them. A CPU takes one
at a time: more are no faster there, and a run can be stopped between two."""


@dataclass(frozen=True, slots=True)
class AudioDetails:
    """The scores of every window of ten seconds, 1 to 10, in the order of `axes`."""

    axes: tuple[str, ...]
    window_starts: tuple[float, ...]
    window_scores: tuple[tuple[float, ...], ...]


class AudioJudge:
    """AudioBox Aesthetics on a clip's sound, in float32; the reward is CE + CU + PQ.

    The raw values of its components are on the ratings' scale of 1 to 10, the normalised ones in
    standard deviations from the mean rating.
    """

    name = "audio"

    def __init__(
        self, network: AudioBox, targets: Mapping[str, Target] = PUBLISHED_TARGETS
    ) -> None:
        self.network = network
        self.targets = targets

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What a host moves between devices before and after scoring."""
        return (self.network,)

    def score(
        self,
        clip: Clip,
        *,
        on_progress: JudgeCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> Score:
        """Judge the sound of a clip; its picture and prompt play no part.

        Raises:
            ShapeError: the clip is not one.
            Cancelled: `should_stop` said so.
        """
        return self.score_batch([clip], on_progress=on_progress, should_stop=should_stop)[0]

    def score_batch(
        self,
        clips: Sequence[Clip],
        *,
        on_progress: JudgeCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> list[Score]:
        """Judge several clips, their windows side by side.

        Raises:
            ShapeError: a clip is not one.
            Cancelled: `should_stop` said so.
        """
        for clip in clips:
            check_clip(clip)
        sounds = [heard(clip) for clip in clips]
        cut = [None if sound is None else split(sound) for sound, _ in sounds]
        there = [part for part in cut if part is not None]
        raw = self._listen(there, Watch(self.name, on_progress, should_stop)) if there else []
        remaining = iter(raw)
        return [
            Score(self.name, None, reasons=notes)
            if part is None
            else self._score(next(remaining), part[1], notes)
            for part, (_, notes) in zip(cut, sounds, strict=True)
        ]

    def _listen(self, cut: Sequence[tuple[Tensor, Tensor]], watch: Watch) -> list[Tensor]:
        """The raw output of every window, per clip [w, axes], on the CPU."""
        parameter = next(self.network.parameters())
        windows = torch.cat([windows for windows, _ in cut])
        valid = torch.cat([valid for _, valid in cut])
        watch.done("listen", 0, len(windows))
        raw: list[Tensor] = []
        step = 1 if parameter.device.type == "cpu" else WINDOWS_PER_PASS
        for start in range(0, len(windows), step):
            part = slice(start, start + step)
            raw.append(self.network(windows[part].to(parameter), valid[part]).cpu().double())
            watch.done("listen", min(start + step, len(windows)), len(windows))
        return list(torch.cat(raw).split([len(windows) for windows, _ in cut]))

    def _score(self, raw: Tensor, valid: Tensor, notes: tuple[str, ...]) -> Score:
        axes = self.network.config.heads.axes
        scores = rated(raw, [self.targets[axis] for axis in axes])
        values = dict(
            zip(axes, weighted_mean(scores, valid.double() / WINDOW).tolist(), strict=True)
        )
        components = tuple(
            Component(
                name=axis,
                raw=value,
                normalised=(value - self.targets[axis].mean) / self.targets[axis].std,
                scale=SCALE if axis in REWARDED else None,
            )
            for axis, value in values.items()
        )
        starts = tuple(i * WINDOW / JUDGE_SAMPLE_RATE for i in range(len(raw)))
        details = AudioDetails(axes, starts, tuple(tuple(row) for row in scores.tolist()))
        reward = sum(values[axis] for axis in REWARDED)
        return Score(self.name, reward, components, notes, details)


def rated(raw: Tensor, targets: Sequence[Target]) -> Tensor:
    """Raw outputs [w, axes] -> ratings of about 1 to 10."""
    mean = raw.new_tensor([target.mean for target in targets])
    std = raw.new_tensor([target.std for target in targets])
    return raw * std + mean


def weighted_mean(scores: Tensor, weights: Tensor) -> Tensor:
    """The scores of a clip's windows [w, axes], weighted by how full they are [w] -> [axes]."""
    weights = weights.to(scores)
    return (scores * weights[:, None]).sum(0) / weights.sum()
