"""One model, one thread that makes clips in turn, and the clips that are kept for a while."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from pathlib import Path

from ..engine import HalloLive
from ..errors import Cancelled, HalloLiveError
from ..live.delivery import Delivery, SessionSink
from ..live.lines import Lines
from ..live.pacing import SESSION_SECONDS
from ..live.sessions import MAX_SESSIONS, LiveSession, Sessions, TooManySessionsError
from ..media.label import label
from ..media.mp4 import Mp4Writer
from ..types import Request

logger = logging.getLogger(__name__)

MAX_WAITING = 4
"""Clips that may wait for the one that is being made."""

Job = tuple[LiveSession, Request]


class Studio:
    """Makes clips one after the other in a thread. Use it as a context manager.

    folder: where finished clips lie, `<id>.mp4`, until their session is forgotten. Leaving the
    context stops the clip that is being made, ends all streams, removes the clips, and joins the
    thread.
    """

    def __init__(
        self,
        engine: HalloLive,
        folder: Path,
        *,
        max_waiting: int = MAX_WAITING,
        max_sessions: int = MAX_SESSIONS,
        kept_seconds: float = SESSION_SECONDS,
    ) -> None:
        self._engine, self._folder = engine, folder
        self.sessions = Sessions(
            max_sessions=max_sessions, kept_seconds=kept_seconds, on_forget=self._forget
        )
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._max_waiting = max_waiting
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="hallo-live-studio", daemon=True)

    def __enter__(self) -> Studio:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, request: Request) -> LiveSession:
        """Put a clip into the queue; its session is waiting until its turn comes.

        Raises:
            RequestError, PromptError: it cannot be made.
            TooManySessionsError: enough clips are waiting.
        """
        self._engine.check(request)
        if self._closed or self._jobs.qsize() >= self._max_waiting:
            raise TooManySessionsError(
                "Too many clips are waiting", found=self._jobs.qsize(), fix="try again later"
            )
        session = self.sessions.open(tags={"prompt": request.prompt, "seed": str(request.seed)})
        session.lines = Lines(request.prompt)
        self._jobs.put((session, request))
        return session

    def file(self, session_id: str) -> Path | None:
        """The finished clip of a session; None if there is none (yet, or any more)."""
        session = self.sessions.get(session_id)
        if session is None or not session.has_ended:
            return None
        path = self._path(session)
        return path if path.exists() else None

    def close(self) -> None:
        """Stop everything, and wait until it has stopped. Safe to repeat."""
        self._closed = True
        self._jobs.put(None)
        self.sessions.close()
        self._thread.join()
        for path in self._folder.glob("*.mp4"):
            _remove(path)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            session, request = job
            try:
                self._make(session, request)
            except Cancelled:
                pass
            except HalloLiveError as error:
                logger.warning("Clip %s failed: %s", session.id, error)
            except Exception:  # told to the viewers by the session; the next clip may do better
                logger.exception("Clip %s failed", session.id)

    def _make(self, session: LiveSession, request: Request) -> None:
        settings = f"seed={request.seed} size={request.height}x{request.width}"
        metadata = label(request.prompt, settings)
        with session.running():
            if session.should_stop():
                raise Cancelled
            chunks = self._engine.stream(
                request,
                on_progress=session.advance,
                should_stop=session.should_stop,
                should_finish=session.should_finish,
                next_said=session.lines,
            )
            clock = self._engine.clock_for(request)
            kept = Mp4Writer(self._path(session), clock=clock, metadata=metadata)
            live = SessionSink(session, clock=clock)
            with contextlib.closing(chunks), Delivery(live, kept) as delivery:
                for chunk in chunks:
                    delivery.write(chunk)
        if self.sessions.get(session.id) is None:  # its stream had failed, and was forgotten
            self._forget(session)

    def _path(self, session: LiveSession) -> Path:
        return self._folder / f"{session.id}.mp4"

    def _forget(self, session: LiveSession) -> None:
        _remove(self._path(session))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or (on Windows) still being watched
        path.unlink()
