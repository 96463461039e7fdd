from __future__ import annotations

import math

import torch

from hallo_live_core.models.audio_vae.layers import LayerFactory
from hallo_live_core.models.audio_vae.vocoder import ANTI_ALIAS_TAPS, Activation, AntiAlias

from .audio_models import VOCODER, tiny_vocoder

SPEC_TAPS = (0.0020289647, 0.0093894657, -0.0255434588, -0.0576573834, 0.1285725832, 0.4432097971)
FLOAT64 = LayerFactory(dtype=torch.float64)


def filters(channels: int):
    return AntiAlias(FLOAT64)(channels)


def random_activation(channels: int) -> Activation:
    activation = Activation(channels, FLOAT64).requires_grad_(False)
    activation.act.frequency.uniform_(0.5, 3)
    activation.act.gain.uniform_(0.2, 2)
    return activation


def spelled_out(x: list[float], frequency: float, gain: float) -> list[float]:
    """The activation of one channel as the specification's sums say it, sample by sample."""
    f = ANTI_ALIAS_TAPS

    def at(signal: list[float], i: int) -> float:
        return signal[min(max(i, 0), len(signal) - 1)]

    u = []
    for t in range(len(x)):
        u.append(2 * sum(f[11 - 2 * i] * at(x, t - 3 + i) for i in range(6)))
        u.append(2 * sum(f[10 - 2 * i] * at(x, t - 2 + i) for i in range(6)))
    u = [v + gain * math.sin(frequency * v) ** 2 for v in u]
    return [sum(f[j] * at(u, 2 * t - 5 + j) for j in range(12)) for t in range(len(x))]


def test_the_closed_form_of_the_filter_gives_the_published_taps():
    taps = torch.tensor(ANTI_ALIAS_TAPS, dtype=torch.float64)
    published = torch.tensor([*SPEC_TAPS, *reversed(SPEC_TAPS)], dtype=torch.float64)
    torch.testing.assert_close(taps, published, rtol=0, atol=5e-8)  # published in float32


def test_the_activation_is_the_sum_of_the_specification_even_for_one_sample():
    torch.manual_seed(0)
    for length in (1, 2, 5, 20):
        x, activation = torch.randn(2, 3, length, dtype=torch.float64), random_activation(3)
        y = activation(x, filters(3))
        for b in range(2):
            for c in range(3):
                frequency, gain = activation.act.frequency[c], activation.act.gain[c]
                expected = spelled_out(x[b, c].tolist(), float(frequency), float(gain))
                torch.testing.assert_close(y[b, c], x.new_tensor(expected))


def test_a_mel_frame_becomes_hop_samples_for_every_length_and_batch():
    vocoder = tiny_vocoder()
    assert vocoder.hop == 8
    for batch, frames in ((1, 1), (3, 2), (1, 9)):
        wave = vocoder(torch.randn(batch, VOCODER.mel_bins, frames, dtype=torch.float64))
        assert wave.shape == (batch, 1, 8 * frames)
        assert 0 < wave.abs().max() <= 1


def test_the_vocoder_can_be_trained_through():
    vocoder = tiny_vocoder()
    mel = torch.randn(1, VOCODER.mel_bins, 2, dtype=torch.float64, requires_grad=True)
    vocoder(mel).square().sum().backward()
    assert mel.grad is not None and mel.grad.isfinite().all() and mel.grad.abs().max() > 0
