"""What judges say of the clips of an update becomes the factors of their losses (spec 06 §9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hallo_live_core.rewards.combine import LossScales, RunningStatistics

from ..losses.reward_weighting import RewardSettings, weigh
from ..parallel import Processes
from ..types import Latents
from .batches import LatentJudge
from .networks import CRITIC


@dataclass(frozen=True, slots=True)
class Judged:
    """Factors of this process's clips of a micro-batch, and numbers to log."""

    scales: LossScales
    metrics: dict[str, Tensor]


class RewardFactors:
    """Compares all clips of an update, of all its micro-batches and processes, with one another
    and with those before them."""

    def __init__(self, settings: RewardSettings, judge: LatentJudge, processes: Processes) -> None:
        self.settings, self._judge, self._processes = settings, judge, processes
        self._histories: dict[str, RunningStatistics] = {}

    def scores(self, clips: Latents, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Values by judge, [clips of all processes]."""
        own = self._judge.score(clips, prompts)
        return {name: self._processes.gather(values) for name, values in own.items()}

    def weigh(self, scores: Sequence[dict[str, Tensor]]) -> list[Judged]:
        """Of each micro-batch of an update, whose `scores` are given in order."""
        together = {name: torch.cat([one[name] for one in scores]) for name in scores[0]}
        scales, self._histories = weigh(together, self.settings, self._histories)
        if self.settings.weigh == CRITIC:
            scales = LossScales(1 / scales.video, 1 / scales.audio)
        metrics = {f"reward/{name}": values.nanmean() for name, values in together.items()}
        metrics |= {"scale/video": scales.video.mean(), "scale/audio": scales.audio.mean()}
        made_at_once = len(scales.video) // len(scores)
        own = made_at_once // self._processes.count
        firsts = (i * made_at_once + self._processes.rank * own for i in range(len(scores)))
        return [
            Judged(LossScales(scales.video[f : f + own], scales.audio[f : f + own]), metrics)
            for f in firsts
        ]

    def state(self) -> dict[str, Any]:
        """The scores so far, as plain values."""
        return {name: asdict(history) for name, history in self._histories.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self._histories = {name: RunningStatistics(**values) for name, values in state.items()}
