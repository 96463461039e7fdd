"""One run of the stream sampler on its way to viewers, to the kept file, and to the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..hallo_live_core import (
    Cancelled,
    Delivery,
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

OpenStream = Callable[..., Generator[MediaChunk, None, None]]
"""`HalloLive.stream` with everything but progress and switches filled in."""


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

    def make(self, open_stream: OpenStream, hidden: Any) -> torch.Tensor:
        """Drive the stream to its end; returns all sound, float32 [s].

        hidden: the host's, of the node that runs. Whatever stops the run, what was made until then
        is playable.

        Raises:
            MediaError: the clip cannot be written; viewers have seen all of it nevertheless.
        """
        session = SESSIONS.open(tags=self._tags(hidden), on_change=self._tell)

        def advance(progress: Progress) -> None:
            session.advance(progress)
            self.report.advance(progress)

        sound: list[torch.Tensor] = []
        live = SessionSink(session, clock=self.clock)
        kept = Mp4Writer(self.path, clock=self.clock, metadata=host_media.workflow_metadata(hidden))
        try:
            with (
                session.running((Cancelled, host_watch.interruption())),
                Delivery(live, kept) as self._delivery,
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
                    sound.append(chunk.samples)
                    self.report.show(
                        chunk,
                        remark=f"encoder queue {self._num_waiting}",
                        watched=session.broadcast.num_readers > 0,
                    )
        except Cancelled:  # by a viewer: for the host it is the same as its own button
            raise host_watch.interruption()() from None
        finally:
            self._delivery = None
        return torch.cat(sound)

    def _tags(self, hidden: Any) -> dict[str, str]:
        """Where the stream belongs; `file` is the clip in the temp folder once it has ended."""
        workflow = (hidden.extra_pnginfo or {}).get("workflow") or {}
        return {
            "prompt_id": host_watch.running_prompt(),
            "node": hidden.unique_id or "",
            "workflow": str(workflow.get("id", "")),
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
