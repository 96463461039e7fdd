from __future__ import annotations

import math

import pytest
import torch

from hallo_live_core.errors import ShapeError
from hallo_live_core.models.audio_vae.mel import MelSettings, log10_mel, slaney_filter_bank


def tone(hz: float, samples: int = 8000) -> torch.Tensor:
    time = torch.arange(samples, dtype=torch.float64) / 16_000
    return 0.5 * torch.sin(2 * math.pi * hz * time)[None]


def test_every_band_has_one_peak_and_all_bands_rise_in_frequency():
    bank = slaney_filter_bank()
    assert bank.shape == (80, 513)
    assert (bank >= 0).all() and (bank.sum(1) > 0).all()
    peaks = bank.argmax(1)
    assert (peaks.diff() > 0).all()


def test_every_band_has_the_area_one():
    """Slaney's normalisation, here for bands wide enough that bins sample them well."""
    bank = slaney_filter_bank(MelSettings(window=65_536))
    area = bank.sum(1) * 16_000 / 65_536
    torch.testing.assert_close(area, torch.ones(80, dtype=torch.float64), rtol=0, atol=1e-3)


def test_bands_are_evenly_spaced_below_one_kilohertz_and_geometric_above():
    settings = MelSettings(window=65_536)
    centres = slaney_filter_bank(settings).argmax(1) * 16_000 / 65_536
    low, high = centres[centres < 900].diff(), centres[centres > 1100]
    assert low.max() - low.min() < 0.6
    ratios = high[1:] / high[:-1]
    assert ratios.max() - ratios.min() < 2e-3


@pytest.mark.parametrize("samples", [385, 512, 1023, 5000, 6400])
def test_there_is_one_frame_for_every_full_hop(samples):
    assert log10_mel(torch.randn(2, samples)).shape == (2, 80, samples // 256)


@pytest.mark.parametrize("hz", [200.0, 1000.0, 4000.0])
def test_a_tone_is_loudest_in_the_band_around_it(hz):
    mel = log10_mel(tone(hz))
    bin_of_tone = round(hz * 1024 / 16_000)
    assert mel[0, :, 10].argmax() == slaney_filter_bank()[:, bin_of_tone].argmax()


def test_ten_times_the_sound_is_one_more_in_the_mel():
    quiet, loud = log10_mel(tone(1000) / 10), log10_mel(tone(1000))
    band = loud[0, :, 10].argmax()
    assert loud[0, band, 10] - quiet[0, band, 10] == pytest.approx(1, abs=1e-6)


def test_silence_lies_at_the_floor_and_overdrive_is_clamped():
    assert log10_mel(torch.zeros(1, 4000)).min() >= -5
    loud = torch.randn(1, 4000, dtype=torch.float64) * 10
    torch.testing.assert_close(log10_mel(loud), log10_mel(loud.clamp(-1, 1)))


@pytest.mark.parametrize("shape", [(4000,), (1, 1, 4000), (1, 384)])
def test_audio_of_another_shape_or_too_short_is_refused(shape):
    with pytest.raises(ShapeError, match="more than 384 samples"):
        log10_mel(torch.zeros(shape))
