from fractions import Fraction

import pytest
import torch

from hallo_live_core.errors import ShapeError
from hallo_live_core.rewards.base import Clip, Scale
from hallo_live_core.rewards.clip import (
    check_clip,
    frames_from_images,
    heard,
    resample,
    retime,
)

FRAMES = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)


def clip(samples=None, rate=16_000, **other) -> Clip:
    return Clip(
        **{"frames": FRAMES, "fps": Fraction(24), "samples": samples, "sample_rate": rate} | other
    )


@pytest.mark.parametrize(
    ("rate", "target"), [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (22_050, 16_000)]
)
@pytest.mark.parametrize("length", [1, 777, 5000])
def test_resampling_equals_the_reference_library(rate, target, length):
    reference = pytest.importorskip("torchaudio.functional")
    sound = torch.randn(length, dtype=torch.float64)
    expected = reference.resample(
        sound,
        rate,
        target,
        lowpass_filter_width=6,
        rolloff=0.99,
        resampling_method="sinc_interp_hann",
    )
    assert torch.allclose(resample(sound, rate, target), expected, atol=1e-9)


def test_a_tone_keeps_its_pitch_and_loudness():
    time = torch.arange(44_100) / 44_100
    tone = resample(torch.sin(2 * torch.pi * 440 * time), 44_100, 16_000)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
    assert (tone - expected)[100:-100].abs().max() < 0.01


def test_long_sound_is_resampled_in_chunks_without_seams(monkeypatch):
    sound = torch.randn(3000, dtype=torch.float64)
    whole = resample(sound, 24_000, 16_000)
    monkeypatch.setattr("hallo_live_core.rewards.clip.OUTPUTS_PER_CHUNK", 64)
    assert torch.equal(resample(sound, 24_000, 16_000), whole)


def test_rates_without_a_common_divisor_need_no_huge_kernel():
    assert len(resample(torch.randn(44_101), 44_101, 16_000)) == 16_000


@pytest.mark.parametrize("frames", [1, 11, 12, 24, 117])
def test_the_same_rate_shows_every_frame_once(frames):
    assert retime(frames, Fraction(25), Fraction(25)) == list(range(frames))


def test_twice_the_rate_shows_every_other_frame_and_half_of_it_each_twice():
    assert retime(10, Fraction(50), Fraction(25)) == [0, 2, 4, 6, 8]
    assert retime(4, Fraction(25, 2), Fraction(25)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_at_24_fps_one_frame_in_24_is_shown_twice():
    shown = retime(117, Fraction(24), Fraction(25))
    assert len(shown) == 122
    assert sorted({i for i in shown if shown.count(i) == 2}) == [11, 35, 59, 83, 107]


@pytest.mark.parametrize("fps", [Fraction(15), Fraction(24_000, 1001), Fraction(30), Fraction(60)])
def test_no_frame_is_shown_more_than_one_frame_away_from_its_time(fps):
    for n, source in enumerate(retime(100, fps, Fraction(25))):
        assert abs(Fraction(n, 25) - source / fps) <= max(1 / fps, Fraction(1, 25))


def test_one_frame_stays_one():
    assert retime(1, Fraction(60), Fraction(25)) == [0]


def test_mono_at_16_khz_is_heard_as_it_is():
    sound = torch.randn(1, 1600)
    heard_sound, notes = heard(clip(sound))
    assert torch.equal(heard_sound, sound[0]) and notes == ()


def test_opposite_channels_cancel_out_and_both_conversions_are_said():
    stereo = torch.tensor([[0.5], [-0.5]]).expand(2, 4800)
    sound, notes = heard(clip(stereo, 48_000))
    assert sound.abs().max() == 0 and len(sound) == 1600
    assert notes == ("2 channels were averaged", "sound was resampled from 48000 to 16000 Hz")


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (None, "the clip has no sound"),
        (torch.zeros(1, 0), "the clip has no sound"),
        (torch.full((1, 100), 5e-4), "the sound is silent"),
    ],
)
def test_no_sound_and_silence_are_told_apart(samples, why):
    assert heard(clip(samples)) == (None, (why,))


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (clip(frames=FRAMES.float()), "8-bit RGB"),
        (clip(frames=FRAMES[0]), "8-bit RGB"),
        (clip(frames=FRAMES[:0]), "no picture"),
        (clip(fps=Fraction(0)), "above 0"),
        (clip(torch.zeros(100)), r"\[channels, samples\]"),
        (clip(torch.zeros(1, 100, dtype=torch.int16)), "floating point"),
        (clip(torch.full((2, 3), torch.inf)), "6 NaN or infinite samples"),
    ],
)
def test_what_is_no_clip_is_refused(broken, why):
    with pytest.raises(ShapeError, match=why):
        check_clip(broken)


def test_pictures_become_8_bit_by_truncation():
    images = torch.tensor([-1.0, 0.999, 2.0]).expand(1, 2, 2, 3)
    assert frames_from_images(images)[0, 0, 0].tolist() == [0, 254, 255]
    assert frames_from_images(torch.ones(1, 2, 2, 4)).shape == (1, 2, 2, 3)


def test_pictures_that_are_no_numbers_are_refused():
    with pytest.raises(ShapeError, match="NaN or infinity"):
        frames_from_images(torch.full((1, 2, 2, 3), torch.nan))
    with pytest.raises(ShapeError, match=r"must be \[f, h, w, 3\]"):
        frames_from_images(torch.zeros(2, 2, 3))


def test_a_scale_says_good_doubtful_or_bad():
    scale = Scale(good=5, doubtful=3, source="a test")
    assert [scale.verdict(v) for v in (7, 5, 4.9, 3, 2.9)] == [
        *("good", "good", "doubtful", "doubtful", "bad")
    ]
