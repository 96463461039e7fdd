"""One stream outside its layers: how latents, prompt and timesteps come in, how flow goes out.

Spec 01 §3 and the head of §4.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...config import StreamConfig
from ...errors import ShapeError
from ...state.session import TimeRows
from .attention import Ops
from .modulation import ModulationTable, modulated_norm, sinusoid

AUDIO_KERNEL = 7
"""Width of every convolution of the audio embedding; together they reach 9 latents to each side."""

GATE_WIDTH_STEP = 256
"""The gated convolution's inner width is a multiple of this."""


class Head(nn.Module):
    """The way out: tokens [b, l, dim] to [b, l, out_features]."""

    def __init__(
        self,
        config: StreamConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = config.eps
        features = config.in_channels * math.prod(config.patch)
        self.modulation = ModulationTable(2, config.dim, device=device, dtype=dtype)
        self.head = ops.Linear(config.dim, features, device=device, dtype=dtype)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """embedding: [b, g, dim], the timestep before its projection."""
        shift, scale = self.modulation(embedding.unsqueeze(2))
        return self.head(modulated_norm(x, shift, 1 + scale, self.eps))


class GatedConv(nn.Module):
    """w2 * (SiLU(w1 * z) . (w3 * z)) along time, on [b, dim, a]."""

    def __init__(
        self,
        dim: int,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = GATE_WIDTH_STEP * math.ceil((8 * dim // 3) / GATE_WIDTH_STEP)
        conv = {"padding": AUDIO_KERNEL // 2, "bias": False, "device": device, "dtype": dtype}
        self.w1 = ops.Conv1d(dim, hidden, AUDIO_KERNEL, **conv)
        self.w2 = ops.Conv1d(hidden, dim, AUDIO_KERNEL, **conv)
        self.w3 = ops.Conv1d(dim, hidden, AUDIO_KERNEL, **conv)

    def forward(self, z: Tensor, valid: Tensor | None = None) -> Tensor:
        """valid: see `AudioEmbedding`."""
        return self.w2(_only(functional.silu(self.w1(z)) * self.w3(z), valid))


class AudioEmbedding(nn.ModuleList):
    """Audio latents to tokens, by convolutions that look both ways: it is not causal."""

    def __init__(
        self,
        config: StreamConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = {"device": device, "dtype": dtype}
        first = ops.Conv1d(
            config.in_channels, config.dim, AUDIO_KERNEL, padding=AUDIO_KERNEL // 2, **place
        )
        super().__init__([first, nn.SiLU(), GatedConv(config.dim, ops=ops, **place)])

    def forward(self, latents: Tensor, valid: Tensor | None = None) -> Tensor:
        """Latents [b, a, c] to tokens [b, a, dim].

        valid: bool [b, a] of a ragged batch; latents past a sample's end count as absent, also
        between the convolutions.
        """
        first, silu, gated = self
        valid = None if valid is None else valid.unsqueeze(1)
        x = silu(first(_only(rearrange(latents, "b a c -> b c a"), valid)))
        return rearrange(gated(_only(x, valid), valid), "b d a -> b a d").contiguous()


class Modality(nn.Module):
    """What both streams have in common."""

    def __init__(
        self,
        config: StreamConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        place = {"device": device, "dtype": dtype}
        self.text_embedding = nn.Sequential(
            ops.Linear(config.text_dim, config.dim, **place),
            nn.GELU(approximate="tanh"),
            ops.Linear(config.dim, config.dim, **place),
        )
        self.time_embedding = nn.Sequential(
            ops.Linear(config.freq_dim, config.dim, **place),
            nn.SiLU(),
            ops.Linear(config.dim, config.dim, **place),
        )
        self.time_projection = nn.Sequential(
            nn.SiLU(), ops.Linear(config.dim, 6 * config.dim, **place)
        )
        self.head = Head(config, ops=ops, **place)

    def embed_text(self, text: Tensor) -> Tensor:
        """[b, l, text_dim] to [b, text_len, dim]; missing rows are zero rows, attended like all.

        Raises:
            ShapeError: the prompt is too long or of another width.
        """
        length, width = self.config.text_len, self.config.text_dim
        if text.ndim != 3 or text.shape[2] != width or text.shape[1] > length:
            raise ShapeError(
                "The text embedding does not fit this transformer",
                found=list(text.shape),
                fix=f"use [batch, up to {length} tokens, {width}] from umT5-xxl",
            )
        return self.text_embedding(functional.pad(text, (0, 0, 0, length - text.shape[1])))

    def embed_times(
        self, timesteps: Tensor, *, device: torch.device, dtype: torch.dtype
    ) -> TimeRows:
        """timesteps: [b, g] in 0..1000, one per group of tokens."""
        waves = sinusoid(timesteps, self.config.freq_dim, dtype).to(device)
        embedding = self.time_embedding(waves)
        projection = self.time_projection(embedding).unflatten(-1, (6, -1))
        return TimeRows(embedding, projection)


class VideoModality(Modality):
    """Video latents [b, f, c, h, w] and their tokens, in the order (frame, row, column)."""

    def __init__(
        self,
        config: StreamConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, ops=ops, device=device, dtype=dtype)
        self.patch_embedding = ops.Conv3d(
            config.in_channels,
            config.dim,
            kernel_size=config.patch,
            stride=config.patch,
            device=device,
            dtype=dtype,
        )

    def tokens(self, latents: Tensor) -> Tensor:
        """[b, f, c, h, w] to [b, l, dim]."""
        x = self.patch_embedding(rearrange(latents, "b f c h w -> b c f h w"))
        return rearrange(x, "b d f h w -> b (f h w) d").contiguous()

    def flow(self, tokens: Tensor, times: TimeRows, like: Tensor) -> Tensor:
        """Tokens to flow, shaped as the latents `like`."""
        _, height, width = self.config.patch
        return rearrange(
            self.head(tokens, times.embedding),
            "b (f h w) (ph pw c) -> b f c (h ph) (w pw)",
            f=like.shape[1],
            h=like.shape[3] // height,
            ph=height,
            pw=width,
        )


class AudioModality(Modality):
    """Audio latents [b, a, c], one token each."""

    def __init__(
        self,
        config: StreamConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, ops=ops, device=device, dtype=dtype)
        self.patch_embedding = AudioEmbedding(config, ops=ops, device=device, dtype=dtype)

    def tokens(self, latents: Tensor, valid: Tensor | None = None) -> Tensor:
        """[b, a, c] to [b, a, dim]; valid: see `AudioEmbedding`."""
        return self.patch_embedding(latents, valid)

    def flow(self, tokens: Tensor, times: TimeRows) -> Tensor:
        """Tokens to flow [b, a, c]."""
        return self.head(tokens, times.embedding)


def _only(x: Tensor, valid: Tensor | None) -> Tensor:
    return x if valid is None else x * valid.to(x.dtype)
