"""Parts of the toy run that do not need each other, each in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def side_by_side(calls: Sequence[Callable[[], object]], *, workers: int) -> None:
    """Make all calls, `workers` at a time; they must be picklable. One worker is this process."""
    if workers == 1:
        for call in calls:
            call()
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_without_bars) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


def _without_bars() -> None:
    """Progress bars of several processes would write over each other."""
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for good
