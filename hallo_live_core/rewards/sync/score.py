"""How far sound and mouth are apart, at every shift (spec 08 §2.5)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

MAX_SHIFT = 15
"""Frames of 25 fps that sound is shifted both ways, 0.6 s."""

DISTANCE_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class SyncCurve:
    """Mean distance at every shift, and what follows from it.

    distances: [2 * max_shift + 1]; number j belongs to the offset `max_shift - j`. offset: frames
    of 25 fps, negative when the matching sound comes later. confidence: how much the best shift
    stands out, median minus minimum.
    """

    distances: tuple[float, ...]
    offset: int
    min_distance: float
    confidence: float

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offset that each distance belongs to."""
        reach = len(self.distances) // 2
        return tuple(range(reach, -reach - 1, -1))


def pair_distances(lips: Tensor, audio: Tensor, max_shift: int = MAX_SHIFT) -> Tensor:
    """Distance of every lip window to the sound around it.

    Args:
        lips, audio: embeddings [w, d], one row per window.

    Returns:
        [w, 2 * max_shift + 1]; column j compares with the sound of window i + j - max_shift, a zero
        vector beyond the clip.
    """
    around = functional.pad(audio, (0, 0, max_shift, max_shift)).unfold(0, 2 * max_shift + 1, 1)
    return (lips[:, :, None] - around + DISTANCE_EPS).square().sum(dim=1).sqrt()


def sync_curve(distances: Tensor) -> SyncCurve:
    """Distances [w, shifts] -> their mean over the clip and the best shift."""
    mean = distances.mean(dim=0)
    best = int(mean.argmin())
    return SyncCurve(
        distances=tuple(mean.tolist()),
        offset=len(mean) // 2 - best,
        min_distance=float(mean[best]),
        confidence=float(mean.median() - mean[best]),
    )
