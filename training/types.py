"""The values that travel between the parts of the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from hallo_live_core.errors import RequestError
from hallo_live_core.types import TextContext


class Latents(NamedTuple):
    """A batch of clips, or anything of that shape: noise, flow, gradient.

    video: [b, f, c, h, w]; audio: [b, a, c]. Trajectories have an axis of states after b.
    """

    video: Tensor
    audio: Tensor

    def detach(self) -> Latents:
        """The same values without their graph."""
        return Latents(self.video.detach(), self.audio.detach())


class Prompts(NamedTuple):
    """What a batch of clips is pushed towards, and what its teacher is pushed away from."""

    positive: TextContext
    negative: TextContext


class Loss(NamedTuple):
    """total: 0-d, with its graph. metrics: without, 0-d unless the loss says otherwise."""

    total: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class StreamWeights:
    """Share of each stream in a loss; training of the sound alone sets video to 0 (spec 06 §10)."""

    video: float = 0.85
    audio: float = 0.15

    def __post_init__(self) -> None:
        if min(self.video, self.audio) < 0 or not self.video + self.audio > 0:
            raise RequestError(
                "Weights of streams must not be below 0, nor both 0",
                found=f"video {self.video}, audio {self.audio}",
            )
