"""Which detections of successive frames are one face (spec 08 §2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

MAX_GAP = 25
"""Frames from one detection of a face to the next."""

MIN_IOU = 0.5
"""A detection joins a face if it overlaps the last one by more than this."""

MIN_DETECTIONS = 51
"""Frames in which a face must have been found, two seconds; fewer are not judged."""

MIN_FACE = 100.0
"""Pixels of the frame; the longer mean side of a face must be larger."""


class Detection(NamedTuple):
    """One face in one frame: number of the frame, corners in pixels."""

    frame: int
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Track:
    """One face through time: what was found, in order of frames."""

    detections: tuple[Detection, ...]

    @property
    def first_frame(self) -> int:
        """Number of the first frame."""
        return self.detections[0].frame

    @property
    def last_frame(self) -> int:
        """Number of the last frame, which is included."""
        return self.detections[-1].frame

    @cached_property
    def boxes(self) -> Tensor:
        """float64 [n, 4] for every frame from first to last; gaps filled on a straight line."""
        found = torch.tensor([d.frame for d in self.detections])
        corners = torch.tensor([d[1:] for d in self.detections], dtype=torch.float64)
        frames = torch.arange(self.first_frame, self.last_frame + 1)
        after = torch.searchsorted(found, frames)
        before = (after - (found[after] != frames).long()).clamp_min(0)
        span = (found[after] - found[before]).clamp_min(1)
        part = ((frames - found[before]).double() / span)[:, None]
        return corners[before] + part * (corners[after] - corners[before])

    @property
    def is_long_enough(self) -> bool:
        """Whether it was found in enough frames."""
        return len(self.detections) >= MIN_DETECTIONS

    @cached_property
    def size(self) -> float:
        """The longer of mean width and mean height, in pixels."""
        return float((self.boxes[:, 2:] - self.boxes[:, :2]).mean(dim=0).max())

    @property
    def is_large_enough(self) -> bool:
        """Whether the mouth has pixels enough."""
        return self.size > MIN_FACE


def link(faces: Sequence[Tensor]) -> list[Track]:
    """Join the faces [m, 5] of every frame, best first, into tracks, short and small ones included.

    Greedy: the first free detection starts a track and walks on to detections that overlap the
    last one joined.
    """
    free = [
        [Detection(number, *row[:4]) for row in found.tolist()]
        for number, found in enumerate(faces)
    ]
    tracks = []
    for start in range(len(free)):
        while free[start]:
            tracks.append(_walk(free, start))
    return tracks


def _walk(free: list[list[Detection]], start: int) -> Track:
    """Take one track out of `free`."""
    joined = [free[start].pop(0)]
    frame = start
    while frame < len(free) and frame - joined[-1].frame <= MAX_GAP:
        left = []
        for detection in free[frame]:
            joins = overlap(joined[-1], detection) > MIN_IOU
            (joined if joins else left).append(detection)
        free[frame] = left
        frame += 1
    return Track(tuple(joined))


def overlap(a: Detection, b: Detection) -> float:
    """Intersection over union of two boxes."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)
    return width * height / (areas - width * height)
