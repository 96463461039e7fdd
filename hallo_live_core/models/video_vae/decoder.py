"""Decoder of the Wan2.2 video VAE: latent by latent, exactly as the whole clip (spec 03 §4, §5)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from operator import mul

import torch
from torch import Tensor, nn

from ...config import VideoVAEConfig
from ...state.causal_conv import CausalState, PastFrames, PastShape
from .interface import WORKSPACE, StreamState, check_latents, group_sizes
from .latents import LatentScale
from .layers import (
    PAST_FRAMES,
    ChannelNorm,
    ConvOps,
    Middle,
    NormSiLUConvs,
    causal_conv,
    memory_format_of,
    residual_blocks,
)
from .resample import FACTOR, PATCH, RGB, Shortcut, Upsample, unpatchify


class UpLevel(nn.Module):
    """Residual blocks and perhaps up-sampling beside a parameter-free shortcut around both.

    temporal: whether frames are doubled too; None for the last level, which only has the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_blocks: int,
        temporal: bool | None,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        at = {"ops": ops, "device": device, "dtype": dtype}
        self.grows = temporal is not None
        self._num_blocks = num_blocks
        self.time = FACTOR if temporal else 1
        blocks = residual_blocks(in_channels, out_channels, num_blocks, **at)
        growth = [] if temporal is None else [Upsample(out_channels, temporal=temporal, **at)]
        layers = [*blocks, *growth]
        self.upsamples = nn.ModuleList(layers)
        self.past_channels = tuple(c for layer in layers for c in layer.past_channels)

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, c_in, t, h, w] -> [b, c_out, t or 2 t, h or 2 h, w or 2 w]."""
        y = x
        for layer in self.upsamples[: self._num_blocks]:
            y = layer(y, past)
        if not self.grows:
            return y
        shortcut = Shortcut(x, channels=y.shape[1], time=self.time, first=past.first)
        return self.upsamples[self._num_blocks](y, past, shortcut)


class DecoderNetwork(nn.Module):
    """Everything below the published prefix `decoder.`."""

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        ops: ConvOps,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        at = {"ops": ops, "device": device, "dtype": dtype}
        multipliers = config.multipliers[::-1]
        widths = [config.decoder_dim * m for m in (multipliers[0], *multipliers)]
        num_blocks = config.num_res_blocks + 1
        temporal = (*config.temporal_downsample[::-1], None)
        levels = [
            UpLevel(*width, num_blocks=num_blocks, temporal=doubles, **at)
            for width, doubles in zip(pairwise(widths), temporal, strict=True)
        ]
        self.conv1 = causal_conv(config.z_dim, widths[0], **at)
        self.middle = Middle(widths[0], **at)
        self.upsamples = nn.ModuleList(levels)
        self.head = NormSiLUConvs(
            {
                "0": ChannelNorm(widths[-1], device=device, dtype=dtype),
                "2": causal_conv(widths[-1], RGB * PATCH * PATCH, **at),
            }
        )
        frames = list(accumulate((level.time for level in levels), mul, initial=1))
        self._past = [
            *((channels, 1, 1) for channels in (config.z_dim, *self.middle.past_channels)),
            *(
                (channels, FACTOR**number, frames[number])
                for number, level in enumerate(levels)
                for channels in level.past_channels
            ),
            (widths[-1], FACTOR ** (len(levels) - 1), frames[-1]),
        ]
        """Channels, how much larger than a latent, and frames made of it, at each past."""

    def forward(self, z: Tensor, past: PastFrames) -> Tensor:
        """[b, z, t, h, w] -> [b, 12, frames, 8 h, 8 w]."""
        x = self.conv1(past.extend(z))
        x = self.middle(x, past)
        for level in self.upsamples:
            x = level(x, past)
        return self.head.step("0", "2", x, past)

    def past_shapes(self, batch: int, height: int, width: int) -> Iterator[PastShape]:
        """Shapes of all pasts, in the order in which `forward` uses them."""
        for channels, scale, _ in self._past:
            yield batch, channels, PAST_FRAMES, height * scale, width * scale

    def window_elements(self, batch: int, height: int, width: int) -> int:
        """Elements of the largest window that one latent after the first needs."""
        return max(
            batch * channels * (PAST_FRAMES + frames) * height * width * scale**2
            for channels, scale, frames in self._past
        )


class WanVideoDecoder(nn.Module):
    """Normalised latents to video; holds the weights `conv2.*` and `decoder.*` of the file.

    The un-normalisation is computed in float32 or wider, everything else in the dtype of the state,
    which is the dtype of the weights unless said otherwise.
    """

    def __init__(
        self,
        config: VideoVAEConfig,
        *,
        ops: ConvOps = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.conv2 = ops.Conv3d(config.z_dim, config.z_dim, 1, device=device, dtype=dtype)
        self.decoder = DecoderNetwork(config, ops=ops, device=device, dtype=dtype)

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
        weight = self.conv2.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        convolutions = CausalState.zeros(
            self.decoder.past_shapes(batch, height, width),
            device=device,
            dtype=dtype,
            memory_format=memory_format_of(self.decoder.conv1.weight),
            window_elements=self.decoder.window_elements(batch, height, width),
        )
        return StreamState(convolutions, LatentScale.on(device, dtype))

    def fold_upsampling(self) -> None:
        """Put nearest-neighbour doubling into the weights of the convolutions after it.

        The same function with 2.8 of 37.4 TFLOP less per latent at 512x992 and three doubled
        pictures never written; 33 MB more of 16-bit weights. `unfold_upsampling` undoes it.
        """
        for upsample in self.upsamplings():
            upsample.fold()

    def unfold_upsampling(self) -> None:
        """Give all weights their published shapes again."""
        for upsample in self.upsamplings():
            upsample.unfold()

    def upsamplings(self) -> list[Upsample]:
        """The layers that double pictures."""
        return [module for module in self.modules() if isinstance(module, Upsample)]

    def state_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """Memory of a state in bytes, without making one."""
        elements = sum(map(math.prod, self.decoder.past_shapes(batch, height, width)))
        return elements * dtype.itemsize

    def working_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """See `VideoDecoder`."""
        largest = max(map(math.prod, self.decoder.past_shapes(batch, height, width)))
        scratch = self.decoder.window_elements(batch, height, width)
        state = self.state_nbytes(batch, height, width, dtype)
        return state + (scratch + WORKSPACE * largest) * dtype.itemsize

    def decode(
        self, latents: Tensor, state: StreamState, *, latents_at_once: int = 1
    ) -> tuple[Tensor, StreamState]:
        """Decode the next latents of a clip; see `VideoDecoder.decode`.

        latents_at_once: how many go through the network together, after the clip's first. One at a
        time gives the same bits however a clip is cut; more differ by rounding and cost memory.

        Raises:
            ShapeError: latents are not [b, n, 48, h, w] or do not fit the state.
        """
        video, state = self(latents, state, latents_at_once=latents_at_once)
        return video.clamp_(-1, 1), state

    @torch.no_grad()
    def forward(
        self, latents: Tensor, state: StreamState, *, latents_at_once: int = 1
    ) -> tuple[Tensor, StreamState]:
        """`decode` without the clamp. No gradients: all convolutions read the same memory."""
        check_latents(latents, state)
        sizes = group_sizes(latents.shape[1], latents_at_once, first=state.first)
        videos: list[Tensor] = []
        for group in latents.split(sizes, dim=1):
            videos.append(self._decode_group(group, state))
            state = state.advanced()
        video = videos[0] if len(videos) == 1 else torch.cat(videos, dim=2)
        return video.transpose(1, 2), state

    def _decode_group(self, latents: Tensor, state: StreamState) -> Tensor:
        """[b, n, 48, h, w] -> [b, 3, frames, 16 h, 16 w] in float32 or wider."""
        z = state.scale.restore(latents).to(state.dtype).transpose(1, 2)
        x = self.decoder(self.conv2(z), PastFrames(state.convolutions))
        return unpatchify(x).to(state.scale.mean.dtype)
