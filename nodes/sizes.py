"""Sizes of the picture by name, instead of width and height."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hallo_live_core import KNOWN_SIZES, Request
from .sockets import ADVANCED

FREE = "width and height"
"""The choice that leaves the size to the two numbers."""

PRESETS = {f"{width} x {height}": (height, width) for height, width in KNOWN_SIZES}


def size_input() -> io.Input:
    """The list; stands last."""
    return io.Combo.Input(
        "size",
        options=[FREE, *PRESETS],
        default=FREE,
        optional=True,
        tooltip=(
            "A size (width x height) that the model or those it descends from know, instead of "
            "the numbers in width and height."
        ),
        extra_dict=ADVANCED,
    )


def request_of(settings: dict[str, Any]) -> Request:
    """The request with the size that was chosen, by name or by numbers."""
    numbers = dict(settings)
    if (chosen := PRESETS.get(numbers.pop("size", FREE))) is not None:
        numbers["height"], numbers["width"] = chosen
    return Request(**numbers)
