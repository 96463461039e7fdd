"""The MMAudio 16 kHz VAE: log10-mel spectrogram <-> latents of 32 ms (spec 04 §3, §4).

A magnitude-preserving network without biases or learned norms. Its weights must come normalised:
`vae_weights.to_module` does that once, on the state dict; nothing here changes a weight.

Inside this file activations are [b, c, t], t counting latents or mel frames.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from ...config import AudioVAEConfig
from .layers import ConvOps, LayerFactory

UNIT_EPS = 1e-4
SILU_GAIN = 0.596
"""Root mean square of silu(x) for a unit normal x (EDM2, equation 81)."""
MIX = 0.3
"""Share of the new branch when a residual block mixes it with its skip (EDM2, equation 88)."""
MIX_NORM = (MIX**2 + (1 - MIX) ** 2) ** 0.5
CLAMP = 256.0
LOGVAR_RANGE = (-30.0, 20.0)
DOUBLED_LEVEL = 1
"""The decoder doubles time after this level; the encoder halves it just before (spec 04 §4)."""
FRAMES_PER_LATENT = 2
KERNEL = 3


def unit(x: Tensor) -> Tensor:
    """Scale each time step of [b, c, t] to a root mean square of one over its channels."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / (norm * x.shape[1] ** -0.5 + UNIT_EPS)


def act(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of a unit normal."""
    return nn.functional.silu(x) / SILU_GAIN


def mix(skip: Tensor, branch: Tensor) -> Tensor:
    """Weighted sum of two unit-magnitude tensors, again of unit magnitude."""
    return torch.lerp(skip, branch, MIX) / MIX_NORM


def clamp(x: Tensor) -> Tensor:
    """Keep activations in the range that the network was trained with."""
    return x.clamp(-CLAMP, CLAMP)


class ResidualBlock(nn.Module):
    """Two convolutions; the skip is the normalised input."""

    def __init__(self, in_dim: int, out_dim: int, make: LayerFactory) -> None:
        super().__init__()
        self.conv1 = make.conv(in_dim, out_dim, KERNEL, bias=False)
        self.conv2 = make.conv(out_dim, out_dim, KERNEL, bias=False)
        changes_width = in_dim != out_dim
        self.nin_shortcut = make.conv(in_dim, out_dim, 1, bias=False) if changes_width else None

    def forward(self, x: Tensor) -> Tensor:
        """[b, in, t] -> [b, out, t]."""
        x = unit(x)
        branch = self.conv2(act(self.conv1(act(x))))
        return mix(x if self.nin_shortcut is None else self.nin_shortcut(x), branch)


class Attention(nn.Module):
    """One head over the whole clip, both directions, without positions."""

    def __init__(self, dim: int, make: LayerFactory) -> None:
        super().__init__()
        self.qkv = make.conv(dim, 3 * dim, 1, bias=False)
        self.proj_out = make.conv(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t] -> [b, c, t]. Channels of `qkv` are interleaved: 3 c + (0 q, 1 k, 2 v)."""
        qkv = rearrange(self.qkv(x), "b (c s) t -> (b s) c t", s=3)
        q, k, v = rearrange(unit(qkv), "(b s) c t -> s b 1 t c", s=3)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        return mix(x, self.proj_out(rearrange(seen, "b 1 t c -> b c t")))


class Middle(nn.Module):
    """Residual block, attention, residual block: the only part that sees the whole clip."""

    def __init__(self, dim: int, make: LayerFactory) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(dim, dim, make)
        self.attn_1 = Attention(dim, make)
        self.block_2 = ResidualBlock(dim, dim, make)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t] -> [b, c, t], clamped."""
        return clamp(self.block_2(self.attn_1(self.block_1(x))))


class Upsample(nn.Module):
    """Doubles time by repetition, then smooths."""

    def __init__(self, dim: int, make: LayerFactory) -> None:
        super().__init__()
        self.conv = make.conv(dim, dim, KERNEL, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t] -> [b, c, 2t]."""
        return self.conv(x.repeat_interleave(FRAMES_PER_LATENT, dim=-1))


class Downsample(nn.Module):
    """Halves time by averaging pairs; an odd last step is dropped."""

    def __init__(self, dim: int, make: LayerFactory) -> None:
        super().__init__()
        self.conv1 = make.conv(dim, dim, 1, bias=False)
        self.conv2 = make.conv(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t] -> [b, c, t // 2]."""
        return self.conv2(nn.functional.avg_pool1d(self.conv1(x), FRAMES_PER_LATENT))


class Level(nn.Module):
    """Residual blocks of one width, clamped one by one, then perhaps a change of rate."""

    def __init__(self, in_dim: int, out_dim: int, num_blocks: int, make: LayerFactory) -> None:
        super().__init__()
        widths = [in_dim, *[out_dim] * num_blocks]
        self.block = nn.ModuleList(ResidualBlock(a, b, make) for a, b in pairwise(widths))
        self.upsample: Upsample | None = None
        self.downsample: Downsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[b, in, t] -> [b, out, t, 2t or t // 2]."""
        for block in self.block:
            x = clamp(block(x))
        for change in (self.upsample, self.downsample):
            x = x if change is None else change(x)
        return x


class Encoder(nn.Module):
    """Normalised mel -> mean and log variance."""

    def __init__(self, config: AudioVAEConfig, make: LayerFactory) -> None:
        super().__init__()
        widths = [config.hidden_dim * m for m in config.multipliers]
        self.conv_in = make.conv(config.mel_bins, config.hidden_dim, KERNEL, bias=False)
        self.down = nn.ModuleList(
            Level(a, b, config.num_res_blocks, make)
            for a, b in pairwise([config.hidden_dim, *widths])
        )
        halved = DOUBLED_LEVEL - 1
        self.down[halved].downsample = Downsample(widths[halved], make)
        self.mid = Middle(widths[-1], make)
        self.conv_out = make.conv(widths[-1], 2 * config.latent_dim, KERNEL, bias=False)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """[b, mel_bins, m] -> mean and logvar, each [b, latent_dim, m // 2]."""
        x = self.conv_in(mel)
        for level in self.down:
            x = level(x)
        mean, logvar = self.conv_out(act(self.mid(x))).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)


class Decoder(nn.Module):
    """Latents -> normalised mel, in two parts: the middle, and what follows it."""

    def __init__(self, config: AudioVAEConfig, make: LayerFactory) -> None:
        super().__init__()
        widths = [config.hidden_dim * m for m in config.multipliers]
        self.conv_in = make.conv(config.latent_dim, widths[-1], KERNEL, bias=False)
        self.mid = Middle(widths[-1], make)
        self.up = nn.ModuleList(
            Level(above, width, config.num_res_blocks + 1, make)
            for width, above in pairwise([*widths, widths[-1]])
        )
        self.up[DOUBLED_LEVEL].upsample = Upsample(widths[DOUBLED_LEVEL], make)
        self.conv_out = make.conv(widths[0], config.mel_bins, KERNEL, bias=False)

    def middle(self, latents: Tensor) -> Tensor:
        """[b, latent_dim, a] -> features [b, c, a]."""
        return self.mid(self.conv_in(latents))

    def after_middle(self, features: Tensor) -> Tensor:
        """[b, c, a] -> [b, mel_bins, 2a]; reaches 16 latents to each side (spec 04 §7)."""
        for level in reversed(self.up):
            features = level(features)
        return self.conv_out(act(features))


class MMAudioVAE(nn.Module):
    """Encoder and decoder with the statistics of the mel bins; each half only if wanted."""

    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self,
        config: AudioVAEConfig,
        *,
        encoder: bool = False,
        decoder: bool = True,
        ops: ConvOps = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        make = LayerFactory(ops, device, dtype)
        statistics = (1, config.mel_bins, 1)
        self.register_buffer("data_mean", make.full(statistics, 0.0))
        self.register_buffer("data_std", make.full(statistics, 1.0))
        if encoder:
            self.encoder = Encoder(config, make)
        if decoder:
            self.decoder = Decoder(config, make)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """log10 mel [b, mel_bins, m] -> mean and logvar, each [b, latent_dim, m // 2].

        The latent that the transformer uses is the mean, unscaled.
        """
        return self.encoder((mel - self.data_mean.to(mel)) / self.data_std.to(mel))

    def decode(self, latents: Tensor) -> Tensor:
        """[b, latent_dim, a] -> log10 mel [b, mel_bins, 2a]."""
        return self.decode_rest(self.decode_middle(latents))

    def decode_middle(self, latents: Tensor) -> Tensor:
        """[b, latent_dim, a] -> features [b, c, a], each of which has seen every latent."""
        return self.decoder.middle(latents)

    def decode_rest(self, features: Tensor) -> Tensor:
        """Features [b, c, a] -> log10 mel [b, mel_bins, 2a]; reaches 16 latents to each side."""
        mel = self.decoder.after_middle(features)
        return torch.addcmul(self.data_mean.to(mel), mel, self.data_std.to(mel))
