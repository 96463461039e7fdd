"""From a request to a plan of blocks; what cannot work is refused here, before anything runs."""

from __future__ import annotations

import math
import numbers
from dataclasses import replace

from ..config import HALLO_5B, SIZE_STEP, StreamSettings
from ..errors import RequestError, shortened
from ..prompts import check_prompt
from ..types import Request
from .blocks import ClipPlan
from .window import Window

SECONDS_PER_BLOCK = 1
"""A block of 6 video latents is 24 frames at 24 fps (spec 01 §1)."""

MAX_SEED = 2**64 - 1

MAX_SECONDS = 86_400
"""A day. No transformer has positions for so long: such streams need a window."""

TRAINED_BLOCKS = 5
"""The length of the clips that the model was trained with (spec 01 §1)."""

WHOLE_NUMBERS = (
    *("height", "width", "seed", "lookahead"),
    *("window_blocks", "sink_blocks", "opening_latents"),
)
"""The settings of a request that count something."""


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
    for name in WHOLE_NUMBERS:
        _check_whole(name, getattr(request, name))
    _check_size("height", request.height, rope_rows)
    _check_size("width", request.width, rope_rows)
    if not 0 <= request.seed <= MAX_SEED:
        raise RequestError(f"The seed must lie in 0..{MAX_SEED}", found=request.seed)
    _check_seconds(request.seconds)
    sizes = replace((settings or StreamSettings()).blocks, lookahead=request.lookahead)
    seconds = request.seconds or MAX_SECONDS
    blocks = math.ceil(seconds / SECONDS_PER_BLOCK) + (request.opening_latents > 0)
    plan = ClipPlan(sizes, blocks, _window(request), request.opening_latents)
    _check_positions(request, plan, rope_rows)
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


def _window(request: Request) -> Window | None:
    """What is remembered, if not everything; a stream without end needs a bound."""
    if request.window_blocks == 0 and request.seconds > 0:
        return None
    return Window(request.window_blocks or TRAINED_BLOCKS, request.sink_blocks)


def _check_positions(request: Request, plan: ClipPlan, rope_rows: int) -> None:
    """What is remembered must have positions, and noise that is drawn at once must be bounded."""
    held = plan.remembered
    positions = max(held.audio_horizon, held.video_latents)
    longest = max(1, (rope_rows - request.lookahead) // plan.sizes.audio_latents)
    if positions > rope_rows and plan.window is None:
        raise RequestError(
            f"{float(request.seconds):g} seconds are more than the transformer has positions for",
            found=f"{positions} audio latents with look-ahead, at most {rope_rows}",
            fix=f"ask for at most {longest} seconds, or less look-ahead, or a window of "
            f"{TRAINED_BLOCKS} blocks",
        )
    if positions > rope_rows:
        raise RequestError(
            "The window is longer than the transformer has positions for",
            found=f"{held.num_blocks} blocks",
            fix=f"remember at most {longest} blocks; the model was trained with {TRAINED_BLOCKS}",
        )
    if request.correlated_noise and plan.audio_latents > rope_rows:
        raise RequestError(
            "Correlated noise is drawn at once for the whole clip, and this one is too long",
            fix=f"ask for at most {longest} seconds, or for independent noise",
        )


def _check_size(name: str, pixels: int, rope_rows: int) -> None:
    largest = SIZE_STEP * rope_rows
    if pixels > largest:
        raise RequestError(
            f"The {name} is larger than the transformer has positions for",
            found=f"{pixels} pixels",
            fix=f"use at most {largest}",
        )
    if pixels < SIZE_STEP or pixels % SIZE_STEP:
        nearest = max(SIZE_STEP, (pixels + SIZE_STEP // 2) // SIZE_STEP * SIZE_STEP)
        raise RequestError(
            f"The {name} must be a multiple of {SIZE_STEP} pixels",
            found=pixels,
            fix=f"use {nearest}",
        )


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, numbers.Integral) or abs(int(value)) > MAX_SEED:
        raise RequestError(f"The {name} must be a whole number of 64 bits", found=shortened(value))


def _check_seconds(seconds: float) -> None:
    """Refuse what is not a length, and what is longer than any stream may be."""
    if not (isinstance(seconds, numbers.Real) and 0 <= seconds <= MAX_SECONDS):
        raise RequestError(
            f"A clip needs a length above zero, and at most {MAX_SECONDS} seconds",
            found=f"{shortened(seconds)} seconds",
            fix="use 5, or 0 to go on until you stop it",
        )
