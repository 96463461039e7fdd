"""Up- and down-sampling in space and time, learned and parameter-free (spec 03 §3)."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional

from ...state.causal_conv import PastFrames
from .layers import TIME_KERNEL, ConvOps, as_images, as_video

FACTOR = 2
"""Every step halves or doubles."""

PATCH = 2
"""Pixels per side that patchify folds into channels."""

RGB = 3
"""Channels of a picture."""


class Upsample(nn.Module):
    """Doubles height and width, and the frame rate if `temporal`."""

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

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, c, t, h, w] -> [b, c, t or 2 t, 2 h, 2 w]; the first frame of a clip stays one."""
        if self.time_conv is not None:
            if past.first:
                past.skip()  # nor does that frame enter the history of the convolution
            else:
                x = _interleave(self.time_conv(past.extend(x)), past.memory_format)
        images = functional.interpolate(as_images(x), scale_factor=FACTOR, mode="nearest")
        return as_video(self.resample["1"](images), batch=x.shape[0])


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


def add_duplicated_(y: Tensor, x: Tensor, *, time: int, space: int, first: bool) -> Tensor:
    """Add to `y`, in place, the shortcut around a level that grows: repetition of `x`.

    x: [b, c, t, h, w]; y: [b, o, t * time, h * space, w * space], or one frame for the `first`
    latent, which is the last of its `time` copies. Number the cells of output channel o as
    e = ((o * time + i) * space + j) * space + k: cell e repeats input channel e // r.
    """
    cells = time * space * space
    repeats = y.shape[1] * cells // x.shape[1]
    if cells % repeats:  # channel groups that straddle output channels
        x, repeats = x.repeat_interleave(repeats, dim=1), 1
    stride = cells // repeats
    for i in range(time - 1, time) if first else range(time):
        frames = slice(None) if first else slice(i, None, time)
        for j in range(space):
            for k in range(space):
                cell = (i * space + j) * space + k
                y[:, :, frames, j::space, k::space] += x[:, cell // repeats :: stride]
    return y


def patchify(video: Tensor) -> Tensor:
    """[b, c, t, 2 h, 2 w] -> [b, 4 c, t, h, w]. Of the two offsets the column is the slower one."""
    return rearrange(video, "b c t (h row) (w col) -> b (c col row) t h w", row=PATCH, col=PATCH)


def unpatchify(x: Tensor) -> Tensor:
    """[b, 4 c, t, h, w] -> [b, c, t, 2 h, 2 w], the inverse of `patchify`."""
    return rearrange(x, "b (c col row) t h w -> b c t (h row) (w col)", row=PATCH, col=PATCH)
