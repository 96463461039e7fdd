"""TAEHV: light decoders for the same latents, 150 to 210 times cheaper (spec 03 §11).

The only temporal links are one frame of memory in each `MemoryBlock` and the growing of frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...state.causal_conv import CausalState, PastFrames, PastShape
from .interface import StreamState, check_latents
from .latents import Z_DIM, LatentScale
from .layers import ConvOps, as_images, as_video, memory_format_of
from .resample import FACTOR, PATCH, RGB

SOFT_LIMIT = 3.0
"""Latents are squeezed smoothly to +-3 before the base decoder."""

TIME_GROWTH = (1, 2, 2)
"""Frames made from each frame at the end of the three levels."""

BLOCKS_PER_LEVEL = 3

WORKSPACE = 34
"""Activations of a call, in units of the largest tensor of the state, which holds one frame: two
tensors of four frames with four times the pixels, and what is around them."""

WIDE_KERNEL = 7
"""Kernel of the depthwise convolutions of `taew2_2_super`."""


@dataclass(frozen=True, slots=True)
class TAEHVConfig:
    """Sizes of a light decoder. widths: of the three levels, and before the last convolution.

    wide_kernels: the `taew2_2_super` architecture. normalised_latents: whether the weights speak
    the transformer's latents (`taew2_2`) or those of the big VAE (`lighttaew2_2`); files do not
    tell.
    """

    widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    wide_kernels: bool = False
    normalised_latents: bool = True


TAEW2_2 = TAEHVConfig()
"""The published base decoder: 9.92 M parameters."""

TAEW2_2_SUPER = TAEHVConfig(widths=(512, 256, 128, 64), wide_kernels=True)
"""The published `super` decoder: 18.99 M parameters."""


class SoftClamp(nn.Module):
    """Squeezes values smoothly into +-`SOFT_LIMIT`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return torch.tanh(x / SOFT_LIMIT) * SOFT_LIMIT


class MemoryBlock(nn.Module):
    """A residual block that sees each frame beside the one before it.

    `conv` takes [x, previous x] side by side in channels. `activate`: ReLU after the sum.
    """

    def __init__(self, channels: int, conv: nn.Sequential, *, activate: bool) -> None:
        super().__init__()
        self.channels = channels
        self.conv = conv
        self._activate = activate

    def forward(self, images: Tensor, past: PastFrames, batch: int) -> Tensor:
        """[b t, c, h, w] -> the same."""
        previous = past.extend(as_video(images, batch))[:, :, :-1]
        y = self.conv(torch.cat((images, as_images(previous)), dim=1)).add_(images)
        return functional.relu_(y) if self._activate else y


class TimeGrow(nn.Module):
    """Makes `factor` frames of each; the first from the first group of output channels."""

    def __init__(
        self,
        channels: int,
        factor: int,
        *,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.conv = ops.Conv2d(
            channels, channels * factor, 1, bias=False, device=device, dtype=dtype
        )

    def forward(self, images: Tensor) -> Tensor:
        """[n, c, h, w] -> [n factor, c, h, w]."""
        return self.conv(images).unflatten(1, (self.factor, -1)).flatten(0, 1)


class TAEHV(nn.Module):
    """Light video decoder behind the same interface as the big one; weights `decoder.*`."""

    def __init__(
        self,
        config: TAEHVConfig,
        *,
        ops: ConvOps = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        layers = _super_layers if config.wide_kernels else _base_layers
        self.decoder = nn.ModuleList(layers(config, ops=ops, device=device, dtype=dtype))

    def initial_state(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> StreamState:
        """The state before a clip whose latents are [batch, n, 48, height, width]."""
        weight = self.decoder[-1].get_parameter("weight")
        device, dtype = device or weight.device, dtype or weight.dtype
        convolutions = CausalState.zeros(
            self._past_shapes(batch, height, width),
            device=device,
            dtype=dtype,
            memory_format=memory_format_of(weight),
            window_elements=max(self._window_elements(batch, height, width)),
        )
        return StreamState(convolutions, LatentScale.on(device, dtype))

    def state_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """Memory of a state in bytes, without making one."""
        elements = sum(map(math.prod, self._past_shapes(batch, height, width)))
        return elements * dtype.itemsize

    def working_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """See `VideoDecoder`."""
        largest = max(map(math.prod, self._past_shapes(batch, height, width)))
        scratch = max(self._window_elements(batch, height, width))
        state = self.state_nbytes(batch, height, width, dtype)
        return state + (scratch + WORKSPACE * largest) * dtype.itemsize

    def decode(self, latents: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Decode the next latents of a clip; see `VideoDecoder.decode`.

        Raises:
            ShapeError: latents are not [b, n, 48, h, w] or do not fit the state.
        """
        check_latents(latents, state)
        batch = latents.shape[0]
        if not self.config.normalised_latents:
            latents = state.scale.restore(latents)
        images = latents.to(state.dtype).flatten(0, 1)
        past = PastFrames(state.convolutions)
        for layer in self.decoder:
            images = layer(images, past, batch) if isinstance(layer, MemoryBlock) else layer(images)
        video = functional.pixel_shuffle(images, PATCH).unflatten(0, (batch, -1))
        if state.first:  # a clip begins with one frame, the last of those of its first latent
            video = video[:, math.prod(TIME_GROWTH) - 1 :]
        video = video.to(state.scale.mean.dtype).clamp(0, 1)
        return video.mul_(2).sub_(1), state.advanced()

    def _past_shapes(self, batch: int, height: int, width: int) -> Iterator[PastShape]:
        for scale, _, block in self._memory_blocks():
            yield batch, block.channels, 1, height * scale, width * scale

    def _window_elements(self, batch: int, height: int, width: int) -> Iterator[int]:
        """Elements of each window that one latent needs."""
        for scale, frames, block in self._memory_blocks():
            yield batch * block.channels * (1 + frames) * height * width * scale**2

    def _memory_blocks(self) -> Iterator[tuple[int, int, MemoryBlock]]:
        """How much larger than a latent, frames made of it, and the block that sees them."""
        scale = frames = 1
        for layer in self.decoder:
            if isinstance(layer, nn.Upsample | nn.PixelShuffle):
                scale *= FACTOR
            elif isinstance(layer, TimeGrow):
                frames *= layer.factor
            elif isinstance(layer, MemoryBlock):
                yield scale, frames, layer


def _base_layers(
    config: TAEHVConfig,
    *,
    ops: ConvOps,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Iterator[nn.Module]:
    """The layers of `taew2_2` at their published positions."""
    at = {"device": device, "dtype": dtype}

    def memory_block(channels: int) -> MemoryBlock:
        conv = nn.Sequential(
            ops.Conv2d(2 * channels, channels, 3, padding=1, **at),
            nn.ReLU(inplace=True),
            ops.Conv2d(channels, channels, 3, padding=1, **at),
            nn.ReLU(inplace=True),
            ops.Conv2d(channels, channels, 3, padding=1, **at),
        )
        return MemoryBlock(channels, conv, activate=True)

    *levels, last = config.widths
    yield SoftClamp()
    yield ops.Conv2d(Z_DIM, levels[0], 3, padding=1, **at)
    yield nn.ReLU(inplace=True)
    for width, next_width, growth in zip(levels, config.widths[1:], TIME_GROWTH, strict=True):
        for _ in range(BLOCKS_PER_LEVEL):
            yield memory_block(width)
        yield nn.Upsample(scale_factor=FACTOR)
        yield TimeGrow(width, growth, ops=ops, **at)
        yield ops.Conv2d(width, next_width, 3, padding=1, bias=False, **at)
    yield nn.ReLU(inplace=True)
    yield ops.Conv2d(last, RGB * PATCH * PATCH, 3, padding=1, **at)


def _super_layers(
    config: TAEHVConfig,
    *,
    ops: ConvOps,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Iterator[nn.Module]:
    """The layers of `taew2_2_super` at their published positions."""
    at = {"device": device, "dtype": dtype}

    def memory_block(channels: int) -> MemoryBlock:
        both, hidden = 2 * channels, 4 * channels
        margin = WIDE_KERNEL // 2
        conv = nn.Sequential(
            ops.Conv2d(both, both, WIDE_KERNEL, padding=margin, groups=both, bias=False, **at),
            ops.Conv2d(both, hidden, 1, **at),
            nn.ReLU(inplace=True),
            ops.Conv2d(hidden, channels, 1, bias=False, **at),
        )
        return MemoryBlock(channels, conv, activate=False)

    *levels, last = config.widths
    yield ops.Conv2d(Z_DIM, levels[0], 1, bias=False, **at)
    for width, next_width, growth in zip(levels, config.widths[1:], TIME_GROWTH, strict=True):
        for _ in range(BLOCKS_PER_LEVEL):
            yield memory_block(width)
        yield ops.Conv2d(width, next_width * FACTOR * FACTOR, 3, padding=1, **at)
        yield nn.ReLU(inplace=True)
        yield nn.PixelShuffle(FACTOR)
        yield TimeGrow(next_width, growth, ops=ops, **at)
    yield ops.Conv2d(last, RGB * PATCH * PATCH, 3, padding=1, **at)
