"""All sound of a clip while it is being written, outside of memory: clips may last for hours."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO

import numpy as np

SAMPLE = np.dtype(np.float32)


class KeptSound:
    """Samples in a file without a name, which is gone when this is.

    Raises:
        OSError: the temporary folder cannot be written.
    """

    def __init__(self) -> None:
        self.length = 0
        self._file: IO[bytes] | None = None

    def add(self, sound: np.ndarray) -> None:
        """Append samples, float32 [s]."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
            weakref.finalize(self, self._file.close)
        self._file.seek(0, os.SEEK_END)
        self._file.write(sound.astype(SAMPLE, copy=False).tobytes())
        self.length += len(sound)

    def parts(self, start: int, end: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first sample, samples) from `start` to `end`, `size` at a time.

        Before sample 0 and after the last one there is silence.
        """
        for first in range(start, end, size):
            yield first, self._read(first, min(first + size, end))

    def close(self) -> None:
        """Forget everything. Safe to repeat."""
        if self._file is not None:
            self._file.close()

    def _read(self, first: int, end: int) -> np.ndarray:
        known = np.zeros(0, SAMPLE)
        begin = min(max(0, first), self.length)
        if self._file is not None and begin < min(end, self.length):
            self._file.seek(begin * SAMPLE.itemsize)
            known = np.frombuffer(self._file.read((end - begin) * SAMPLE.itemsize), SAMPLE)
        before = max(0, min(end, 0) - first)
        return np.pad(known, (before, end - first - before - len(known)))
