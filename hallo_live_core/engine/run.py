"""One run: its steps are counted, told and stopped here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ..errors import Cancelled
from ..functional.blocks import ClipPlan
from ..functional.script import NextSaid
from ..sampling.sampler import PassDone
from ..types import (
    CancelCheck,
    LatentBlock,
    MediaChunk,
    Progress,
    ProgressCallback,
    Request,
    TextContext,
)


@dataclass(slots=True)
class Run:
    """Counts the steps of one run, tells them, and stops it when asked to."""

    num_blocks: int
    total: int
    on_progress: ProgressCallback | None
    should_stop: CancelCheck | None
    done: int = 0

    @classmethod
    def of(
        cls,
        request: Request,
        plan: ClipPlan,
        total: int,
        on_progress: ProgressCallback | None,
        should_stop: CancelCheck | None,
    ) -> Run:
        """The run of a request; one without end has no number of blocks or steps."""
        if request.seconds == 0:
            return cls(0, 0, on_progress, should_stop)
        return cls(plan.num_blocks, total, on_progress, should_stop)

    def step(self, stage: str, block: int) -> None:
        """A pass or a latent is done."""
        self.done += 1
        total = self.total and max(self.total, self.done)  # looking back takes passes of its own
        if self.on_progress is not None:
            self.on_progress(Progress(stage, block, self.num_blocks, self.done, total))
        self.check()

    def check(self) -> None:
        """Stop here if the caller wants to."""
        if self.should_stop is not None and self.should_stop():
            raise Cancelled

    def decoded(self, chunks: Iterable[MediaChunk | None]) -> Iterator[MediaChunk]:
        """Count chunks on their way through; None is a moment of waiting."""
        for chunk in chunks:
            if chunk is None:
                self.check()
                continue
            yield chunk
            self.step("decode", chunk.block)


def texts_of(
    next_said: NextSaid, encode: Callable[[str], TextContext], plan: ClipPlan
) -> Callable[[int], TextContext | None]:
    """`next_said`, which counts whole blocks, with prompts encoded when their turn comes."""

    def next_text(block: int) -> TextContext | None:
        second = plan.second(block)
        said = None if second is None else next_said(second)
        return encode(said) if isinstance(said, str) else said

    return next_text


def until_finished(
    events: Iterator[PassDone | LatentBlock], should_finish: CancelCheck | None
) -> Iterator[PassDone | LatentBlock]:
    """The events up to the first block that is clean when the caller has seen enough."""
    for event in events:
        if isinstance(event, LatentBlock) and should_finish is not None and should_finish():
            yield replace(event, is_last=True)
            return
        yield event
