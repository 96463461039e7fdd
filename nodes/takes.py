"""Makes the takes of Best Of, one after the other, and gives up those that fail at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..hallo_live_core import (
    Delivery,
    HalloLive,
    MediaChunk,
    Mp4Writer,
    Request,
    Reward,
    TextContext,
    first_block_faults,
    plan_request,
    thumbnail,
)
from . import host_media
from .run import RunReport

THUMBNAIL_SIDE = 320
"""Pixels."""

FINISHED_ANYWAY = "all takes failed in their first second; the first was finished after all"


@dataclass(frozen=True, eq=False)
class MadeTake:
    """A clip in the temp folder, whole unless it was given up for its `faults`.

    sound: float32 [s]; picture: uint8 [h, w, 3], small, of its middle or of where it ended.
    """

    seed: int
    path: Path
    sound: torch.Tensor
    picture: torch.Tensor
    faults: tuple[str, ...] = ()
    note: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know."""
        if self.faults:
            return (f"given up after the first second: {', '.join(self.faults)}",)
        return (self.note,) if self.note else ()


class TakeMaker:
    """Makes takes that differ in their seed only.

    judges: with them takes are given up after their first block if that has failed; None makes
    all of them whole.
    """

    def __init__(
        self,
        engine: HalloLive,
        text: TextContext,
        hidden: Any,
        judges: Sequence[Reward] | None,
    ) -> None:
        self._engine, self._text, self._hidden = engine, text, hidden
        self._judges = judges

    def make_all(self, request: Request, count: int) -> list[MadeTake]:
        """Takes with the seeds seed, seed + 1, ...; at least one of them is whole."""
        requests = [replace(request, seed=request.seed + i) for i in range(count)]
        made = [
            self._make(wanted, f"take {number}/{count}", may_drop=True)
            for number, wanted in enumerate(requests, 1)
        ]
        if all(take.faults for take in made):
            whole = self._make(requests[0], f"take 1/{count} again", may_drop=False)
            made[0] = replace(whole, note=FINISHED_ANYWAY)
        return made

    def _make(self, request: Request, title: str, *, may_drop: bool) -> MadeTake:
        plan = plan_request(request, self._engine.settings)
        may_drop = may_drop and self._judges is not None and plan.num_blocks > 1
        report = RunReport(self._hidden.unique_id, self._engine)
        path, kept = host_media.temporary_clip(), _Kept(plan.num_blocks // 2)
        first_block: list[MediaChunk] = []
        stream = self._engine.stream(request, text=self._text, on_progress=report.advance)
        metadata = host_media.workflow_metadata(self._hidden)
        faults: tuple[str, ...] = ()
        clip = Mp4Writer(path, clock=self._engine.clock, metadata=metadata)
        with Delivery(clip) as delivery, Delivery(kept) as keeping, closing(stream):
            for chunk in stream:
                delivery.write(chunk)
                keeping.write(chunk)
                report.show(chunk, remark=title)
                if may_drop and chunk.block == 0:
                    first_block.append(chunk)
                    if len(first_block) == plan.sizes.video_latents:
                        faults = first_block_faults(*_joined(first_block), self._judges or ())
                        first_block.clear()
                if faults:
                    break
        return MadeTake(request.seed, path, torch.cat(kept.sound), kept.picture, faults)


class _Kept:
    """Of a take what is needed later, its sound and a picture: a sink, which waits for chunks."""

    def __init__(self, middle_block: int) -> None:
        self._middle_block = middle_block
        self.sound: list[torch.Tensor] = []
        self.picture = torch.zeros(2, 2, 3, dtype=torch.uint8)

    def write(self, chunk: MediaChunk) -> None:
        self.sound.append(chunk.samples)
        if chunk.block <= self._middle_block and len(chunk.frames):
            self.picture = thumbnail(chunk.frames[-1], THUMBNAIL_SIDE)

    def close(self) -> None:
        pass


def _joined(chunks: list[MediaChunk]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and samples."""
    return (
        torch.cat([chunk.frames for chunk in chunks]),
        torch.cat([chunk.samples for chunk in chunks]),
    )
