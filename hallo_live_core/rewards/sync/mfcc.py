"""Mel-frequency cepstral coefficients as SyncNet was trained on them (spec 08 §2.5).

Rectangular window, mel triangles with floored edges, log energy in place of coefficient 0:
libraries differ in all three, so these few lines stand on their own. Float64 throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MEL_FACTOR, MEL_HZ = 2595, 700
"""Mel is MEL_FACTOR log10(1 + hertz / MEL_HZ)."""


@dataclass(frozen=True, slots=True)
class MfccConfig:
    """Settings; lengths in samples."""

    sample_rate: int = 16_000
    window: int = 400
    hop: int = 160
    fft_size: int = 512
    preemphasis: float = 0.97
    num_filters: int = 26
    num_coefficients: int = 13
    lifter: int = 22
    eps: float = 2.220446049250313e-16


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What the coefficients are made of: filter energies [t, filters] and total energy [t]."""

    filter_energies: Tensor
    energy: Tensor


def mfcc(samples: Tensor, config: MfccConfig | None = None) -> Tensor:
    """Coefficients float64 [t, 13] of sound [s] on the scale of 16-bit integers."""
    config = config or MfccConfig()
    spectrum = analyse(samples, config)
    logs = _above_zero(spectrum.filter_energies, config).log()
    coefficients = logs @ _cosines(config).to(logs.device).T
    coefficients *= _lift(config).to(logs.device)
    coefficients[:, 0] = _above_zero(spectrum.energy, config).log()
    return coefficients


def analyse(samples: Tensor, config: MfccConfig | None = None) -> Spectrum:
    """Energies of every frame of sound [s]; the last frame is filled up with zeros."""
    config = config or MfccConfig()
    sound = samples.double()
    sound = torch.cat([sound[:1], sound[1:] - config.preemphasis * sound[:-1]])
    count = 1 + max(0, -(-(len(sound) - config.window) // config.hop))
    missing = (count - 1) * config.hop + config.window - len(sound)
    frames = functional.pad(sound, (0, missing)).unfold(0, config.window, config.hop)
    power = torch.fft.rfft(frames, n=config.fft_size).abs().square() / config.fft_size
    return Spectrum(power @ filterbank(config).to(power.device).T, power.sum(dim=1))


def filterbank(config: MfccConfig | None = None) -> Tensor:
    """Triangles equally wide in mel, edges floored to bins: float64 [filters, fft_size / 2 + 1]."""
    config = config or MfccConfig()
    top = _mel(config.sample_rate / 2)
    mels = torch.linspace(0, top, config.num_filters + 2, dtype=torch.float64)
    hertz = MEL_HZ * (10 ** (mels / MEL_FACTOR) - 1)
    edges = ((config.fft_size + 1) * hertz / config.sample_rate).floor()
    low, middle, high = (edges[i : i + config.num_filters, None] for i in range(3))
    bins = torch.arange(config.fft_size // 2 + 1, dtype=torch.float64)
    rising = (bins - low) / (middle - low) * ((bins >= low) & (bins < middle))
    falling = (high - bins) / (high - middle) * ((bins >= middle) & (bins < high))
    return rising.nan_to_num(0.0, 0.0, 0.0) + falling.nan_to_num(0.0, 0.0, 0.0)


def _mel(hertz: float) -> float:
    return MEL_FACTOR * math.log10(1 + hertz / MEL_HZ)


def _above_zero(energy: Tensor, config: MfccConfig) -> Tensor:
    return torch.where(energy == 0, config.eps, energy)


def _cosines(config: MfccConfig) -> Tensor:
    """Orthonormal DCT-II, its first rows: [coefficients, filters]."""
    n = config.num_filters
    k = torch.arange(config.num_coefficients, dtype=torch.float64)[:, None]
    table = torch.cos(math.pi * k * (2 * torch.arange(n, dtype=torch.float64) + 1) / (2 * n))
    table *= math.sqrt(2 / n)
    table[0] /= math.sqrt(2)
    return table


def _lift(config: MfccConfig) -> Tensor:
    n = torch.arange(config.num_coefficients, dtype=torch.float64)
    return 1 + config.lifter / 2 * torch.sin(math.pi * n / config.lifter)
