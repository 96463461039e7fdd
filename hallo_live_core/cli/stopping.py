"""Ctrl-C, taken as a wish: the piece of work in hand is finished, and what exists is kept."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class StopFlag:
    """Becomes true when the user asks to stop."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.raised


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """The first Ctrl-C (or SIGTERM) stops after the pass in hand, a second one at once."""
    stop = StopFlag()

    previous = {int(n): signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        stop.raised = True
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
