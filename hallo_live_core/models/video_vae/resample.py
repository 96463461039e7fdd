"""Up- and down-sampling in space and time, learned and parameter-free (spec 03 §3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional

from ...state.causal_conv import PastFrames
from .folding import FOLDED_KERNEL, fold_conv, phase, unfold_conv
from .layers import TIME_KERNEL, ConvOps, as_images, as_video

FACTOR = 2
"""Every step halves or doubles."""

PATCH = 2
"""Pixels per side that patchify folds into channels."""

RGB = 3
"""Channels of a picture."""


class Upsample(nn.Module):
    """Doubles height and width, and the frame rate if `temporal`.

    `fold` makes one 2x2 convolution of doubling and the 3x3 convolution (see `folding`).
    """

    def __init__(
        self,
        channels: int,
        *,
        temporal: bool,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        at = {"device": device, "dtype": dtype}
        self.past_channels = (channels,) if temporal else ()
        self.resample = nn.ModuleDict({"1": ops.Conv2d(channels, channels, 3, padding=1, **at)})
        self.time_conv = (
            ops.Conv3d(channels, FACTOR * channels, (TIME_KERNEL, 1, 1), **at) if temporal else None
        )

    @property
    def is_folded(self) -> bool:
        """Whether doubling is part of the convolution."""
        return self._conv.kernel_size[0] == FOLDED_KERNEL

    def fold(self) -> None:
        """Put doubling into the convolution's weights; once is enough."""
        if not self.is_folded:
            self.resample["1"] = fold_conv(self._conv)

    def unfold(self) -> None:
        """Take it out again, so that the weights have their published shapes."""
        if self.is_folded:
            self.resample["1"] = unfold_conv(self._conv)

    def forward(self, x: Tensor, past: PastFrames, shortcut: Shortcut) -> Tensor:
        """[b, c, t, h, w] -> [b, c, t or 2 t, 2 h, 2 w], the level's `shortcut` added.

        The first frame of a clip stays one.
        """
        if self.time_conv is not None:
            if past.first:
                past.skip()  # nor does that frame enter the history of the convolution
            else:
                x = _interleave(self.time_conv(past.extend(x)), past.memory_format)
        if self.is_folded:
            phases = as_video(self._conv(as_images(x)), batch=x.shape[0])
            return join_phases(phases, shortcut, past.memory_format)
        images = functional.interpolate(as_images(x), scale_factor=FACTOR, mode="nearest")
        return add_duplicated_(as_video(self._conv(images), batch=x.shape[0]), shortcut)

    @property
    def _conv(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self.resample["1"])


class Downsample(nn.Module):
    """Halves height and width, and the frame rate if `temporal`."""

    def __init__(
        self,
        channels: int,
        *,
        temporal: bool,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        at = {"device": device, "dtype": dtype}
        self.past_channels = (channels,) if temporal else ()
        self.resample = nn.ModuleDict({"1": ops.Conv2d(channels, channels, 3, FACTOR, **at)})
        self.time_conv = (
            ops.Conv3d(channels, channels, (TIME_KERNEL, 1, 1), (FACTOR, 1, 1), **at)
            if temporal
            else None
        )

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, c, t, h, w] -> [b, c, t or t / 2, h / 2, w / 2]; a clip's first frame stays one."""
        images = functional.pad(as_images(x), (0, 1, 0, 1))
        x = as_video(self.resample["1"](images), batch=x.shape[0])
        if self.time_conv is None:
            return x
        if past.first:
            past.remember(x)
            return x
        return self.time_conv(past.extend(x))


def _interleave(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Channel groups become frames: [b, 2 c, t, h, w] -> [b, c, 2 t, h, w] in `memory_format`."""
    groups = x.chunk(FACTOR, dim=1)
    b, c, t, h, w = groups[0].shape
    shape = (b, c, t * FACTOR, h, w)
    out = torch.empty(shape, device=x.device, dtype=x.dtype, memory_format=memory_format)
    for number, group in enumerate(groups):
        out[:, :, number::FACTOR] = group
    return out


def average_down(x: Tensor, channels: int, *, time: int, space: int) -> Tensor:
    """Shortcut around a level that shrinks: means over neighbours, without parameters.

    [b, c, t, h, w] -> [b, channels, ceil(t / time), h / space, w / space]. A missing frame in front
    counts as zeros.
    """
    missing = -x.shape[2] % time
    x = functional.pad(x, (0, 0, 0, 0, missing, 0))
    cells = rearrange(x, "b c (t i) (h j) (w k) -> b (c i j k) t h w", i=time, j=space, k=space)
    return reduce(cells, "b (o n) t h w -> b o t h w", "mean", o=channels)


class Shortcut(NamedTuple):
    """The parameter-free shortcut around a level that grows: repetition of its input x.

    x: [b, c, t, h, w]; it becomes [b, o, t * time, 2 h, 2 w], or one frame for the `first` latent,
    which is the last of its `time` copies. Number the cells of output channel o as
    e = ((o * time + i) * 2 + j) * 2 + k: cell e repeats input channel e // r (spec 03 §3).
    """

    x: Tensor
    channels: int
    time: int
    first: bool

    def cells(self) -> Iterator[tuple[slice, int, int, Tensor]]:
        """Which frames, which row parity, which column parity, and [b, o, t, h, w] to add there."""
        x, num_cells = self.x, self.time * FACTOR * FACTOR
        repeats = self.channels * num_cells // x.shape[1]
        if num_cells % repeats:  # channel groups that straddle output channels
            x, repeats = x.repeat_interleave(repeats, dim=1), 1
        for cell in range(num_cells - FACTOR * FACTOR if self.first else 0, num_cells):
            i, j, k = cell // (FACTOR * FACTOR), cell // FACTOR % FACTOR, cell % FACTOR
            frames = slice(None) if self.first else slice(i, None, self.time)
            yield frames, j, k, x[:, cell // repeats :: num_cells // repeats]


def add_duplicated_(y: Tensor, shortcut: Shortcut) -> Tensor:
    """Add a shortcut to `y` [b, o, t * time, 2 h, 2 w], in place."""
    for frames, j, k, repeated in shortcut.cells():
        y[:, :, frames, j::FACTOR, k::FACTOR] += repeated
    return y


def join_phases(phases: Tensor, shortcut: Shortcut, memory_format: torch.memory_format) -> Tensor:
    """What a folded convolution made, put in place while the shortcut is added.

    [b, 4 o, frames, h + 1, w + 1] -> [b, o, frames, 2 h, 2 w] in `memory_format`.
    """
    batch, _, frames, *_ = phases.shape
    *_, height, width = shortcut.x.shape
    shape = (batch, shortcut.channels, frames, height * FACTOR, width * FACTOR)
    y = torch.empty(shape, device=phases.device, dtype=phases.dtype, memory_format=memory_format)
    for which, j, k, repeated in shortcut.cells():
        place = y[:, :, which, j::FACTOR, k::FACTOR]
        torch.add(phase(phases, j, k)[:, :, which], repeated, out=place)
    return y


def patchify(video: Tensor) -> Tensor:
    """[b, c, t, 2 h, 2 w] -> [b, 4 c, t, h, w]. Of the two offsets the column is the slower one."""
    return rearrange(video, "b c t (h row) (w col) -> b (c col row) t h w", row=PATCH, col=PATCH)


def unpatchify(x: Tensor) -> Tensor:
    """[b, 4 c, t, h, w] -> [b, c, t, 2 h, 2 w], the inverse of `patchify`."""
    return rearrange(x, "b (c col row) t h w -> b c t (h row) (w col)", row=PATCH, col=PATCH)
