"""Waveform -> log10 mel spectrogram, as the audio VAE was trained on (spec 04 §4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_ends

from ...errors import ShapeError

SLANEY_HZ_PER_MEL = 200 / 3
"""Slaney's scale is linear below 1 kHz ..."""
SLANEY_KNEE_HZ = 1000.0
SLANEY_LOG_STEP = math.log(6.4) / 27
"""... and logarithmic above: 27 steps to 6.4 kHz."""
POWER_EPS = 1e-9


@dataclass(frozen=True, slots=True)
class MelSettings:
    """The front end of the 16 kHz VAE; frequencies in Hz, lengths in samples."""

    sample_rate: int = 16_000
    window: int = 1024
    hop: int = 256
    mel_bins: int = 80
    min_hz: float = 0.0
    max_hz: float = 8000.0
    floor: float = 1e-5


def log10_mel(audio: Tensor, settings: MelSettings | None = None) -> Tensor:
    """[b, s] in -1..1 -> [b, mel_bins, s // hop], in the dtype of the audio.

    Raises:
        ShapeError: the audio is not [b, s], or too short to be reflected at its ends.
    """
    settings = settings or MelSettings()
    pad = (settings.window - settings.hop) // 2
    if audio.dim() != 2 or audio.shape[1] <= pad:
        raise ShapeError(
            "The mel front end takes mono audio [batch, samples]",
            found=tuple(audio.shape),
            fix=f"pass more than {pad} samples at {settings.sample_rate} Hz",
        )
    audio = pad_ends(audio.clamp(-1, 1), (pad, pad), mode="reflect")
    window = torch.hann_window(settings.window, dtype=audio.dtype, device=audio.device)
    spectrum = torch.view_as_real(
        torch.stft(
            audio,
            n_fft=settings.window,
            hop_length=settings.hop,
            window=window,
            center=False,
            return_complex=True,
        )
    )
    magnitude = torch.sqrt(spectrum.square().sum(-1) + POWER_EPS)
    mel = slaney_filter_bank(settings).to(magnitude) @ magnitude
    return mel.clamp_min(settings.floor).log10()


def slaney_filter_bank(settings: MelSettings | None = None) -> Tensor:
    """Triangles of equal area, evenly spaced on Slaney's scale: float64 [mel_bins, window//2+1]."""
    settings = settings or MelSettings()
    low, high = _mel_of_hz(settings.min_hz), _mel_of_hz(settings.max_hz)
    step = (high - low) / (settings.mel_bins + 1)
    corners = torch.tensor(
        [_hz_of_mel(low + i * step) for i in range(settings.mel_bins + 2)], dtype=torch.float64
    )
    bins = torch.arange(settings.window // 2 + 1, dtype=torch.float64)
    distance = corners[:, None] - bins * settings.sample_rate / settings.window
    widths = corners.diff()[:, None]
    rising, falling = -distance[:-2] / widths[:-1], distance[2:] / widths[1:]
    area = (corners[2:] - corners[:-2])[:, None] / 2
    return torch.minimum(rising, falling).clamp_min(0) / area


def _mel_of_hz(hz: float) -> float:
    if hz < SLANEY_KNEE_HZ:
        return hz / SLANEY_HZ_PER_MEL
    return SLANEY_KNEE_HZ / SLANEY_HZ_PER_MEL + math.log(hz / SLANEY_KNEE_HZ) / SLANEY_LOG_STEP


def _hz_of_mel(mel: float) -> float:
    above_knee = mel - SLANEY_KNEE_HZ / SLANEY_HZ_PER_MEL
    if above_knee < 0:
        return mel * SLANEY_HZ_PER_MEL
    return SLANEY_KNEE_HZ * math.exp(above_knee * SLANEY_LOG_STEP)
