"""One run: its steps are counted, told and stopped here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..errors import Cancelled
from ..sampling.sampler import PassDone
from ..types import CancelCheck, LatentBlock, MediaChunk, Progress, ProgressCallback


@dataclass(slots=True)
class Run:
    """Counts the steps of one run, tells them, and stops it when asked to."""

    num_blocks: int
    total: int
    on_progress: ProgressCallback | None
    should_stop: CancelCheck | None
    done: int = 0

    def step(self, stage: str, block: int) -> None:
        """A pass or a latent is done."""
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(Progress(stage, block, self.num_blocks, self.done, self.total))
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


def until_finished(
    events: Iterator[PassDone | LatentBlock], should_finish: CancelCheck | None
) -> Iterator[PassDone | LatentBlock]:
    """The events up to the first block that is clean when the caller has seen enough."""
    for event in events:
        if isinstance(event, LatentBlock) and should_finish is not None and should_finish():
            yield replace(event, is_last=True)
            return
        yield event
