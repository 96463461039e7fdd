from fractions import Fraction

import pytest

from hallo_live_core.clock import MediaClock


@pytest.mark.parametrize(("latents", "frames"), [(0, 0), (1, 1), (2, 5), (6, 21), (30, 117)])
def test_the_first_latent_is_one_frame_and_every_other_four(latents, frames):
    assert MediaClock().frames(latents) == frames


@pytest.mark.parametrize("frames", range(1, 30))
def test_latents_for_frames_is_the_fewest_that_cover_them(frames):
    clock = MediaClock()
    latents = clock.latents_for_frames(frames)
    assert clock.frames(latents - 1) < frames <= clock.frames(latents)


def test_sound_falls_a_150th_of_a_second_behind_per_latent_at_24_fps_and_none_at_25():
    assert MediaClock().drift_per_video_latent == Fraction(1, 150)
    assert MediaClock(fps=Fraction(25)).drift_per_video_latent == 0


def test_a_standard_clip_of_117_frames_is_78000_samples_long():
    clock = MediaClock()
    assert clock.samples_for_frames(117) == 78_000
    assert clock.frame_time(117) == clock.sample_time(78_000) == Fraction(39, 8)
    assert clock.samples(150) == 76_800
