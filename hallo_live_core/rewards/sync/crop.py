"""The steady square around mouth and chin that SyncNet looks at (spec 08 §2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .resize import resize

CROP_SIZE = 224
GREY = 110
"""What lies beyond the frame."""

CROP_SCALE = 0.4
"""Room around the face, of its half size: left and right once, below twice."""

MEDIAN_KERNEL = 13
"""Frames over which size and place are steadied, half a second."""


@dataclass(frozen=True, slots=True)
class CropPath:
    """Half size and centre of a face in every frame, steadied; float64 [n] each, in pixels."""

    half_size: Tensor
    center_x: Tensor
    center_y: Tensor


@dataclass(frozen=True, slots=True)
class CropBox:
    """Where to cut, in the frame padded by `pad` on all sides; ends are exclusive."""

    pad: int
    top: int
    bottom: int
    left: int
    right: int


def crop_path(boxes: Tensor) -> CropPath:
    """Boxes [n, 4] of a track -> its path, each series median filtered."""
    x1, y1, x2, y2 = boxes.double().unbind(dim=1)
    return CropPath(
        half_size=median_filter(torch.maximum(x2 - x1, y2 - y1) / 2),
        center_x=median_filter((x1 + x2) / 2),
        center_y=median_filter((y1 + y2) / 2),
    )


def median_filter(series: Tensor) -> Tensor:
    """Running median of [n] as if zeros stood around it: the ends are low, as in the reference."""
    reach = MEDIAN_KERNEL // 2
    return functional.pad(series, (reach, reach)).unfold(0, MEDIAN_KERNEL, 1).median(dim=1).values


def crop_boxes(path: CropPath, crop_scale: float = CROP_SCALE) -> list[CropBox]:
    """One rectangle per frame: the face lies above its middle."""
    below, beside = 1 + 2 * crop_scale, 1 + crop_scale
    rectangles = []
    for s, cx, cy in zip(
        path.half_size.tolist(), path.center_x.tolist(), path.center_y.tolist(), strict=True
    ):
        pad = int(s * below)
        x, y = cx + pad, cy + pad
        rectangles.append(
            CropBox(
                pad=pad,
                top=int(y - s),
                bottom=int(y + s * below),
                left=int(x - s * beside),
                right=int(x + s * beside),
            )
        )
    return rectangles


def cut(frame: Tensor, box: CropBox) -> Tensor:
    """The rectangle of a frame [h, w, 3], grey beyond the frame, at most as far as the padding."""
    height, width = frame.shape[:2]
    top, bottom = _limits(box.top, box.bottom, box.pad, height)
    left, right = _limits(box.left, box.right, box.pad, width)
    inside = frame[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    out = frame.new_full((bottom - top, right - left, frame.shape[2]), GREY)
    y, x = max(-top, 0), max(-left, 0)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out


def crop_faces(frames: Sequence[Tensor], boxes: Sequence[CropBox]) -> Tensor:
    """uint8 [n, 224, 224, 3]: every frame [h, w, 3] cut and resized, bilinear, no antialiasing."""
    crops = frames[0].new_empty((len(boxes), CROP_SIZE, CROP_SIZE, 3))
    for crop, frame, box in zip(crops, frames, boxes, strict=True):
        crop.copy_(resize(cut(frame, box)[None], CROP_SIZE, CROP_SIZE)[0])
    return crops


def _limits(start: int, end: int, pad: int, side: int) -> tuple[int, int]:
    """From the padded frame to the frame: at least one pixel, at most the padding."""
    start = min(max(start, 0), side + 2 * pad - 1)
    end = max(min(end, side + 2 * pad), start + 1)
    return start - pad, end - pad
