"""The one clock: latents, frames, samples and seconds of a clip (spec 01 §1, 03 §8)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class MediaClock:
    """Converts between the time axes of picture and sound, exactly.

    The first video latent becomes one frame, every later one `frames_per_latent` (spec 03 §2).
    Five audio latents belong to one video latent by position, but last 160 ms against 166.7 ms of
    picture at 24 fps: `drift_per_video_latent` is what sound falls behind.
    """

    fps: Fraction = Fraction(24)
    sample_rate: int = 16_000
    frames_per_latent: int = 4
    samples_per_audio_latent: int = 512
    audio_latents_per_video_latent: int = 5

    @property
    def drift_per_video_latent(self) -> Fraction:
        """Seconds of picture minus seconds of sound that one steady video latent brings."""
        return self.frames_per_latent / self.fps - Fraction(
            self.audio_latents_per_video_latent * self.samples_per_audio_latent, self.sample_rate
        )

    def frames(self, video_latents: int) -> int:
        """Frames that the first `video_latents` of a clip decode to."""
        return max(0, self.frames_per_latent * (video_latents - 1) + 1)

    def first_frame(self, video_latent: int) -> int:
        """Index of the first frame that latent number `video_latent` (from 0) decodes to."""
        return self.frames(video_latent)

    def latents_for_frames(self, frames: int) -> int:
        """Fewest video latents whose frames cover `frames`."""
        return 0 if frames <= 0 else 1 + -(-(frames - 1) // self.frames_per_latent)

    def samples(self, audio_latents: int) -> int:
        """Samples that `audio_latents` decode to."""
        return audio_latents * self.samples_per_audio_latent

    def samples_for_frames(self, frames: int) -> int:
        """Samples as long as `frames`, to the nearest sample."""
        return round(Fraction(frames) * self.sample_rate / self.fps)

    def frame_time(self, frame: int) -> Fraction:
        """Presentation time of a frame, in seconds."""
        return Fraction(frame) / self.fps

    def sample_time(self, sample: int) -> Fraction:
        """Presentation time of a sample, in seconds."""
        return Fraction(sample, self.sample_rate)
