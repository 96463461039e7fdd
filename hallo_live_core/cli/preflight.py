"""Refuses a clip that cannot fit before weights are read, and says what would help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import Profile
from ..devices import Placement
from ..engine import DECODERS
from ..engine.memory import MemoryBudget
from ..engine.planning import planned_memory
from ..errors import RequestError, gigabytes
from ..types import Request

REMEDIES = 2
"""How many ways out a refusal names."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Everything besides the request on which memory depends."""

    models: Path
    placement: Placement
    profile: Profile
    decoder: str

    def budget(self, request: Request) -> MemoryBudget:
        """The memory that this request takes."""
        return planned_memory(
            request,
            self.placement,
            profile=self.profile,
            decoder=self.decoder,
            models=self.models,
        )


def check_memory(
    request: Request, choice: Choice, *, free: Callable[[torch.device], int] | None = None
) -> None:
    """Refuse a clip for which a GPU has too little free memory. Main memory is not looked at.

    Raises:
        RequestError: names needs, what is free, and the two changes that help most.
    """
    on = choice.placement
    gpus = {
        device: (free or free_on)(device)
        for device in (on.transformer, *on.sharers, on.decoder, on.text_encoder)
        if device.type == "cuda"
    }
    if not gpus:
        return
    budget = choice.budget(request)
    for device in budget.devices:
        needed = budget.total_on(device)
        if device in gpus and needed > gpus[device]:
            raise RequestError(
                f"This clip needs {gigabytes(needed)} on {device}, weights included",
                found=f"{gigabytes(gpus[device])} free",
                fix=_remedies(request, choice, device, needed),
            )


def free_on(device: torch.device) -> int:
    """Free bytes of a CUDA device, by all programs."""
    return torch.cuda.mem_get_info(device)[0]


def _remedies(request: Request, choice: Choice, device: torch.device, needed: int) -> str:
    savings = [
        (needed - changed.budget(request).total_on(device), words)
        for words, changed in _changes(choice)
    ]
    best = sorted((saving for saving in savings if saving[0] > 0), reverse=True)[:REMEDIES]
    ways = [f"{words} saves {gigabytes(nbytes)}" for nbytes, words in best]
    return "; ".join(ways) or "make it shorter or smaller, or use a larger GPU"


def _changes(choice: Choice) -> Iterator[tuple[str, Choice]]:
    """Every switch that is not yet set."""
    placement, profile = choice.placement, choice.profile
    if placement.text_encoder.type == "cuda":
        aside = replace(placement, text_encoder=torch.device("cpu"))
        yield "--text-device cpu", replace(choice, placement=aside)
    if not profile.fp8_weights:
        yield "--fp8-weights", replace(choice, profile=replace(profile, fp8_weights=True))
    if not profile.fp8_cache:
        yield "--fp8-cache", replace(choice, profile=replace(profile, fp8_cache=True))
    if choice.decoder == DECODERS[0]:
        yield f"--decoder {DECODERS[1]}", replace(choice, decoder=DECODERS[1])
