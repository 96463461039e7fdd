"""A made talking head: a grey level that follows a voice, and networks that can tell."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from hallo_live_core.rewards.base import Clip
from hallo_live_core.rewards.sync.detect import SIZE_VARIANCE, make_priors

RATE = 16_000
SURE = 8.0


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """What the published network makes of an input of this size."""
    h, w = height // 4, width // 4
    sizes = [(h, w)]
    h, w = -(-h // 2), -(-w // 2)
    sizes.append((h, w))
    h, w = h // 2, w // 2
    sizes.append((h, w))
    h, w = h // 2, w // 2
    sizes.append((h, w))
    for _ in range(2):
        h, w = -(-h // 2), -(-w // 2)
        sizes.append((h, w))
    return sizes


class PlantedDetector(nn.Module):
    """Raw outputs that mean given boxes (x1, y1, x2, y2 in parts of the frame) in every frame."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.boxes = boxes
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        levels = level_sizes(*x.shape[2:])
        priors = make_priors(levels, *x.shape[2:])
        regressions = torch.zeros(len(priors), 4, dtype=torch.float64)
        logits = torch.tensor([SURE, 0.0], dtype=torch.float64).repeat(len(priors), 1)
        for x1, y1, x2, y2 in self.boxes:
            centre = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2], dtype=torch.float64)
            size = torch.tensor([x2 - x1, y2 - y1], dtype=torch.float64)
            k = int((priors[:, :2] - centre).norm(dim=1).argmin())
            regressions[k, :2] = (centre - priors[k, :2]) / priors[k, 2:] / 0.1
            regressions[k, 2:] = (size / priors[k, 2:]).log() / SIZE_VARIANCE
            logits[k] = torch.tensor([0.0, SURE])
        batch = len(x)
        return regressions.expand(batch, -1, -1), logits.expand(batch, -1, -1), levels


class GreyHearing(nn.Module):
    """Embeds the course of grey levels and of loudness: equal where one follows the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def embed_lips(self, crops: Tensor) -> Tensor:
        course = (crops.mean(dim=(1, 2, 3)) / GREY_PER_NEPER).unfold(0, 5, 1)
        return course - course.mean(dim=1, keepdim=True)

    def embed_audio(self, windows: Tensor) -> Tensor:
        course = (
            windows[:, 0].unflatten(1, (5, 4)).mean(dim=2) / 2
        )  # log energy: twice log loudness
        return course - course.mean(dim=1, keepdim=True)


GREY_PER_NEPER = 40.0


def voice(time: Tensor) -> Tensor:
    """How open the mouth is and how loud the voice, in nepers, at times in seconds."""
    waves = ((3.1, 0.7), (1.7, 0.5), (0.9, 0.6), (4.3, 0.3))
    return sum((a * torch.sin(2 * math.pi * f * time + 7 * f) for f, a in waves), torch.zeros(()))


def talking_head(
    *,
    seconds: float = 3.0,
    fps: Fraction = Fraction(25),
    late: float = 0.0,
    size: tuple[int, int] = (128, 192),
    rate: int = RATE,
    channels: int = 1,
) -> Clip:
    """A clip whose sound is `late` seconds behind its picture."""
    times = (torch.arange(round(seconds * fps), dtype=torch.float64) + 0.5) / float(fps)
    grey = (120 + GREY_PER_NEPER * voice(times)).round().clamp(0, 255).to(torch.uint8)
    frames = grey[:, None, None, None].expand(-1, *size, 3)
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    sound = 0.02 * voice(t - late).exp() * torch.sin(2 * math.pi * 440 * t)
    return Clip(frames, fps, sound.float().expand(channels, -1), rate)
