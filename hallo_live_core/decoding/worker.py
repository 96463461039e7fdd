"""Decode block i on one device while block i + 1 is denoised on another."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

import torch

from ..threads import StandingThread

Item = TypeVar("Item")
Result = TypeVar("Result")

POLL_SECONDS = 0.05
"""How often a waiting thread looks up to see whether it should stop or the other side died."""


class _End:
    """Marks the end of the items."""


class BackgroundWorker(Generic[Item, Result]):
    """Turns submitted items into results in one thread, in order. Use it as a context manager.

    Args:
        work: called with each item in the thread; its results are collected one by one.
        max_waiting: items that may wait; `offer` refuses beyond that (back-pressure). So results
            are bounded, too: by those of the items that wait and of the one in work.
        thread: does the work, and stays; None: one of its own, which ends with the context.
        name: of a thread of its own.

    An exception of `work` (also a host's interruption) is raised again in the owner's thread by
    `ready` or `finish`, after the results that came before it. Leaving the context stops the work
    after the result in hand and waits for it: nothing is left running.
    """

    def __init__(
        self,
        work: Callable[[Item], Iterable[Result]],
        *,
        max_waiting: int = 2,
        thread: StandingThread | None = None,
        name: str = "hallo-live-worker",
    ) -> None:
        self._work = work
        self._items: queue.Queue[Item | _End] = queue.Queue(max_waiting)
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = thread or StandingThread(name)
        self._is_own = thread is None
        self._job: Future[None] | None = None
        self._at_exit: weakref.finalize[..., BackgroundWorker[Item, Result]] | None = None

    def __enter__(self) -> BackgroundWorker[Item, Result]:
        inference = torch.is_inference_mode_enabled()
        self._job = self._thread.begin(lambda: self._run(inference))
        # A program that ends with the context open must not end in the middle of the work.
        self._at_exit = weakref.finalize(self, _leave, self._stop, self._job)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._at_exit is not None:
            self._at_exit()
        if self._is_own:
            self._thread.end()

    @property
    def num_waiting(self) -> int:
        """Items that have not been begun."""
        return self._items.qsize()

    def offer(self, item: Item) -> bool:
        """Hand over an item; after a moment of waiting False if there was no room for it."""
        return self._error is None and self._put(item)

    def ready(self) -> Iterator[Result]:
        """The results that exist now, without waiting."""
        while True:
            try:
                yield self._results.get_nowait()
            except queue.Empty:
                break
        if self._error is not None:
            raise self._error

    def finish(self) -> Iterator[Result | None]:
        """No more items: the remaining results as they come, and None whenever none has come yet.

        The Nones let the owner check for interruption while it waits.
        """
        ended = False
        while self._job is not None and not self._job.done():
            ended = ended or self._put(_End())
            try:
                yield self._results.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
        yield from self.ready()

    def _put(self, item: Item | _End) -> bool:
        try:
            self._items.put(item, timeout=POLL_SECONDS)
        except queue.Full:
            return False
        return True

    def _run(self, inference: bool) -> None:
        with torch.inference_mode(inference):
            try:
                self._drain()
            except BaseException as error:  # crosses to the owner's thread whole
                self._error = error

    def _drain(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                return
            for result in self._work(item):
                self._results.put(result)
                if self._stop.is_set():
                    return


def _leave(stop: threading.Event, job: Future[None]) -> None:
    """Stop after the result in hand, and wait for that."""
    stop.set()
    wait([job])
