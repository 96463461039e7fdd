"""The one clock: latents, frames, samples and seconds of a clip (spec 01 §1, 03 §8)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import lcm


@dataclass(frozen=True, slots=True)
class MediaClock:
    """Converts between the time axes of picture and sound, exactly.

    The first video latent becomes one frame, every later one `frames_per_latent` (spec 03 §2).
    Five audio latents belong to one video latent by position, but last 160 ms against 166.7 ms of
    picture at 24 fps: `drift_per_video_latent` is what sound falls behind.

    follow_after: video latents after which the picture follows the sound, in streams that go on:
    every later latent is shown for as long as its sound lasts, at 25 fps instead of 24, and the
    two drift no further. Nothing is resampled. None: `fps` to the end.
    """

    fps: Fraction = Fraction(24)
    sample_rate: int = 16_000
    frames_per_latent: int = 4
    samples_per_audio_latent: int = 512
    audio_latents_per_video_latent: int = 5
    follow_after: int | None = None

    @property
    def drift_per_video_latent(self) -> Fraction:
        """Seconds of picture at `fps` minus seconds of sound that one video latent brings."""
        return self.frames_per_latent / self.fps - self.sound_per_video_latent

    @property
    def sound_per_video_latent(self) -> Fraction:
        """Seconds of sound that belong to one video latent."""
        return Fraction(
            self.audio_latents_per_video_latent * self.samples_per_audio_latent, self.sample_rate
        )

    @property
    def following_fps(self) -> Fraction:
        """Frames per second once the picture follows the sound."""
        return self.frames_per_latent / self.sound_per_video_latent

    @property
    def timescale(self) -> int:
        """Ticks per second: every frame lasts a whole number of them."""
        rates = [self.fps] if self.follow_after is None else [self.fps, self.following_fps]
        return lcm(*(rate.numerator for rate in rates))

    def frames(self, video_latents: int) -> int:
        """Frames that the first `video_latents` of a clip decode to."""
        return max(0, self.frames_per_latent * (video_latents - 1) + 1)

    def first_frame(self, video_latent: int) -> int:
        """Index of the first frame that latent number `video_latent` (from 0) decodes to."""
        return self.frames(video_latent)

    def samples(self, audio_latents: int) -> int:
        """Samples that `audio_latents` decode to."""
        return audio_latents * self.samples_per_audio_latent

    def samples_for_frames(self, frames: int) -> int:
        """Samples as long as the first `frames`, to the nearest sample."""
        return round(self.frame_time(frames) * self.sample_rate)

    def frame_time(self, frame: int) -> Fraction:
        """Presentation time of a frame, in seconds."""
        if self.follow_after is None:
            return Fraction(frame) / self.fps
        first = min(frame, self.frames(self.follow_after))
        return first / self.fps + (frame - first) / self.following_fps

    def frame_ticks(self, frame: int) -> int:
        """Presentation time of a frame, in ticks."""
        return int(self.frame_time(frame) * self.timescale)

    def sample_time(self, sample: int) -> Fraction:
        """Presentation time of a sample, in seconds."""
        return Fraction(sample, self.sample_rate)
