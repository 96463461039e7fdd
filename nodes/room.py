"""Is there room for a run? Asked before it, answered with numbers and what would help."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from ..hallo_live_core import HalloLive, MemoryBudget, Request, RequestError, gigabytes
from . import host

logger = logging.getLogger(__name__)

REMEDIES = 2
"""How many ways out a refusal names."""


def ready(
    engine: HalloLive, request: Request, patchers: Iterable[Any]
) -> AbstractContextManager[None]:
    """Have the models of a run on their devices, with room for all that it takes besides them.

    Raises:
        RequestError: a device could not even hold that; names numbers and remedies.
    """
    budget = engine.memory(request)
    totals = {device: host.memory(device)[1] for device in budget.devices}
    for device, total in totals.items():
        needed = budget.run_on(device)
        if needed > total:
            raise RequestError(
                f"This clip needs {gigabytes(needed)} on {device} besides the models",
                found=f"{gigabytes(total)} there are",
                fix="; ".join([*_remedies(engine, request, device, total)][:REMEDIES]),
            )
    logger.info("%s", summary(engine, budget))
    return host.loaded(patchers, {device: budget.run_on(device) for device in budget.devices})


def summary(engine: HalloLive, budget: MemoryBudget) -> str:
    """One line: what a run takes where, and in which formats."""
    parts = [
        f"{device}: {gigabytes(budget.run_on(device))} for the run, "
        f"{gigabytes(budget.total_on(device) - budget.run_on(device))} of weights"
        for device in budget.devices
    ]
    cache = "fp8" if engine.settings.fp8_cache else str(engine.placement.dtype).split(".")[-1]
    return f"Hallo-Live needs {', '.join(parts)} (caches in {cache})"


def _remedies(
    engine: HalloLive, request: Request, device: torch.device, total: int
) -> Iterator[str]:
    if not engine.settings.fp8_cache:
        smaller = engine.memory(request, fp8_cache=True).run_on(device)
        if saved := engine.memory(request).run_on(device) - smaller:
            yield f"set kv_cache of the model loader to fp8, which saves {gigabytes(saved)}"
    for seconds in range(int(request.seconds) - 1, 0, -1):
        shorter = engine.memory(replace(request, seconds=float(seconds)))
        if shorter.run_on(device) <= total:
            yield f"make it at most {seconds} s long"
            break
    yield "choose a smaller width and height"
    yield "choose the light decoder taew2_2, or another device for the decoders"
