"""One run of the stream sampler on its way to viewers, to the kept file, and to the report."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..hallo_live_core import (
    Cancelled,
    Delivery,
    Lines,
    LiveStatus,
    MediaChunk,
    MediaClock,
    Mp4Writer,
    Progress,
    SessionSink,
)
from . import host_media, host_watch
from .live_route import SESSIONS
from .run import RunReport

STREAM_EVENT = "hallolive.stream"
"""What pages are sent whenever a stream begins, goes on to its next block, or ends."""

KEPT_BLOCKS = 60
"""Blocks of a second that AUDIO and LATENT outputs hold: a stream has no end, but memory has."""

OpenStream = Callable[..., Generator[MediaChunk, None, None]]
"""`HalloLive.stream` with everything but progress and switches filled in."""


class RecentSound:
    """The sound of the newest `KEPT_BLOCKS` blocks of a run: a sink, which waits for chunks."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, list[torch.Tensor]]] = deque(maxlen=KEPT_BLOCKS)

    def write(self, chunk: MediaChunk) -> None:
        """Append the samples of the next chunk."""
        if not self._blocks or self._blocks[-1][0] != chunk.block:
            self._blocks.append((chunk.block, []))
        self._blocks[-1][1].append(chunk.samples)

    def close(self) -> None:
        """Nothing follows."""

    def join(self) -> torch.Tensor:
        """All of it, float32 [s]."""
        return torch.cat([part for _, parts in self._blocks for part in parts])


@dataclass
class LiveRun:
    """One run; `path` is the clip it writes, `numbers` the last report to the page.

    Its session keeps it for some minutes, so it must not hold what is large when it is over.
    """

    report: RunReport
    clock: MediaClock
    path: Path = field(default_factory=host_media.temporary_clip)
    numbers: dict[str, Any] = field(default_factory=dict)
    _delivery: Delivery | None = None

    def make(
        self, open_stream: OpenStream, hidden: Any, lines: Lines | None = None
    ) -> torch.Tensor:
        """Drive the stream to its end; returns the sound of its last blocks, float32 [s].

        hidden: the host's, of the node that runs. lines: who listens to what is said. Whatever
        stops the run, what was made until then is playable.

        Raises:
            MediaError: the clip cannot be written; viewers have seen all of it nevertheless.
        """
        session = SESSIONS.open(tags=self._tags(hidden), on_change=self._tell)
        session.lines = lines

        def advance(progress: Progress) -> None:
            session.advance(progress)
            self.report.advance(progress)

        sound = RecentSound()
        live = SessionSink(session, clock=self.clock)
        kept = Mp4Writer(self.path, clock=self.clock, metadata=host_media.workflow_metadata(hidden))
        try:
            with (
                session.running((Cancelled, host_watch.interruption())),
                Delivery(live, kept) as self._delivery,
                Delivery(sound) as keeping,
                closing(
                    open_stream(
                        on_progress=advance,
                        should_stop=session.should_stop,
                        should_finish=session.should_finish,
                    )
                ) as stream,
            ):
                for chunk in stream:
                    self._delivery.write(chunk)
                    keeping.write(chunk)
                    self.report.show(
                        chunk,
                        remark=f"encoder queue {self._num_waiting}",
                        watched=session.broadcast.num_readers > 0,
                    )
        except Cancelled:  # by a viewer: for the host it is the same as its own button
            raise host_watch.interruption()() from None
        finally:
            self._delivery, session.lines = None, None
        return sound.join()

    def _tags(self, hidden: Any) -> dict[str, str]:
        """Where the stream belongs; `file` is the clip in the temp folder once it has ended."""
        return {
            "prompt_id": host_watch.running_prompt(),
            "node": hidden.unique_id or "",
            "workflow": host_media.workflow_id(hidden),
            "file": self.path.name,
        }

    def _tell(self, status: LiveStatus) -> None:
        used, total = self.report.memory()
        self.numbers = status.as_json() | {
            "memory_used": used,
            "memory_total": total,
            "num_waiting": self._num_waiting,
            "version": pack_version(),
        }
        host_watch.send_event(STREAM_EVENT, self.numbers)

    @property
    def _num_waiting(self) -> int:
        return 0 if self._delivery is None else self._delivery.num_waiting


def pack_version() -> str:
    """The version of this pack, for reports; empty where its pyproject.toml is missing."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else ""
