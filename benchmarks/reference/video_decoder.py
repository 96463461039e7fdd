"""The video decoder as spec 03 §3 to §5 says it, one formula after another, for comparison only.

Every convolution pads, joins its past to its input and keeps a copy of the last two frames; norm,
scale, SiLU and up-sampling are steps of their own. Same weights, same pictures, no care for memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.models.video_vae.latents import LatentScale


class ReferenceDecoder:
    """Weights under their published names; the past of one stream in a dictionary."""

    def __init__(self, config: VideoVAEConfig, weights: dict[str, Tensor]) -> None:
        self.config = config
        self.weights = weights
        self.past: dict[str, Tensor] = {}
        self.first = True

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Normalised [b, 1, 48, h, w] -> [b, f, 3, 16 h, 16 w] in [-1, 1]."""
        dtype = self.weights["conv2.weight"].dtype
        scale = LatentScale.on(latent.device, dtype)
        x = scale.restore(latent).to(dtype).transpose(1, 2)
        x = functional.conv3d(x, *self.of("conv2"))
        x = self.causal("decoder.conv1", x)
        x = self.block("decoder.middle.0", x)
        x = self.attention("decoder.middle.1", x)
        x = self.block("decoder.middle.2", x)
        for number in range(len(self.config.multipliers)):
            x = self.level(number, x)
        x = functional.silu(self.norm("decoder.head.0", x))
        x = self.causal("decoder.head.2", x)
        self.first = False
        b, _, t, h, w = x.shape
        x = x.reshape(b, 3, 2, 2, t, h, w)  # colour, column, row
        x = x.permute(0, 4, 1, 5, 3, 6, 2).reshape(b, t, 3, 2 * h, 2 * w)
        return x.to(scale.mean.dtype).clamp(-1, 1)

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-12) * math.sqrt(x.shape[1])
        return y * self.weights[f"{name}.gamma"].to(wide.dtype)

    def causal(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.of(name)
        x = x.to(weight.dtype)
        past = self.past.get(name, torch.zeros_like(x[:, :, :1]).repeat(1, 1, 2, 1, 1))
        window = torch.cat([past, x], dim=2)
        self.past[name] = window[:, :, -2:].clone()
        margin = weight.shape[-1] // 2
        return functional.conv3d(functional.pad(window, [margin] * 4), weight, bias)

    def block(self, name: str, x: Tensor) -> Tensor:
        y = functional.silu(self.norm(f"{name}.residual.0", x))
        y = self.causal(f"{name}.residual.2", y)
        y = functional.silu(self.norm(f"{name}.residual.3", y))
        y = self.causal(f"{name}.residual.6", y)
        if f"{name}.shortcut.weight" in self.weights:
            x = functional.conv3d(x, *self.of(f"{name}.shortcut"))
        return x + y

    def attention(self, name: str, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        y = self.norm(f"{name}.norm", frames).to(x.dtype)
        qkv = functional.conv2d(y, *self.of(f"{name}.to_qkv"))
        q, k, v = qkv.flatten(2).transpose(1, 2)[:, None].chunk(3, dim=-1)
        y = functional.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        y = functional.conv2d(y.reshape(b * t, c, h, w), *self.of(f"{name}.proj"))
        return x + y.reshape(b, t, c, h, w).transpose(1, 2)

    def level(self, number: int, x: Tensor) -> Tensor:
        name, y = f"decoder.upsamples.{number}.upsamples", x
        blocks = self.config.num_res_blocks + 1
        for block in range(blocks):
            y = self.block(f"{name}.{block}", y)
        if number == len(self.config.multipliers) - 1:
            return y
        temporal = self.config.temporal_downsample[::-1][number]
        y = self.grow(f"{name}.{blocks}", y, temporal)
        return y + self.repeated(x, y.shape[1], 2 if temporal else 1)

    def grow(self, name: str, x: Tensor, temporal: bool) -> Tensor:
        if temporal and not self.first:
            even, odd = self.time_conv(f"{name}.time_conv", x).chunk(2, dim=1)
            x = torch.stack([even, odd], dim=3).flatten(2, 3)
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        frames = functional.interpolate(frames, scale_factor=2, mode="nearest")
        frames = functional.conv2d(frames, *self.of(f"{name}.resample.1"), padding=1)
        return frames.reshape(b, t, c, 2 * h, 2 * w).transpose(1, 2)

    def time_conv(self, name: str, x: Tensor) -> Tensor:
        past = self.past.get(name, torch.zeros_like(x[:, :, :1]).repeat(1, 1, 2, 1, 1))
        window = torch.cat([past, x], dim=2)
        self.past[name] = window[:, :, -2:].clone()
        return functional.conv3d(window, *self.of(name))

    def repeated(self, x: Tensor, channels: int, time: int) -> Tensor:
        b, c, t, h, w = x.shape
        cells = x.repeat_interleave(channels * time * 4 // c, dim=1)
        y = cells.reshape(b, channels, time, 2, 2, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
        y = y.reshape(b, channels, t * time, 2 * h, 2 * w)
        return y[:, :, time - 1 :] if self.first else y
