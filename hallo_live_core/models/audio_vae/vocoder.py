"""BigVGAN at 16 kHz: log10-mel spectrogram -> waveform (spec 04 §5).

Weights are plain: `vocoder_weights.to_module` fuses the weight norm and turns the logarithmic
snake parameters into what the formula multiplies with. Activations are [b, c, t].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...config import VocoderConfig
from .layers import ConvOps, LayerFactory

NUM_TAPS = 12
CUTOFF = 0.25
"""Of the doubled sample rate, i.e. the old Nyquist frequency."""
TRANSITION = 1.2
"""Width of the filter's transition band, in the units of Kaiser's formula."""
PHASE_TAPS = NUM_TAPS // 2 + 1
"""Taps of one phase, padded by a zero so that both phases start at the same sample."""
REACH = PHASE_TAPS // 2
"""Samples that one phase filter looks to each side."""
OUTER_KERNEL = 7


def _bessel_i0(x: float) -> float:
    """Modified Bessel function of order zero; thirty terms are exact for the arguments here."""
    return sum(((x / 2) ** k / math.factorial(k)) ** 2 for k in range(30))


def _anti_alias_taps() -> tuple[float, ...]:
    """The Kaiser-windowed sinc that the published activations resample with (spec 04 §5)."""
    attenuation = 2.285 * (NUM_TAPS // 2 - 1) * math.pi * TRANSITION + 7.95
    beta = 0.1102 * (attenuation - 8.7)
    middle = (NUM_TAPS - 1) / 2
    taps = []
    for i in range(NUM_TAPS):
        angle = math.pi * 2 * CUTOFF * (i - middle)
        window = _bessel_i0(beta * math.sqrt(1 - ((i - middle) / middle) ** 2)) / _bessel_i0(beta)
        taps.append(window * math.sin(angle) / angle)
    return tuple(tap / sum(taps) for tap in taps)


ANTI_ALIAS_TAPS = _anti_alias_taps()
"""Symmetric, sum one; used for doubling and for halving the rate."""


class PhaseFilters(NamedTuple):
    """The filters repeated for c channels: up [2c, 1, 7] and down [c, 2, 7]."""

    up: Tensor
    down: Tensor


class AntiAlias(nn.Module):
    """The fixed filter of every activation, cut into an even and an odd phase.

    Doubling a rate and halving it again then needs no interleaving: the doubled signal lives as
    two phases side by side.
    """

    up: Tensor
    down: Tensor

    def __init__(self, make: LayerFactory) -> None:
        super().__init__()
        f = ANTI_ALIAS_TAPS
        even_up = [*(2 * tap for tap in f[::-2]), 0.0]  # u[2t]   = 2 sum f[11 - 2i] x[t - 3 + i]
        odd_up = [0.0, *(2 * tap for tap in f[-2::-2])]  # u[2t+1] = 2 sum f[10 - 2i] x[t - 2 + i]
        even_down = [0.0, *f[1::2]]  # y[t] = sum f[j] u[2t - 5 + j]: odd j meet even u
        odd_down = [*f[::2], 0.0]
        self.register_buffer("up", make.constant([[even_up], [odd_up]]))
        self.register_buffer("down", make.constant([[even_down, odd_down]]))

    def forward(self, channels: int) -> PhaseFilters:
        """The filters for activations of that many channels."""
        return PhaseFilters(self.up.repeat(channels, 1, 1), self.down.repeat(channels, 1, 1))


class SnakeBeta(nn.Module):
    """u + gain sin(frequency u)^2, where frequency = e^alpha and gain = 1 / (e^beta + 1e-9)."""

    def __init__(self, channels: int, make: LayerFactory) -> None:
        super().__init__()
        self.frequency = nn.Parameter(make.full((channels,), 1.0))
        self.gain = nn.Parameter(make.full((channels,), 1.0))

    def forward(self, u: Tensor) -> Tensor:
        """[b, c, phases, t] -> the same shape."""
        wave = torch.sin(self.frequency.view(-1, 1, 1) * u)
        return torch.addcmul(u, self.gain.view(-1, 1, 1), wave.square())


class Activation(nn.Module):
    """Snake at twice the sample rate, so that its harmonics do not fold back."""

    def __init__(self, channels: int, make: LayerFactory) -> None:
        super().__init__()
        self.act = SnakeBeta(channels, make)

    def forward(self, x: Tensor, filters: PhaseFilters) -> Tensor:
        """[b, c, t] -> [b, c, t].

        `REACH` samples beyond each end are computed too and then overwritten with the edge
        *after* the snake, which is what the second filter must see there.
        """
        channels = x.shape[1]
        padded = nn.functional.pad(x, (2 * REACH, 2 * REACH), mode="replicate")
        phases = nn.functional.conv1d(padded, filters.up, groups=channels).unflatten(
            1, (channels, 2)
        )
        phases = self.act(phases)  # [b, c, 2, t + 2 reach]
        phases[..., :REACH] = phases[..., :1, REACH : REACH + 1]
        phases[..., -REACH:] = phases[..., 1:, -REACH - 1 : -REACH]
        return nn.functional.conv1d(phases.flatten(1, 2), filters.down, groups=channels)


class ResidualBlock(nn.Module):
    """AMP block: dilated convolutions between anti-aliased activations (spec 04 §5)."""

    def __init__(
        self, channels: int, kernel: int, dilations: tuple[int, ...], make: LayerFactory
    ) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            make.conv(channels, channels, kernel, dilation=dilation) for dilation in dilations
        )
        self.convs2 = nn.ModuleList(make.conv(channels, channels, kernel) for _ in dilations)
        self.activations = nn.ModuleList(Activation(channels, make) for _ in 2 * dilations)

    def forward(self, x: Tensor, filters: PhaseFilters) -> Tensor:
        """[b, c, t] -> [b, c, t]."""
        for n, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            branch = conv1(self.activations[2 * n](x, filters))
            x = x + conv2(self.activations[2 * n + 1](branch, filters))
        return x


class BigVGAN(nn.Module):
    """log10 mel [b, mel_bins, m] -> waveform [b, 1, m * hop] in (-1, 1)."""

    def __init__(
        self,
        config: VocoderConfig,
        *,
        ops: ConvOps = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        make = LayerFactory(ops, device, dtype)
        self.anti_alias = AntiAlias(make)
        self.conv_pre = make.conv(config.mel_bins, config.channels, OUTER_KERNEL)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        width = config.channels
        for kernel in config.upsample_kernels:
            up = make.upsampling_conv(width, width // 2, kernel)
            self.ups.append(nn.Sequential(up))
            width //= 2
            self.resblocks.extend(
                ResidualBlock(width, resblock_kernel, config.dilations, make)
                for resblock_kernel in config.resblock_kernels
            )
        self.activation_post = Activation(width, make)
        self.conv_post = make.conv(width, 1, OUTER_KERNEL)

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        return math.prod(kernel // 2 for kernel in self.config.upsample_kernels)

    def forward(self, mel: Tensor) -> Tensor:
        """[b, mel_bins, m] -> [b, 1, m * hop]."""
        x = self.conv_pre(mel)
        per_stage = len(self.config.resblock_kernels)
        for stage, up in enumerate(self.ups):
            x = up(x)
            filters = self.anti_alias(x.shape[1])
            blocks = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            x = torch.stack([block(x, filters) for block in blocks]).mean(0)
        x = self.activation_post(x, self.anti_alias(x.shape[1]))
        return torch.tanh(self.conv_post(x))
