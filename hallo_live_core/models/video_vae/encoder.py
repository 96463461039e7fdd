"""Encoder of the Wan2.2 video VAE: one frame, then four at a time (spec 03 §4, §5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...config import SIZE_STEP, VideoVAEConfig
from ...errors import ShapeError
from ...state.causal_conv import CausalState, PastFrames, PastShape
from .interface import WORKSPACE, StreamState, group_sizes
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
from .resample import FACTOR, PATCH, RGB, Downsample, average_down, patchify

DOWNSAMPLE_PAST_FRAMES = 1
"""Temporal down-sampling strides over its past, so it needs only the frame before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """Means of the latents [b, n, 48, h, w]: as the transformer sees them, and as the VAE does."""

    normalised: Tensor
    raw: Tensor


class DownLevel(nn.Module):
    """Residual blocks and perhaps down-sampling beside a parameter-free shortcut around both.

    temporal: whether frames are halved too; None for the last level, which keeps its size.
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
        self.out_channels = out_channels
        self.time = FACTOR if temporal else 1
        self.space = 1 if temporal is None else FACTOR
        blocks = residual_blocks(in_channels, out_channels, num_blocks, **at)
        shrink = [] if temporal is None else [Downsample(out_channels, temporal=temporal, **at)]
        self.downsamples = nn.ModuleList([*blocks, *shrink])
        self.past = [
            *((c, PAST_FRAMES, 1) for block in blocks for c in block.past_channels),
            *((c, DOWNSAMPLE_PAST_FRAMES, FACTOR) for s in shrink for c in s.past_channels),
        ]
        """Channels, frames and how much smaller than the level's input, of each past."""

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, c_in, t, h, w] -> [b, c_out, t or t / 2, h or h / 2, w or w / 2]."""
        y = x
        for layer in self.downsamples:
            y = layer(y, past)
        return y + average_down(x, self.out_channels, time=self.time, space=self.space)


class EncoderNetwork(nn.Module):
    """Everything below the published prefix `encoder.`."""

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
        widths = [config.encoder_dim * m for m in (1, *config.multipliers)]
        self.conv1 = causal_conv(RGB * PATCH * PATCH, widths[0], **at)
        temporal = (*config.temporal_downsample, None)
        levels = [
            DownLevel(*width, num_blocks=config.num_res_blocks, temporal=halves, **at)
            for width, halves in zip(pairwise(widths), temporal, strict=True)
        ]
        self.downsamples = nn.ModuleList(levels)
        self.middle = Middle(widths[-1], **at)
        self.head = NormSiLUConvs(
            {
                "0": ChannelNorm(widths[-1], device=device, dtype=dtype),
                "2": causal_conv(widths[-1], 2 * config.z_dim, **at),
            }
        )
        smallest = FACTOR ** (len(levels) - 1)
        self._past = [
            (RGB * PATCH * PATCH, PAST_FRAMES, 1),
            *(
                (channels, frames, FACTOR**number * shrink)
                for number, level in enumerate(levels)
                for channels, frames, shrink in level.past
            ),
            *((c, PAST_FRAMES, smallest) for c in (*self.middle.past_channels, widths[-1])),
        ]

    def forward(self, x: Tensor, past: PastFrames) -> Tensor:
        """[b, 12, frames, 8 h, 8 w] -> [b, 2 z, t, h, w]."""
        x = self.conv1(past.extend(x))
        for level in self.downsamples:
            x = level(x, past)
        x = self.middle(x, past)
        return self.head.step("0", "2", x, past)

    def past_shapes(self, batch: int, height: int, width: int) -> Iterator[PastShape]:
        """Shapes of all pasts in order of use; height and width of the patchified picture."""
        for channels, frames, shrink in self._past:
            yield batch, channels, frames, height // shrink, width // shrink


class WanVideoEncoder(nn.Module):
    """Video to latents; holds the weights `conv1.*` and `encoder.*` of the file."""

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
        self.conv1 = ops.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1, device=device, dtype=dtype)
        self.encoder = EncoderNetwork(config, ops=ops, device=device, dtype=dtype)

    @property
    def frames_per_latent(self) -> int:
        """Frames in every latent but the first, which is one frame."""
        return FACTOR ** sum(self.config.temporal_downsample)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels per side of a latent."""
        return PATCH * FACTOR ** len(self.config.temporal_downsample)

    def initial_state(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> StreamState:
        """The state before a clip of `height` x `width` pixels.

        Raises:
            ShapeError: the picture cannot be divided into latents.
        """
        multiple = self.pixels_per_latent
        if height % multiple or width % multiple:
            raise ShapeError(
                f"Height and width of a picture must be multiples of {multiple}",
                found=f"{height} x {width}",
                fix=f"resize or crop it, best to multiples of {SIZE_STEP}, which the"
                " transformer needs",
            )
        weight = self.conv1.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        convolutions = CausalState.zeros(
            self.encoder.past_shapes(batch, height // PATCH, width // PATCH),
            device=device,
            dtype=dtype,
            memory_format=memory_format_of(self.encoder.conv1.weight),
        )
        return StreamState(convolutions, LatentScale.on(device, dtype))

    def working_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """Memory that encoding takes besides the weights; height and width count pixels."""
        shapes = self.encoder.past_shapes(batch, height // PATCH, width // PATCH)
        sizes = [math.prod(shape) for shape in shapes]
        return (sum(sizes) + WORKSPACE * max(sizes)) * dtype.itemsize

    def encode(self, video: Tensor, state: StreamState | None = None) -> EncodedVideo:
        """Encode a whole clip, RGB [b, f, 3, h, w] in [-1, 1]; a picture is a clip of one frame.

        A clip has 1 + 4 k frames. Frames beyond that make no latent: they are left out, and a
        warning is logged. state: only to compute on another device or in another dtype than that of
        the weights; a state fresh from `initial_state`, used up afterwards.

        Raises:
            ShapeError: not [b, f >= 1, 3, h, w], or a size that is no multiple of 16.
        """
        _check_video(video)
        state = state or self.initial_state(video.shape[0], *video.shape[-2:])
        extra = (video.shape[1] - 1) % self.frames_per_latent
        if extra:
            _log.warning(
                "A clip of %d frames: the last %d make no whole latent and are left out",
                video.shape[1],
                extra,
            )
        used = video.shape[1] - extra
        means: list[Tensor] = []
        for chunk in video[:, :used].split(
            group_sizes(used, self.frames_per_latent, first=True), 1
        ):
            mean, state = self.encode_next(chunk, state)
            means.append(mean)
        raw = torch.cat(means, dim=1)
        return EncodedVideo(normalised=state.scale.normalise(raw), raw=raw)

    def encode_next(self, video: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Encode the next frames of a clip: first one, then any multiple of four.

        video: [b, f, 3, h, w]. Returns the raw means [b, n, 48, h / 16, w / 16] in float32 or wider
        and the next state; the buffers of `state` are written in place.

        Raises:
            ShapeError: a wrong number of frames, or not [b, f, 3, h, w].
        """
        _check_video(video)
        frames = video.shape[1]
        if (frames != 1) if state.first else (frames % self.frames_per_latent):
            raise ShapeError(
                f"An encoder takes 1 frame, then multiples of {self.frames_per_latent}",
                found=f"{frames} frames {'first' if state.first else 'later'}",
            )
        x = patchify(video.to(state.dtype).transpose(1, 2))
        moments = self.conv1(self.encoder(x, PastFrames(state.convolutions)))
        mean = moments[:, : self.config.z_dim].transpose(1, 2)
        return mean.to(state.scale.mean.dtype), state.advanced()


def _check_video(video: Tensor) -> None:
    if video.ndim != 5 or video.shape[2] != RGB or video.shape[1] == 0:
        raise ShapeError(
            "Video must be RGB [batch, frames, 3, height, width]",
            found=tuple(video.shape),
            fix="give a single picture a frame axis of length 1",
        )
