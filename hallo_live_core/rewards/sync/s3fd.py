"""S3FD, the face detector: VGG16 with six levels of boxes (spec 08 §2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-10
VARIANTS_OF_BACKGROUND = 3
"""Level 0 has this many background channels; the largest counts ("max-out")."""

NORMALISED = (15, 22, 29)
"""Layers of `vgg` whose outputs, L2-normalised, are levels 0, 1 and 2."""

VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
CEIL_POOL = 16

EXTRA_STRIDES = (1, 2, 1, 2)


@dataclass(frozen=True, slots=True)
class S3FDConfig:
    """Output channels of every convolution: those of `vgg` in order, then of `extras`."""

    vgg: tuple[int, ...] = (
        *(64, 64, 128, 128, 256, 256, 256),
        *(512, 512, 512, 512, 512, 512, 1024, 1024),
    )
    extras: tuple[int, ...] = (256, 512, 128, 256)

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels that the heads of each level see."""
        return (self.vgg[6], self.vgg[9], self.vgg[12], self.vgg[14], *self.extras[1::2])


class L2Norm(nn.Module):
    """Every position scaled to unit length, then by a weight per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> same."""
        length = x.square().sum(dim=1, keepdim=True).sqrt() + NORM_EPS
        return x / length * self.weight[:, None, None]


class S3FD(nn.Module):
    """The network from picture to boxes and face logits; parameter names as published."""

    def __init__(self, config: S3FDConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or S3FDConfig()
        self.vgg = _vgg(config.vgg)
        inputs = (config.vgg[-1], *config.extras[:-1])
        self.extras = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 1 if stride == 1 else 3, stride, padding=stride - 1)
            for c_in, c_out, stride in zip(inputs, config.extras, EXTRA_STRIDES, strict=True)
        )
        widths = config.level_widths
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = map(L2Norm, widths[:3])
        self.loc = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1) for c in widths)
        self.conf = nn.ModuleList(
            nn.Conv2d(c, 2 if level else VARIANTS_OF_BACKGROUND + 1, 3, padding=1)
            for level, c in enumerate(widths)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Raw outputs for every prior, levels fine to coarse, rows first.

        Args:
            x: [b, 3, h, w], RGB minus its mean, not divided.

        Returns:
            regressions [b, priors, 4]; logits [b, priors, 2] of background and face; the (h, w) of
            every level.
        """
        levels = self._levels(x)
        boxes = [head(level) for head, level in zip(self.loc, levels, strict=True)]
        logits = [head(level) for head, level in zip(self.conf, levels, strict=True)]
        background = logits[0][:, :VARIANTS_OF_BACKGROUND].amax(dim=1, keepdim=True)
        logits[0] = torch.cat([background, logits[0][:, VARIANTS_OF_BACKGROUND:]], dim=1)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        return _rows(boxes), _rows(logits), sizes

    def _levels(self, x: Tensor) -> list[Tensor]:
        norms = dict(zip(NORMALISED, (self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3), strict=True))
        levels = []
        for index, layer in enumerate(self.vgg):
            x = layer(x)
            if index in norms:
                levels.append(norms[index](x))
        levels.append(x)
        for index, layer in enumerate(self.extras):
            x = functional.relu(layer(x))
            if EXTRA_STRIDES[index] > 1:
                levels.append(x)
        return levels


def _vgg(widths: tuple[int, ...]) -> nn.Sequential:
    """The trunk. Only the third pool keeps an odd row or column ("ceil mode")."""
    layers: list[nn.Module] = []
    inputs = (3, *widths[:-1])
    for c_in, c_out, index in zip(inputs, widths, VGG_CONVS, strict=True):
        if index > len(layers):
            layers.append(nn.MaxPool2d(2, ceil_mode=len(layers) == CEIL_POOL))
        if index == VGG_CONVS[-2]:
            layers.append(nn.Conv2d(c_in, c_out, 3, padding=6, dilation=6))
        elif index == VGG_CONVS[-1]:
            layers.append(nn.Conv2d(c_in, c_out, 1))
        else:
            layers.append(nn.Conv2d(c_in, c_out, 3, padding=1))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _rows(maps: list[Tensor]) -> Tensor:
    """[b, c, h, w] of every level -> [b, priors, c]."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)
