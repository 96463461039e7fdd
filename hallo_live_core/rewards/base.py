"""What every judge takes and gives: a clip in; numbers, verdicts and reasons out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from torch import Tensor, nn

from ..errors import Cancelled
from ..types import CancelCheck

Verdict = Literal["good", "doubtful", "bad"]


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip to judge, as it is shown and heard.

    frames: uint8 [f, h, w, 3] RGB on the CPU; samples: float [channels, s] in -1..1 on the CPU, or
    None where there is no sound. `clip.check_clip` refuses anything else.
    """

    frames: Tensor
    fps: Fraction
    samples: Tensor | None = None
    sample_rate: int = 16_000
    prompt: str = ""

    @property
    def seconds(self) -> float:
        """Duration of the picture."""
        return float(self.frames.shape[0] / self.fps)


@dataclass(frozen=True, slots=True)
class Scale:
    """What values of a component mean; higher is better. `source` says where the limits are from.

    good: from here on a value is good; doubtful: from here on doubtful, below it bad.
    """

    good: float
    doubtful: float
    source: str

    def verdict(self, value: float) -> Verdict:
        """The plain word for a value."""
        if value >= self.good:
            return "good"
        return "doubtful" if value >= self.doubtful else "bad"


@dataclass(frozen=True, slots=True)
class Component:
    """One number of a judge: as its network gives it, and on the scale the verdict is about.

    `scale` None means that the number is not a quality and has no verdict.
    """

    name: str
    raw: float
    normalised: float
    scale: Scale | None = None

    @property
    def verdict(self) -> Verdict | None:
        """Good, doubtful or bad, None where that would mean nothing."""
        return None if self.scale is None else self.scale.verdict(self.normalised)


@dataclass(frozen=True, slots=True)
class Score:
    """What one judge says of one clip.

    value: the reward, higher is better; None where the judge could not tell, and `reasons` says
    why. Reasons can also stand beside a value (what was assumed or converted). `details` is a
    dataclass of the judge's own.
    """

    judge: str
    value: float | None
    components: tuple[Component, ...] = ()
    reasons: tuple[str, ...] = ()
    details: object = None

    def component(self, name: str) -> Component:
        """The component of that name.

        Raises:
            KeyError: no component has that name.
        """
        return {part.name: part for part in self.components}[name]


@dataclass(frozen=True, slots=True)
class JudgeProgress:
    """Where a judge stands: `done` of `total` pieces of a stage such as "find faces"."""

    judge: str
    stage: str
    done: int
    total: int


JudgeCallback = Callable[[JudgeProgress], None]
"""Called after every piece of work; may raise to stop it."""


class Reward(Protocol):
    """A judge. It computes on the device where the weights of its networks are."""

    @property
    def name(self) -> str:
        """Stands in `Score.judge`."""
        ...

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What a host moves between devices before and after scoring."""
        ...

    def score(
        self,
        clip: Clip,
        *,
        on_progress: JudgeCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> Score:
        """Judge a clip.

        Raises:
            ShapeError: the clip is not one.
            Cancelled: `should_stop` said so.
        """
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """Progress and cancellation of one call to `score`, handed to its parts."""

    judge: str
    on_progress: JudgeCallback | None = None
    should_stop: CancelCheck | None = None

    def done(self, stage: str, done: int, total: int) -> None:
        """Report pieces done and stop if asked to; call it between pieces of work.

        Raises:
            Cancelled: the caller asked to stop.
        """
        if self.on_progress is not None:
            self.on_progress(JudgeProgress(self.judge, stage, done, total))
        if self.should_stop is not None and self.should_stop():
            raise Cancelled
