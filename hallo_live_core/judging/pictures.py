"""Small pictures that stand for clips."""

from __future__ import annotations

from torch import Tensor, uint8
from torch.nn import functional


def thumbnail(frame: Tensor, longest_side: int) -> Tensor:
    """A frame, uint8 [h, w, 3], with no side longer than this, and even sides."""
    scale = min(1.0, longest_side / max(frame.shape[:2]))
    size = [max(2, round(side * scale / 2) * 2) for side in frame.shape[:2]]
    image = frame.permute(2, 0, 1)[None].float()
    small = functional.interpolate(image, size, mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(uint8)
