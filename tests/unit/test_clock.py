from fractions import Fraction

import pytest

from hallo_live_core.clock import MediaClock


@pytest.mark.parametrize(("latents", "frames"), [(0, 0), (1, 1), (2, 5), (6, 21), (30, 117)])
def test_the_first_latent_is_one_frame_and_every_other_four(latents, frames):
    assert MediaClock().frames(latents) == frames


def test_sound_falls_a_150th_of_a_second_behind_per_latent_at_24_fps_and_none_at_25():
    assert MediaClock().drift_per_video_latent == Fraction(1, 150)
    assert MediaClock(fps=Fraction(25)).drift_per_video_latent == 0


def test_a_standard_clip_of_117_frames_is_78000_samples_long():
    clock = MediaClock()
    assert clock.samples_for_frames(117) == 78_000
    assert clock.frame_time(117) == clock.sample_time(78_000) == Fraction(39, 8)
    assert clock.samples(150) == 76_800


FOLLOWING = MediaClock(follow_after=30)
TEN_MINUTES = 625 * 6  # video latents


def offset(clock: MediaClock, video_latent: int) -> Fraction:
    """How much later a latent is seen than the sound that the network pairs with it is heard."""
    audio_latent = video_latent * clock.audio_latents_per_video_latent
    seen = clock.frame_time(clock.first_frame(video_latent))
    return seen - clock.sample_time(clock.samples(audio_latent))


def test_over_ten_minutes_picture_and_sound_stay_as_near_as_in_the_first_five_seconds():
    offsets = [offset(FOLLOWING, latent) for latent in range(TEN_MINUTES)]
    assert min(offsets) == offset(MediaClock(), 1) == Fraction(1, 24) - Fraction(4, 25)
    assert max(offsets) == Fraction(75, 1000)
    assert set(offsets[30:]) == {Fraction(75, 1000)}


def test_at_a_constant_rate_they_drift_by_24_seconds_in_ten_minutes():
    assert round(offset(MediaClock(), TEN_MINUTES)) == 25


def test_until_the_picture_follows_the_sound_nothing_is_different():
    plain = MediaClock()
    for frame in range(118):
        assert FOLLOWING.frame_time(frame) == plain.frame_time(frame)
        assert FOLLOWING.samples_for_frames(frame) == plain.samples_for_frames(frame)


def test_then_a_block_of_24_frames_lasts_as_long_as_its_sound():
    first = FOLLOWING.frame_time(117)
    assert FOLLOWING.frame_time(117 + 24) - first == Fraction(96, 100)
    assert FOLLOWING.samples_for_frames(117 + 24) - FOLLOWING.samples_for_frames(117) == 30 * 512
    assert FOLLOWING.following_fps == 25


@pytest.mark.parametrize(
    ("clock", "timescale"),
    [(MediaClock(), 24), (FOLLOWING, 600), (MediaClock(fps=Fraction(30_000, 1001)), 30_000)],
)
def test_every_frame_begins_on_a_tick(clock, timescale):
    assert clock.timescale == timescale
    for frame in (0, 1, 116, 117, 118, 99_999):
        assert Fraction(clock.frame_ticks(frame), timescale) == clock.frame_time(frame)
