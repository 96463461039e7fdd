"""One stream, many readers: what was made lately is kept, and nobody makes the run wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from ..errors import HalloLiveError
from .fmp4 import Segment

RING_BYTES = 40 * 2**20
"""Newest fragments that one stream keeps; the longest clip (34 s) at the highest rate fits."""

MAX_READERS = 64
"""Readers of one stream at a time."""

Wake = Callable[[], object]


class TooManyReadersError(HalloLiveError):
    """A stream has as many readers as it may have."""


class Broadcast:
    """The bytes of one stream. `push` and `close` belong to the run, `reader` to everybody.

    The init segment is kept for good, fragments in a ring of at most `max_bytes` (and at least the
    newest one). All methods may be called from any thread; none waits for a reader.
    """

    def __init__(self, *, max_bytes: int = RING_BYTES, max_readers: int = MAX_READERS) -> None:
        self._max_bytes, self._max_readers = max_bytes, max_readers
        self._lock = threading.Lock()
        self._init: Segment | None = None
        self._ring: deque[Segment] = deque()
        self._first = 0
        self._nbytes = 0
        self._closed = False
        self._readers: set[Reader] = set()

    def push(self, segment: Segment) -> None:
        """Hand a segment to all readers; after `close` it is dropped."""
        with self._lock:
            if self._closed:
                return
            if segment.kind == "init":
                self._init = segment
            else:
                self._ring.append(segment)
                self._nbytes += len(segment.data)
                while self._nbytes > self._max_bytes and len(self._ring) > 1:
                    self._nbytes -= len(self._ring.popleft().data)
                    self._first += 1
            waiting = list(self._readers)
        _wake(waiting)

    def close(self) -> None:
        """Nothing follows: readers get what they have not read yet, and then the end."""
        with self._lock:
            self._closed = True
            waiting = list(self._readers)
        _wake(waiting)

    def reader(self, *, from_start: bool = False, wake: Wake | None = None) -> Reader:
        """Begin to read: the init segment, then from the newest key frame on.

        from_start, and always once the stream has ended: from the oldest key frame still there.
        wake is called, in the thread of the run, whenever there may be something to read.

        Raises:
            TooManyReadersError: enough others are reading.
        """
        with self._lock:
            if len(self._readers) >= self._max_readers:
                raise TooManyReadersError(
                    "Too many viewers of this stream", found=len(self._readers), fix="try later"
                )
            oldest = from_start or self._closed
            position = self._key_from(self._first) if oldest else self._newest_key()
            reader = Reader(self, position, wake)
            self._readers.add(reader)
        return reader

    @property
    def nbytes(self) -> int:
        """Bytes kept in memory."""
        with self._lock:
            return self._nbytes + (len(self._init.data) if self._init else 0)

    @property
    def num_readers(self) -> int:
        """Readers that have not left."""
        with self._lock:
            return len(self._readers)

    # -- for readers, with the lock held -----------------------------------------------------

    def _segment(self, position: int) -> Segment | None:
        index = position - self._first
        return self._ring[index] if 0 <= index < len(self._ring) else None

    def _key_from(self, position: int) -> int:
        """Position of the first key segment from here on, or of the next segment to come."""
        begin = max(0, position - self._first)
        for index, segment in enumerate(islice(self._ring, begin, None), begin):
            if segment.kind == "key":
                return self._first + index
        return self._first + len(self._ring)

    def _newest_key(self) -> int:
        for index in range(len(self._ring) - 1, -1, -1):
            if self._ring[index].kind == "key":
                return self._first + index
        return self._first + len(self._ring)


class Reader:
    """One reader's place in a stream; use it as a context manager, and from one thread.

    A reader whose next segment has left the ring goes on at the next key frame; `skipped` counts
    how often that happened.
    """

    def __init__(self, broadcast: Broadcast, position: int, wake: Wake | None) -> None:
        self._broadcast = broadcast
        self._position = position
        self._wake = wake
        self._event = threading.Event()
        self._has_init = False
        self._needs_key = True
        self.skipped = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self) -> bytes | None:
        """The next bytes; empty if there are none yet, None if there never will be. Never waits."""
        stream = self._broadcast
        with stream._lock:
            if not self._has_init:
                return self._read_init(stream)
            if self._position < stream._first:
                self._needs_key = True
                self.skipped += 1
                self._position = stream._first
            while (segment := stream._segment(self._position)) is not None:
                self._position += 1
                if segment.kind == "key" or not self._needs_key:
                    self._needs_key = False
                    return segment.data
            return None if stream._closed else b""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there may be something to read; False after `timeout` seconds."""
        woken = self._event.wait(timeout)
        self._event.clear()
        return woken

    def __iter__(self) -> Iterator[bytes]:
        """All bytes to the end of the stream, waiting for those to come."""
        while (data := self.read()) is not None:
            if data:
                yield data
            else:
                self.wait()

    def close(self) -> None:
        """Leave. Safe to repeat."""
        with self._broadcast._lock:
            self._broadcast._readers.discard(self)

    def _read_init(self, stream: Broadcast) -> bytes | None:
        if stream._init is None:
            return None if stream._closed else b""
        self._has_init = True
        return stream._init.data


def _wake(readers: list[Reader]) -> None:
    for reader in readers:
        reader._event.set()
        try:
            if reader._wake is not None:
                reader._wake()
        except RuntimeError:  # its event loop is gone, and the reader with it
            reader.close()
