"""The live streams of one server: each with its bytes, its state, and its two switches."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import Cancelled, HalloLiveError
from ..types import Progress
from .broadcast import Broadcast
from .lines import Lines
from .pacing import SESSION_SECONDS, Pace, has_expired

MAX_SESSIONS = 8
"""Streams that exist at a time, ended ones included: what bounds their memory, with RING_BYTES."""

ID_PATTERN = re.compile(r"[0-9a-f]{32}")

State = Literal["waiting", "running", "finished", "stopped", "failed"]
ENDED = ("finished", "stopped", "failed")

OnChange = Callable[["LiveStatus"], None]


class TooManySessionsError(HalloLiveError):
    """All places for streams are taken by runs that have not ended."""


class NotListeningError(HalloLiveError):
    """Nobody listens to what a stream is told to say."""


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """Where a stream stands; `as_json` is what pages and programs get.

    block counts from 1 (0: none yet) of num_blocks (0: not known yet); seconds: length of the clip
    so far; speed: seconds of clip per second of waiting; seconds_behind: what a viewer who began
    with the first picture had to wait since; first_after: seconds to the first picture; mime:
    known from the first picture on; tags: strings of the owner, such as a prompt id; num_lines:
    lines that wait to be said, None where the run cannot be told any.
    """

    id: str
    state: State
    block: int
    num_blocks: int
    seconds: float
    speed: float
    seconds_behind: float
    first_after: float | None
    mime: str | None
    error: str | None
    readers: int
    tags: Mapping[str, str]
    num_lines: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`."""
        return {**asdict(self), "tags": dict(self.tags)}


class LiveSession:
    """One run on its way to viewers. Made by `Sessions.open`.

    The run reports here (`running`, `advance`, `made`), asks `should_stop` and `should_finish`, and
    pushes into `broadcast`; everybody else reads `status` and may `finish` or `cancel`, and `say`
    things where the run has set `lines`. Methods may be called from any thread. on_change is
    called, in a thread of the run, whenever the state or the block changes and when the first
    picture is there.
    """

    def __init__(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        on_change: OnChange | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.broadcast = Broadcast()
        self.mime: str | None = None
        self.lines: Lines | None = None
        self.ended_at: float | None = None
        self._tags = dict(tags or {})
        self._on_change, self._clock = on_change, clock
        self._lock = threading.Lock()
        self._stop, self._finish = threading.Event(), threading.Event()
        self._state: State = "waiting"
        self._error: str | None = None
        self._block = self._num_blocks = 0
        self._pace = Pace(started=clock())

    # -- for the run -------------------------------------------------------------------------

    @contextmanager
    def running(
        self, interruptions: tuple[type[BaseException], ...] = (Cancelled,)
    ) -> Iterator[LiveSession]:
        """The time of the run; however it ends, the stream ends with it and says how.

        interruptions: exceptions that mean that somebody asked to stop.
        """
        with self._lock:
            if self._state == "waiting":
                self._state = "running"
            self._pace = Pace(started=self._clock())
        self._tell()
        try:
            yield self
        except interruptions:
            self.end("stopped")
            raise
        except Exception as error:
            self.end("failed", describe(error))
            raise
        except BaseException:
            self.end("stopped")
            raise
        self.end("finished")

    def advance(self, progress: Progress) -> None:
        """Take note of the block that is being made; a `ProgressCallback`."""
        with self._lock:
            block = max(self._block, progress.block + 1)
            changed = (block, progress.num_blocks) != (self._block, self._num_blocks)
            self._block, self._num_blocks = block, progress.num_blocks
        if changed:
            self._tell()

    def made(self, seconds: float) -> None:
        """The clip is `seconds` long now."""
        with self._lock:
            is_first = self._pace.first is None
            self._pace = self._pace.after(seconds, self._clock())
        if is_first:
            self._tell()

    def end(self, state: State, error: str | None = None) -> None:
        """Close the stream; the first end counts."""
        with self._lock:
            if self._state in ENDED:
                return
            self._state, self._error = state, error
            self.ended_at = self._clock()
        self.broadcast.close()
        self._tell()

    def should_stop(self) -> bool:
        """Whether somebody cancelled; a `CancelCheck`."""
        return self._stop.is_set()

    def should_finish(self) -> bool:
        """Whether somebody wants the clip to end with the current block; a `CancelCheck`."""
        return self._finish.is_set()

    # -- for everybody -----------------------------------------------------------------------

    def finish(self) -> None:
        """Ask to end the clip after the current block and to keep what exists."""
        self._finish.set()

    def cancel(self) -> None:
        """Ask to stop at once."""
        self._stop.set()

    def say(self, words: str) -> None:
        """Have something said next: plain words, or a whole prompt with tags.

        Raises:
            NotListeningError: the run has ended, or cannot be told.
            PromptError, TooManyLinesError: see `Lines.say`.
        """
        lines = self.lines
        if lines is None or self.has_ended:
            raise NotListeningError(
                "This stream cannot be told what to say",
                found="it has ended" if self.has_ended else "nothing encodes prompts while it runs",
                fix="start another one; in ComfyUI, connect a CLIP to the sampler",
            )
        lines.say(words)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.ended_at is not None

    def status(self) -> LiveStatus:
        """Where the stream stands now."""
        with self._lock:
            pace, lines = self._pace, self.lines
            now = self.ended_at if self.ended_at is not None else self._clock()
            return LiveStatus(
                id=self.id,
                state=self._state,
                block=self._block,
                num_blocks=self._num_blocks,
                seconds=round(pace.made, 3),
                speed=round(pace.speed, 3),
                seconds_behind=round(pace.seconds_behind(now), 3),
                first_after=None if pace.first_after is None else round(pace.first_after, 3),
                mime=self.mime,
                error=self._error,
                readers=self.broadcast.num_readers,
                tags=self._tags,
                num_lines=None if lines is None else lines.num_waiting,
            )

    def _tell(self) -> None:
        if self._on_change is not None:
            self._on_change(self.status())


class Sessions:
    """The streams of one server, found by id. The owner holds it; nothing here is global.

    Ended streams are forgotten after `kept_seconds`, looked at on every call, or earlier when their
    place is needed; on_forget is told. At most `max_sessions` times the ring of a broadcast is
    kept in memory.
    """

    def __init__(
        self,
        *,
        max_sessions: int = MAX_SESSIONS,
        kept_seconds: float = SESSION_SECONDS,
        on_forget: Callable[[LiveSession], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_sessions, self._kept_seconds = max_sessions, kept_seconds
        self._on_forget, self._clock = on_forget, clock
        self._lock = threading.Lock()
        self._sessions: dict[str, LiveSession] = {}

    def open(
        self, *, tags: Mapping[str, str] | None = None, on_change: OnChange | None = None
    ) -> LiveSession:
        """A new stream, waiting for its run.

        Raises:
            TooManySessionsError: as many runs as there may be have not ended.
        """
        self.forget_expired()
        session = LiveSession(tags=tags, on_change=on_change, clock=self._clock)
        with self._lock:
            ended = [s for s in self._sessions.values() if s.has_ended]
            excess = len(self._sessions) + 1 - self._max_sessions
            if excess > len(ended):
                raise TooManySessionsError(
                    "Too many clips are waiting or being made",
                    found=len(self._sessions) - len(ended),
                    fix="wait for one to end, or stop one",
                )
            forgotten = [self._sessions.pop(s.id) for s in ended[: max(0, excess)]]
            self._sessions[session.id] = session
        self._tell(forgotten)
        return session

    def get(self, session_id: str) -> LiveSession | None:
        """The stream of this id; None if there is none, or the id is not one."""
        self.forget_expired()
        if ID_PATTERN.fullmatch(session_id) is None:
            return None
        with self._lock:
            return self._sessions.get(session_id)

    def statuses(self) -> list[LiveStatus]:
        """Where all streams stand, oldest first."""
        self.forget_expired()
        with self._lock:
            sessions = list(self._sessions.values())
        return [session.status() for session in sessions]

    def forget_expired(self) -> None:
        """Let go of streams that ended long ago."""
        now = self._clock()
        with self._lock:
            forgotten = [
                s
                for s in self._sessions.values()
                if has_expired(s.ended_at, now, kept_seconds=self._kept_seconds)
            ]
            for session in forgotten:
                del self._sessions[session.id]
        self._tell(forgotten)

    def close(self) -> None:
        """Stop all runs, end all streams, forget them."""
        with self._lock:
            forgotten = list(self._sessions.values())
            self._sessions.clear()
        for session in forgotten:
            session.cancel()
            session.end("stopped")
        self._tell(forgotten)

    def _tell(self, forgotten: list[LiveSession]) -> None:
        if self._on_forget is not None:
            for session in forgotten:
                self._on_forget(session)


def describe(error: BaseException) -> str:
    """One line for viewers: our own errors as they are, of others the kind and the first line."""
    if isinstance(error, HalloLiveError):
        return str(error)
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}".removesuffix(": ")
