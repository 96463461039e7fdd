"""From a request to a plan of blocks; what cannot work is refused here, before anything runs."""

from __future__ import annotations

import math
from dataclasses import replace

from ..config import HALLO_5B, StreamSettings
from ..errors import RequestError
from ..prompts import check_prompt
from ..types import Request
from .blocks import ClipPlan

SECONDS_PER_BLOCK = 1
"""A block of 6 video latents is 24 frames at 24 fps (spec 01 §1)."""

SIZE_STEP = 32
"""Pixels: 16 of the VAE times the transformer's patch of 2 (spec 03 §2)."""

MAX_SEED = 2**64 - 1


def plan_request(
    request: Request,
    settings: StreamSettings | None = None,
    *,
    rope_rows: int = HALLO_5B.rope_rows,
) -> ClipPlan:
    """The blocks that a request asks for; its prompt is not looked at.

    Raises:
        RequestError: length, size, seed or look-ahead cannot work.
    """
    _check_size("height", request.height)
    _check_size("width", request.width)
    if not 0 <= request.seed <= MAX_SEED:
        raise RequestError(f"The seed must lie in 0..{MAX_SEED}", found=request.seed)
    if not (math.isfinite(request.seconds) and request.seconds > 0):
        raise RequestError(
            "A clip needs a length above zero", found=f"{request.seconds} seconds", fix="use 5"
        )
    sizes = replace((settings or StreamSettings()).blocks, lookahead=request.lookahead)
    plan = ClipPlan(sizes, math.ceil(request.seconds / SECONDS_PER_BLOCK))
    positions = max(plan.audio_horizon, plan.video_latents)
    if positions > rope_rows:
        longest = (rope_rows - request.lookahead) // sizes.audio_latents
        raise RequestError(
            f"{request.seconds:g} seconds are more than the transformer has positions for",
            found=f"{positions} audio latents with look-ahead, at most {rope_rows}",
            fix=f"ask for at most {max(longest, 1)} seconds, or less look-ahead",
        )
    return plan


def check_request(
    request: Request,
    settings: StreamSettings | None = None,
    *,
    rope_rows: int = HALLO_5B.rope_rows,
) -> ClipPlan:
    """`plan_request`, and the prompt's tags.

    Raises:
        RequestError: see `plan_request`.
        PromptError: the prompt is empty or its tags do not match.
    """
    check_prompt(request.prompt)
    return plan_request(request, settings, rope_rows=rope_rows)


def _check_size(name: str, pixels: int) -> None:
    if pixels < SIZE_STEP or pixels % SIZE_STEP:
        nearest = max(SIZE_STEP, round(pixels / SIZE_STEP) * SIZE_STEP)
        raise RequestError(
            f"The {name} must be a multiple of {SIZE_STEP} pixels",
            found=pixels,
            fix=f"use {nearest}",
        )
