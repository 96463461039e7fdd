"""Building blocks of the Wan2.2 video VAE (spec 03 §3). Inside, video is [b, c, t, h, w].

Parameters have their published names, hence the dictionaries with numbers as keys: the gaps are
activations and other layers without weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...functional.precision import at_least_float32
from ...state.causal_conv import PastFrames

SMALLEST_NORM = 1e-12
"""Below this length a pixel's channels are not scaled up any further."""

TIME_KERNEL = 3
PAST_FRAMES = TIME_KERNEL - 1
"""Frames a causal convolution sees before the current one."""


class ConvOps(Protocol):
    """Where layers come from: `torch.nn`, or a host's namespace that casts and offloads weights."""

    Conv2d: type[nn.Conv2d]
    Conv3d: type[nn.Conv3d]


NormKernel = Callable[[Tensor, Tensor, Tensor, float], None]
"""`kernel(x, gamma, out, smallest)`: what `ChannelNorm.silu_into` does, in one pass over memory."""


class ChannelNorm(nn.Module):
    """Scales the channels of each pixel to length sqrt(c), then by `gamma`; float32 or wider.

    The reference's 16-bit runs keep this norm and the SiLU after it in float32 (spec 03 §7).
    kernel: computes norm and SiLU where it can; see `tuning`.
    """

    kernel: NormKernel | None = None

    def __init__(
        self,
        channels: int,
        *,
        axes: int = 3,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (channels, *(1,) * axes)
        self.gamma = nn.Parameter(torch.ones(shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, ...] -> the same, in the dtype of x."""
        return self._wide(x).to(x.dtype)

    def silu_into(self, x: Tensor, out: Tensor) -> None:
        """Write silu(norm(x)) to `out`, rounded once, to the dtype of `out`."""
        if self.kernel is not None and x.dtype.itemsize <= 4 and _is_channels_last(x, out):
            self.kernel(x, self.gamma.to(x.device), out, SMALLEST_NORM)
            return
        out.copy_(functional.silu(self._wide(x), inplace=True))

    def _wide(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x.dtype)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)
        scale = math.sqrt(x.shape[1]) / length.clamp_min_(SMALLEST_NORM)
        return (x * scale).mul_(self.gamma.to(x.device))


def _is_channels_last(x: Tensor, out: Tensor) -> bool:
    """Whether a kernel may read and write the channels of each pixel in one piece."""
    clip = out[:1]
    return all(t.is_contiguous(memory_format=torch.channels_last_3d) for t in (x, clip))


def causal_conv(
    in_channels: int,
    out_channels: int,
    *,
    ops: ConvOps,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Conv3d:
    """A 3x3x3 convolution, padded in space only: `PastFrames.extend` brings its past."""
    return ops.Conv3d(
        in_channels, out_channels, TIME_KERNEL, padding=(0, 1, 1), device=device, dtype=dtype
    )


class NormSiLUConvs(nn.ModuleDict):
    """Steps of norm, SiLU and causal convolution under their published numbers."""

    def step(self, norm: str, conv: str, x: Tensor, past: PastFrames) -> Tensor:
        """conv(silu(norm(x))), where the convolution also sees its past."""
        return self[conv](past.extend(x, cast(ChannelNorm, self[norm]).silu_into))


class ResidualBlock(nn.Module):
    """Two steps of norm, SiLU and causal convolution beside a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.past_channels = (in_channels, out_channels)
        at = {"device": device, "dtype": dtype}
        self.residual = NormSiLUConvs(
            {
                "0": ChannelNorm(in_channels, **at),
                "2": causal_conv(in_channels, out_channels, ops=ops, **at),
                "3": ChannelNorm(out_channels, **at),
                "6": causal_conv(out_channels, out_channels, ops=ops, **at),
            }
        )
        changes_width = in_channels != out_channels
        self.shortcut = (
            ops.Conv3d(in_channels, out_channels, 1, **at) if changes_width else nn.Identity()
        )

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, c_in, t, h, w] -> [b, c_out, t, h, w]."""
        y = self.residual.step("0", "2", x, past)
        y = self.residual.step("3", "6", y, past)
        return y.add_(self.shortcut(x))


def residual_blocks(
    in_channels: int,
    out_channels: int,
    count: int,
    *,
    ops: ConvOps,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> list[ResidualBlock]:
    """`count` residual blocks, of which the first changes the width."""
    inputs = (in_channels, *[out_channels] * (count - 1))
    return [
        ResidualBlock(channels, out_channels, ops=ops, device=device, dtype=dtype)
        for channels in inputs
    ]


class AttentionBlock(nn.Module):
    """One attention head over all pixels of a frame; frames do not see each other."""

    def __init__(
        self,
        channels: int,
        *,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        at = {"device": device, "dtype": dtype}
        self.norm = ChannelNorm(channels, axes=2, **at)
        self.to_qkv = ops.Conv2d(channels, 3 * channels, 1, **at)
        self.proj = ops.Conv2d(channels, channels, 1, **at)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t, h, w] -> the same."""
        images = as_images(x)
        qkv = rearrange(
            self.to_qkv(self.norm(images)), "n (three c) h w -> three n 1 (h w) c", three=3
        )
        y = functional.scaled_dot_product_attention(*qkv.unbind(0))
        y = rearrange(y, "n 1 (h w) c -> n c h w", h=x.shape[-2])
        return x + as_video(self.proj(y), batch=x.shape[0])


class Middle(nn.ModuleList):
    """Residual block, attention, residual block: the lowest level of encoder and decoder."""

    def __init__(
        self,
        channels: int,
        *,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        at = {"ops": ops, "device": device, "dtype": dtype}
        super().__init__(
            [
                ResidualBlock(channels, channels, **at),
                AttentionBlock(channels, **at),
                ResidualBlock(channels, channels, **at),
            ]
        )
        self.past_channels = (channels,) * 4

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, c, t, h, w] -> the same."""
        before, attention, after = self
        return after(attention(before(x, past)), past)


def as_images(x: Tensor) -> Tensor:
    """[b, c, t, h, w] -> [b t, c, h, w]; free of copies if x is channels-last.

    Joining two axes of length one would leave a stride from which nobody can tell the layout.
    """
    return x[:, :, 0] if x.shape[2] == 1 else x.transpose(1, 2).flatten(0, 1)


def as_video(images: Tensor, batch: int) -> Tensor:
    """[b t, c, h, w] -> [b, c, t, h, w], the inverse of `as_images`, always a view."""
    return images.unflatten(0, (batch, -1)).transpose(1, 2)


_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def use_channels_last(module: nn.Module) -> None:
    """Lay out all convolution weights channels-last, in place; states made later follow.

    For accelerators: matrix units read this layout directly, and frames become images without
    copies. CPUs gain nothing.
    """
    for parameter in module.parameters():
        if parameter.ndim in _LAYOUTS:
            parameter.data = parameter.data.to(memory_format=_LAYOUTS[parameter.ndim])


def memory_format_of(weight: Tensor) -> torch.memory_format:
    """The layout for video that goes through convolutions with a weight laid out like this one."""
    is_last = weight.is_contiguous(memory_format=_LAYOUTS[weight.ndim])
    is_last = is_last and not weight.is_contiguous()
    return torch.channels_last_3d if is_last else torch.contiguous_format
