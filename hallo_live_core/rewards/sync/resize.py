"""Bilinear resizing without antialiasing, of 8-bit pictures.

Each new pixel needs two rows and two columns, so of a large picture only those are converted.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """uint8 [f, h, w, c] -> uint8 [f, height, width, c], rounded."""
    top, bottom, down = _taps(frames.shape[1], height, frames.device)
    left, right, across = _taps(frames.shape[2], width, frames.device)
    picked = frames[:, torch.cat([top, bottom])][:, :, torch.cat([left, right])].float()
    rows = torch.lerp(picked[:, :height], picked[:, height:], down[:, None, None])
    return torch.lerp(rows[:, :, :width], rows[:, :, width:], across[:, None]).round().byte()


def _taps(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two old positions that each new one lies between, and how far it is from the first."""
    place = ((torch.arange(new, device=device) + 0.5) * (old / new) - 0.5).clamp_min(0)
    first = place.long()
    return first, (first + 1).clamp_max(old - 1), place - first
