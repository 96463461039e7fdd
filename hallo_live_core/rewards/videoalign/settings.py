"""What `model_config.json` of VideoReward says, checked against what is built here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import CheckpointError
from .frames import MAX_PIXELS, TARGET_FPS
from .judge import AXES, PUBLISHED_NORM, Norm
from .weights import LORA_ALPHA

TEMPLATE_TYPE = "detailed_special"
EXPECTED = (
    ("eval_dim", list(AXES)),
    ("prompt_template_type", TEMPLATE_TYPE),
    ("use_special_tokens", True),
    ("output_dim", 1),
    ("fps", TARGET_FPS),
    ("max_frame_pixels", MAX_PIXELS),
)
"""Entries that the code here takes for granted (spec 08 §4.1)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the file at hand is merged and its rewards normalised."""

    lora_alpha: float = LORA_ALPHA
    norms: tuple[Norm, ...] = PUBLISHED_NORM


def settings_from_config(config: Mapping[str, Any]) -> Settings:
    """The settings in a `model_config.json`; what it does not say is as published.

    Raises:
        CheckpointError: it describes a judge of another kind.
    """
    for name, expected in EXPECTED:
        found = _find(config, name)
        if found not in (None, expected):
            raise CheckpointError(
                "This VideoReward model is of a kind that is not supported",
                found=f"{name} is {found!r} instead of {expected!r}",
                fix="use KlingTeam/VideoReward",
            )
    norms = tuple(
        Norm(
            _number(_find(config, f"{axis}_mean"), norm.mean),
            _number(_find(config, f"{axis}_std"), norm.std),
        )
        for axis, norm in zip(AXES, PUBLISHED_NORM, strict=True)
    )
    return Settings(_number(_find(config, "lora_alpha"), LORA_ALPHA), norms)


def settings_to_config(settings: Settings) -> dict[str, Any]:
    """A `model_config.json` that says the same of a file without adapters."""
    statistics = {
        f"{axis}_{name}": value
        for axis, norm in zip(AXES, settings.norms, strict=True)
        for name, value in asdict(norm).items()
    }
    return {"inference_config": statistics}


def _number(found: object, default: float) -> float:
    return float(found) if isinstance(found, int | float) else default


def _find(config: Mapping[str, Any], name: str) -> object:
    """The entry of that name at any depth, None if there is none."""
    if name in config:
        return config[name]
    inner = (_find(value, name) for value in config.values() if isinstance(value, Mapping))
    return next((found for found in inner if found is not None), None)
