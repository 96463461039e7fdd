"""Which parameters train, and how fast each group learns (spec 06 §11).

Everything is said in published names such as `video_model.blocks.3.self_attn.q.weight`; a name is
chosen by what it contains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit.weights import to_published

ATTENTION = ("self_attn.", "cross_attn.")
"""What trains in stage 2 as published: 48.6 % of all parameters."""

VIDEO, AUDIO = "video_model.", "audio_model."


@dataclass(frozen=True, slots=True)
class TrainableSettings:
    """partial: only names that contain one of `patterns`. audio_only: nothing of the picture."""

    partial: bool = True
    patterns: tuple[str, ...] = ATTENTION
    audio_only: bool = False

    def trains(self, name: str) -> bool:
        """Whether the parameter of this published name learns."""
        if self.audio_only and VIDEO in name:
            return False
        return not self.partial or any(pattern in name for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class AdamWSettings:
    """The published values of stage 2. A stream without a rate of its own has `lr`.

    kind: `adamw_8bit` keeps the moments in 8 bits, by torchao or bitsandbytes, which changes a run.
    """

    lr: float = 2e-6
    lr_video: float | None = None
    lr_audio: float | None = None
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    kind: Literal["adamw", "adamw_8bit"] = "adamw"

    def __post_init__(self) -> None:
        rates = [r for r in (self.lr, self.lr_video, self.lr_audio) if r is not None]
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise RequestError("Learning rates must be above 0", found=rates)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RequestError("betas must lie in 0..1, 1 excluded", found=self.betas)
        if self.eps <= 0 or self.weight_decay < 0:
            raise RequestError(
                "eps must be above 0, and weight_decay not below",
                found=f"{self.eps} and {self.weight_decay}",
            )


def published_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a `DualStreamDiT` by published name, in the order of the model."""
    named = dict(model.named_parameters())
    return {name: named[own] for own, name in zip(named, to_published(named), strict=True)}


def freeze(
    parameters: Mapping[str, nn.Parameter], settings: TrainableSettings
) -> dict[str, nn.Parameter]:
    """Let the chosen parameters learn and no others; returns the chosen ones.

    Raises:
        RequestError: nothing would learn.
    """
    for name, parameter in parameters.items():
        parameter.requires_grad_(settings.trains(name))
    chosen = {name: p for name, p in parameters.items() if p.requires_grad}
    if not chosen:
        raise RequestError(
            "No parameter would train",
            found=f"patterns {', '.join(settings.patterns)}",
            fix=f"use parts of names such as {next(iter(parameters), 'self_attn.')}",
        )
    return chosen


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], settings: AdamWSettings
) -> list[dict[str, Any]]:
    """Groups of picture, sound and the rest, in this order, each with its rate; empty ones dropped.

    Every group also has its `name`.
    """
    rates = {
        "video": settings.lr if settings.lr_video is None else settings.lr_video,
        "audio": settings.lr if settings.lr_audio is None else settings.lr_audio,
        "shared": settings.lr,
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in parameters.items():
        members[_stream(name)].append(parameter)
    return [
        {"name": name, "params": found, "lr": rates[name]}
        for name, found in members.items()
        if found
    ]


def _stream(name: str) -> str:
    if VIDEO in name:
        return "video"
    return "audio" if AUDIO in name else "shared"
