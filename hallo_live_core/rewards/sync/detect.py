"""From frames to faces: scaling, priors, decoding and non-maximum suppression (spec 08 §2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Watch
from .resize import resize
from .s3fd import S3FD

SCALE = 0.25
"""Of the frame's sides; the detector was used at this size."""

MAX_SIDE = 480
"""Pixels of the scaled frame; frames beyond Full HD shrink further, or 4K would take minutes."""

MIN_SIDE = 112
"""Pixels of the frame; of smaller ones nothing is left at the network's fourth level."""

MEAN_RGB = (123.0, 117.0, 104.0)

FIRST_STEP = 4
"""Pixels between the priors of level 0; every level doubles it."""

PRIOR_STEPS = 4
"""Side of a prior, in steps of its level."""

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2

CANDIDATE_SCORE, CANDIDATE_IOU = 0.05, 0.3
MAX_CANDIDATES, MAX_KEPT = 5000, 750
FACE_SCORE, FACE_IOU = 0.9, 0.1

PIXELS_PER_CHUNK = 1 << 18
"""Scaled pixels the network sees at once: 8 frames of 512x992, some 70 MB for the widest layer."""


def detect_faces(network: S3FD, frames: Tensor, watch: Watch) -> list[Tensor]:
    """The faces in every frame, best first.

    Args:
        network: on the device to compute on.
        frames: uint8 [f, h, w, 3] RGB.
        watch: told after every chunk of frames.

    Returns:
        per frame float64 [m, 5] on the CPU: x1, y1, x2, y2 in pixels of the frame, and the score.
    """
    weight = next(network.parameters())
    height, width = frames.shape[1:3]
    small_h, small_w = scaled_size(height, width)
    step = max(1, PIXELS_PER_CHUNK // (small_h * small_w))
    found: list[Tensor] = []
    for chunk in frames.split(step):
        images = network_input(chunk.to(weight.device)).to(weight.dtype)
        regressions, logits, levels = network(images)
        priors = make_priors(levels, small_h, small_w)
        boxes = decode(regressions.cpu().double(), priors)
        scores = logits.cpu().double().softmax(dim=-1)[..., 1]
        found += [
            select_faces(b, s, width=width, height=height)
            for b, s in zip(boxes, scores, strict=True)
        ]
        watch.done("find faces", len(found), len(frames))
    return found


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """Size of the network's input for frames of this size."""
    scale = min(SCALE, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def scale_frames(frames: Tensor) -> Tensor:
    """uint8 [f, h, w, 3] at the size of the network's input: bilinear without antialiasing."""
    return resize(frames, *scaled_size(frames.shape[1], frames.shape[2]))


def normalise(scaled: Tensor) -> Tensor:
    """uint8 [f, h, w, 3] RGB -> network input float32 [f, 3, h, w]: minus the mean, not divided."""
    return scaled.permute(0, 3, 1, 2).float() - torch.tensor(MEAN_RGB, device=scaled.device).view(
        3, 1, 1
    )


def network_input(frames: Tensor) -> Tensor:
    """uint8 [f, h, w, 3] RGB of any size -> [f, 3, h / 4, w / 4]."""
    return normalise(scale_frames(frames))


def make_priors(levels: list[tuple[int, int]], height: int, width: int) -> Tensor:
    """One square per position of every level: float64 [priors, 4] of cx, cy, w, h.

    In parts of the network input's sides; not clipped to it.
    """
    priors = []
    for number, (rows, columns) in enumerate(levels):
        step = FIRST_STEP * 2**number
        cy = (torch.arange(rows, dtype=torch.float64) + 0.5) * step / height
        cx = (torch.arange(columns, dtype=torch.float64) + 0.5) * step / width
        centres = torch.stack(torch.meshgrid(cy, cx, indexing="ij"), dim=-1).flip(-1).reshape(-1, 2)
        side = PRIOR_STEPS * step
        size = torch.tensor([side / width, side / height], dtype=torch.float64)
        priors.append(torch.cat([centres, size.expand_as(centres)], dim=1))
    return torch.cat(priors)


def decode(regressions: Tensor, priors: Tensor) -> Tensor:
    """Regressions [..., priors, 4] -> corners x1, y1, x2, y2, in parts of the sides."""
    priors = priors.to(regressions)
    centre = priors[:, :2] + CENTRE_VARIANCE * regressions[..., :2] * priors[:, 2:]
    half = priors[:, 2:] * (SIZE_VARIANCE * regressions[..., 2:]).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def select_candidates(
    boxes: Tensor, scores: Tensor, min_score: float = CANDIDATE_SCORE
) -> tuple[Tensor, Tensor]:
    """Boxes [k, 4] and scores [k] that survive the first selection, best first."""
    likely = scores > min_score
    scores, order = scores[likely].sort(descending=True, stable=True)
    boxes = boxes[likely][order]
    boxes, scores = boxes[:MAX_CANDIDATES], scores[:MAX_CANDIDATES]
    kept = suppress(boxes, CANDIDATE_IOU, limit=MAX_KEPT)
    return boxes[kept], scores[kept]


def select_faces(boxes: Tensor, scores: Tensor, *, width: int, height: int) -> Tensor:
    """Decoded boxes [priors, 4] and face scores [priors] -> faces [m, 5] in pixels, best first.

    What scores too little for a face never suppresses a better box, so the first selection may
    leave it out.
    """
    boxes, scores = select_candidates(boxes, scores, min_score=FACE_SCORE)
    boxes = boxes.double() * torch.tensor([width, height] * 2, dtype=torch.float64)
    kept = suppress(boxes, FACE_IOU)
    return torch.cat([boxes[kept], scores[kept, None].double()], dim=1)


def suppress(boxes: Tensor, max_iou: float, limit: int | None = None) -> Tensor:
    """Greedy non-maximum suppression of boxes [k, 4] that stand best first.

    Returns:
        positions of the boxes kept, at most `limit`, in order.
    """
    kept: list[Tensor] = []
    rest = torch.arange(len(boxes))
    while len(rest) and (limit is None or len(kept) < limit):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[iou(boxes[best], boxes[rest]) <= max_iou]
    return torch.stack(kept) if kept else rest


def iou(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of one box [4] with boxes [k, 4]; continuous, no extra pixel."""
    overlap = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(0)
    shared = overlap.prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return shared / ((box[2:] - box[:2]).prod() + areas - shared)
