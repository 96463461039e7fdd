"""Which frames VideoAlign looks at, at what size, cut into patches (spec 08 §4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ...errors import ShapeError

TARGET_FPS = 2.0
MIN_FRAMES, MAX_FRAMES = 4, 768
PAIR = 2
"""Frames that share a patch."""

PATCH, MERGE = 14, 2
CELL = PATCH * MERGE
"""Pixels that become one visual token; sides are multiples of it."""

MIN_PIXELS, MAX_PIXELS = 128 * CELL**2, 256 * CELL**2
"""Of a frame."""

MAX_ASPECT = 200

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours, in red, green, blue: CLIP's."""


def sample_indices(num_frames: int, fps: Fraction | float) -> list[int]:
    """The frames to look at, about two per second, an even number of them, evenly spread.

    Raises:
        ShapeError: the clip has a single frame.
    """
    if num_frames < PAIR:
        raise ShapeError(
            "The video judge needs at least 2 frames",
            found=f"{num_frames}",
            fix="a single picture has no motion to judge",
        )
    most = min(MAX_FRAMES, num_frames) // PAIR * PAIR
    wished = min(max(num_frames / float(fps) * TARGET_FPS, MIN_FRAMES), most)
    count = PAIR * round(wished / PAIR)
    return torch.linspace(0, num_frames - 1, count).round().long().tolist()


def target_size(height: int, width: int) -> tuple[int, int]:
    """Height and width to resize frames to.

    Raises:
        ShapeError: the picture is more than 200 times as long as wide, or the other way round.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ShapeError(
            "The picture is too narrow to judge",
            found=f"{width}x{height}",
            fix=f"one side may be {MAX_ASPECT} times the other at most",
        )
    sides = (height, width)
    area = math.prod(_to_cells(side, 1.0, round) for side in sides)
    if area > MAX_PIXELS:
        scale, to_cells = math.sqrt(MAX_PIXELS / (height * width)), math.floor
    elif area < MIN_PIXELS:
        scale, to_cells = math.sqrt(MIN_PIXELS / (height * width)), math.ceil
    else:
        scale, to_cells = 1.0, round
    return _to_cells(height, scale, to_cells), _to_cells(width, scale, to_cells)


def _to_cells(side: int, scale: float, whole: Callable[[float], int]) -> int:
    return whole(side * scale / CELL) * CELL


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [f, h, w, 3] -> uint8 [f, 3, *size], bicubic with antialiasing, frame by frame."""
    resized = [
        functional.interpolate(
            rearrange(frame, "h w c -> 1 c h w").float(),
            size=size,
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
        for frame in frames
    ]
    return torch.cat([frame.round().clamp(0, 255).byte() for frame in resized])


def to_patches(frames: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """uint8 [f, 3, h, w], f even -> patches [p, 1176] and their grid (pairs, rows, columns).

    Four patches of one visual token follow each other.
    """
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    coloured = (frames.float() / 255 - mean) / std
    count, _, height, width = frames.shape
    patches = rearrange(
        coloured,
        "(t pair) c (h mh ph) (w mw pw) -> (t h w mh mw) (c pair ph pw)",
        pair=PAIR,
        mh=MERGE,
        mw=MERGE,
        ph=PATCH,
        pw=PATCH,
    )
    return patches, (count // PAIR, height // PATCH, width // PATCH)


def num_visual_tokens(grid: tuple[int, int, int]) -> int:
    """Tokens that a grid of patches becomes."""
    return math.prod(grid) // MERGE**2
