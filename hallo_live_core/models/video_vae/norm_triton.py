# ruff: noqa: ANN001, ANN202, PLR0913  (types of a kernel's arguments are Triton's business)
"""Channel norm and SiLU in one pass over memory, for channels-last video on GPUs.

Imported only by functions that found Triton: torch's CUDA builds for Linux bring it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS_PER_PROGRAM = 4096
"""Values that one program holds in registers; at least one pixel."""


@triton.jit
def _norm_silu(
    x,
    gamma,
    out,
    num_pixels,
    pixels_per_clip,
    gap,
    smallest,
    root,
    channels: tl.constexpr,
    block_channels: tl.constexpr,
    block_pixels: tl.constexpr,
):
    """x: pixels one after the other; out: the same with `gap` values between the batch's clips."""
    pixel = tl.program_id(0).to(tl.int64) * block_pixels + tl.arange(0, block_pixels)
    channel = tl.arange(0, block_channels)
    inside = (pixel < num_pixels)[:, None] & (channel < channels)[None, :]
    at = pixel[:, None] * channels + channel[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(value * value, axis=1))
    scale = root / tl.maximum(length, smallest)
    weight = tl.load(gamma + channel, mask=channel < channels, other=0.0).to(tl.float32)
    value = value * scale[:, None] * weight[None, :]
    value = value * tl.sigmoid(value)
    clip = pixel // pixels_per_clip
    tl.store(out + at + (clip * gap)[:, None], value, mask=inside)


def norm_silu(x: Tensor, gamma: Tensor, out: Tensor, smallest: float) -> None:
    """Write silu(x / max(|x|, smallest) sqrt(c) gamma) to `out`; float32 inside, rounded once.

    x: [b, c, t, h, w], dense and channels-last. gamma: c values. out: the shape of x, channels-last
    and dense within each clip of the batch, such as the new frames of a window.
    """
    batch, channels, *_ = x.shape
    per_clip = x[0, 0].numel()
    block_channels = triton.next_power_of_2(channels)
    block_pixels = max(1, ELEMENTS_PER_PROGRAM // block_channels)
    grid = (triton.cdiv(batch * per_clip, block_pixels),)
    gap = out.stride(0) - per_clip * channels
    blocks: dict[str, Any] = {
        "channels": channels,
        "block_channels": block_channels,
        "block_pixels": block_pixels,
    }
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _norm_silu[grid](
            x,
            gamma,
            out,
            batch * per_clip,
            per_clip,
            gap,
            smallest,
            math.sqrt(channels),
            **blocks,
        )
