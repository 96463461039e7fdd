"""The way of chunks to where they are wanted: a live stream, a file, both."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import BinaryIO, Protocol

from ..clock import MediaClock
from ..decoding.worker import BackgroundWorker
from ..errors import MediaError
from ..types import MediaChunk
from .fmp4 import FragmentedMp4
from .sessions import LiveSession, describe

logger = logging.getLogger(__name__)

MAX_WAITING = 12
"""Chunks that may wait for the encoders (two blocks, 70 MB at 512x992); beyond, the run waits."""


class Sink(Protocol):
    """Something that takes chunks, such as an `Mp4Writer`."""

    def write(self, chunk: MediaChunk) -> None:
        """Take the next chunk."""
        ...

    def close(self) -> object:
        """Nothing follows. Safe to repeat."""
        ...


class SessionSink:
    """Encodes chunks for the viewers of a session.

    An encoder that fails ends the stream and says so there; the run goes on.
    """

    def __init__(self, session: LiveSession, *, clock: MediaClock | None = None) -> None:
        self._session = session
        self._clock = clock or MediaClock()
        self._muxer = FragmentedMp4(clock=self._clock)

    def write(self, chunk: MediaChunk) -> None:
        """Encode a chunk and hand it to all viewers."""
        if self._session.has_ended:
            return
        try:
            segments = self._muxer.write(chunk)
        except Exception as error:
            logger.exception("The live stream has failed; the run goes on")
            self._session.end("failed", describe(error))
            return
        self._session.mime = self._muxer.mime
        for segment in segments:
            self._session.broadcast.push(segment)
        end = chunk.first_frame + len(chunk.frames)
        self._session.made(float(self._clock.frame_time(end)))

    def close(self) -> None:
        """Hand out the end of the sound; the session itself is ended by its `running`."""
        for segment in self._muxer.close():
            self._session.broadcast.push(segment)


class FileSink:
    """Encodes chunks into a binary file or pipe as they come.

    Raises:
        MediaError: it cannot be written; for a pipe, that its reader has left.
    """

    def __init__(self, file: BinaryIO, *, clock: MediaClock | None = None) -> None:
        self._file = file
        self._muxer = FragmentedMp4(clock=clock)
        self._failed = False

    def write(self, chunk: MediaChunk) -> None:
        """Encode a chunk and write it through."""
        self._put(b"".join(segment.data for segment in self._muxer.write(chunk)))

    def close(self) -> None:
        """Write the end of the sound; the file itself stays open."""
        rest = b"".join(segment.data for segment in self._muxer.close())
        if not self._failed:
            self._put(rest)

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:  # an unbuffered file may take less than it is given
                rest = rest[self._file.write(rest) :]
            self._file.flush()
        except (OSError, ValueError) as error:
            self._failed = True
            raise MediaError(
                "The live stream cannot be written",
                found=error,
                fix="check that its reader is still there, and the free space",
            ) from error


class Delivery:
    """Hands chunks to sinks, each in a thread of its own: no sink waits for another, nor the run.

    A sink that fails is closed and left out, the others go on; when nobody is left `write` raises.
    Leaving the context waits until all chunks are written and all sinks closed, also after an
    exception; then the first sink's error is raised, unless another exception is on its way.
    """

    def __init__(self, *sinks: Sink) -> None:
        self._lanes = [_Lane(sink) for sink in sinks]

    def __enter__(self) -> Delivery:
        for lane in self._lanes:
            lane.worker.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lane in self._lanes:
            lane.finish()
        if error is None and self._errors:
            raise self._errors[0]

    @property
    def num_waiting(self) -> int:
        """Chunks that wait for the slowest encoder."""
        return max((lane.worker.num_waiting for lane in self._lanes), default=0)

    def write(self, chunk: MediaChunk) -> None:
        """Hand over a chunk; waits only while an encoder is `MAX_WAITING` chunks behind.

        Raises:
            Exception: the first sink's error, when every sink has failed.
        """
        if self._lanes and len(self._errors) == len(self._lanes):
            raise self._errors[0]
        for lane in self._lanes:
            lane.offer(chunk)

    @property
    def _errors(self) -> list[Exception]:
        return [lane.error for lane in self._lanes if lane.error is not None]


class _Lane:
    """The way to one sink."""

    def __init__(self, sink: Sink) -> None:
        self.error: Exception | None = None
        self.worker: BackgroundWorker[MediaChunk, None] = BackgroundWorker(
            self._deliver, max_waiting=MAX_WAITING, name="hallo-live-writer"
        )
        self._sink = sink

    def offer(self, chunk: MediaChunk) -> None:
        """Put a chunk on its way, as soon as there is room."""
        while not self.worker.offer(chunk):
            for _ in self.worker.ready():
                pass

    def finish(self) -> None:
        """Wait until everything is written; close the sink and the thread."""
        try:
            for _ in self.worker.finish():
                pass
        finally:
            self.worker.__exit__()
            self._close()

    def _deliver(self, chunk: MediaChunk) -> tuple[()]:
        if self.error is None:
            try:
                self._sink.write(chunk)
            except Exception as error:
                logger.info("An output has failed: %s", error)
                self.error = error
                self._close()
        return ()

    def _close(self) -> None:
        try:
            self._sink.close()
        except Exception as error:
            self.error = self.error or error
