"""What a running host takes from the machine: threads, files, memory. On Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..raw_http import until

SPARE_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Threads that Python keeps for the files of a web server; it starts them one by one."""

RSS_FIELD = 1
"""Of /proc/PID/statm: pages in memory."""


def threads_and_files(server: Any) -> tuple[int, int]:
    """How many threads and how many open files the host has."""
    place = Path(f"/proc/{server.process.pid}")
    if not place.is_dir():
        pytest.skip("threads and files can be counted on Linux only")
    return len(list((place / "task").iterdir())), len(list((place / "fd").iterdir()))


def resident_bytes(server: Any) -> int:
    """Memory of the host."""
    text = Path(f"/proc/{server.process.pid}/statm").read_text()
    return int(text.split()[RSS_FIELD]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def nothing_stays(server: Any, *, spare_threads: int = SPARE_THREADS) -> Iterator[None]:
    """Threads and files of the host are afterwards no more than before, and it answers."""
    threads, files = threads_and_files(server)

    def settled() -> bool:
        now_threads, now_files = threads_and_files(server)
        return now_threads <= threads + spare_threads and now_files <= files

    yield
    until(settled, lambda: ((threads, files), threads_and_files(server), server.tail()))
    assert "sessions" in server.get("/hallolive/sessions")
