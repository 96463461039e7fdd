"""Draws how lips and sound fit, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..hallo_live_core import Score, SyncDetails

SIZE = (640, 360)
LEFT, TOP, RIGHT, BOTTOM = 60, 40, 620, 310
"""The frame of the plot, in pixels."""

PAPER, INK, GRID = (255, 255, 255), (40, 40, 40), (220, 220, 220)
FACE_COLOURS = ((40, 90, 200), (200, 80, 40), (40, 140, 80), (140, 60, 160))
GRID_STEP = 5
"""Frames between two lines of the grid."""

MARGIN = 0.1
"""Of the range of distances, above and below."""

DOT = 4
"""Radius of the mark at the lowest point, and the gap between axes and their numbers."""

X_LABEL = "offset in frames of 25 fps (left of 0: the matching sound comes later)   y: distance"

Line = list[tuple[int, float]]


def sync_plot(scores: Sequence[Score]) -> torch.Tensor:
    """Distance over offset, a line per face: float32 [1, h, w, 3] in 0..1.

    Where lip sync could not be judged, the picture says why.
    """
    picture = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(picture)
    sync = next((score for score in scores if isinstance(score.details, SyncDetails)), None)
    lines = _lines(sync) if sync else []
    if sync and lines:
        told = (f"{part.name} {part.raw:.2f} {part.verdict or ''}" for part in sync.components)
        draw.text((LEFT, TOP // 3), "   ".join(told), fill=INK)
        _draw(draw, lines)
    else:
        reasons = sync.reasons if sync else ("lip sync was not judged",)
        draw.text((LEFT, TOP), "\n".join(reasons), fill=INK)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def _lines(score: Score) -> list[Line]:
    """Per face the points (offset, distance)."""
    if not isinstance(score.details, SyncDetails):
        return []
    curves = [face.curve for face in score.details.faces]
    return [list(zip(curve.offsets, curve.distances, strict=True)) for curve in curves]


def _draw(draw: ImageDraw.ImageDraw, lines: Sequence[Line]) -> None:
    offsets = [offset for line in lines for offset, _ in line]
    distances = [distance for line in lines for _, distance in line]
    margin = MARGIN * (max(distances) - min(distances)) or 1.0
    x = _axis(min(offsets), max(offsets), LEFT, RIGHT)
    y = _axis(min(distances) - margin, max(distances) + margin, BOTTOM, TOP)
    for offset in range(min(offsets), max(offsets) + 1, GRID_STEP):
        draw.line([(x(offset), TOP), (x(offset), BOTTOM)], fill=INK if offset == 0 else GRID)
        draw.text((x(offset) - DOT, BOTTOM + DOT), str(offset), fill=INK)
    for distance in (min(distances), max(distances)):
        draw.text((DOT, y(distance) - DOT), f"{distance:.2f}", fill=INK)
    draw.rectangle([(LEFT, TOP), (RIGHT, BOTTOM)], outline=INK)
    for number, line in enumerate(lines):
        colour = FACE_COLOURS[number % len(FACE_COLOURS)]
        draw.line([(x(offset), y(distance)) for offset, distance in line], fill=colour, width=2)
        offset, distance = min(line, key=lambda point: point[1])
        draw.ellipse(
            [
                (x(offset) - DOT, y(distance) - DOT),
                (x(offset) + DOT, y(distance) + DOT),
            ],
            fill=colour,
        )
    draw.text((LEFT, SIZE[1] - TOP // 2), X_LABEL, fill=INK)


def _axis(low: float, high: float, start: int, end: int) -> Callable[[float], float]:
    """From values to pixels."""
    return lambda value: start + (value - low) / (high - low) * (end - start)
