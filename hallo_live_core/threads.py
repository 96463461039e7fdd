"""Threads that stay for the next clip.

PyTorch keeps cuDNN's plans, for convolutions and for attention, per thread: another thread makes
all of them anew, and those of a thread that has ended stay in memory. So what a run does on GPUs
beside its own thread, it does in the same one every time.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Answer = TypeVar("Answer")
Jobs = queue.SimpleQueue[Callable[[], None] | None]


class StandingThread:
    """A thread that does one job after the other. It ends with `end`, or when this object goes.

    It is called `name` while it works and `idle name` while it waits, and keeps no program from
    ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: Jobs = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=_work_through, args=(self._jobs,), name=f"idle {name}", daemon=True
        )
        self._newest: weakref.ref[Future[Any]] | None = None
        weakref.finalize(self, self._jobs.put, None)

    @property
    def is_idle(self) -> bool:
        """Whether it has done all that it was given."""
        newest = None if self._newest is None else self._newest()
        return newest is None or newest.done()

    def begin(self, work: Callable[[], Answer]) -> Future[Answer]:
        """Have `work` done, with the caller's context variables, after what was begun before.

        The future has its answer or, whole, what it raised.
        """
        future: Future[Answer] = Future()
        self._newest = weakref.ref(future)
        if self._thread.ident is None:
            self._thread.start()
        context = contextvars.copy_context()
        self._jobs.put(lambda: context.run(_do, work, future, self._name))
        return future

    def end(self) -> None:
        """Wait until all is done and the thread has ended; nothing can be begun after."""
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()


def _work_through(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # holds what it worked on


def _do(work: Callable[[], Answer], future: Future[Answer], name: str) -> None:
    thread = threading.current_thread()
    thread.name = name
    try:
        answer = work()
    except BaseException as error:  # crosses to whoever asks the future
        thread.name = f"idle {name}"
        future.set_exception(error)
    else:
        thread.name = f"idle {name}"
        future.set_result(answer)
    finally:
        del work, future  # an error holds this frame, and would hold them
