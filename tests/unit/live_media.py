"""Chunks like those of the engine, and what a stream decodes to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import torch

from hallo_live_core.clock import MediaClock
from hallo_live_core.types import MediaChunk

CLOCK = MediaClock()
LATENTS_PER_BLOCK = 6
SAMPLES_PER_BLOCK = 15_360


def one_chunk(frames: torch.Tensor, samples: torch.Tensor) -> MediaChunk:
    """A whole clip at once."""
    return MediaChunk(
        block=0,
        frames=frames,
        samples=samples,
        first_frame=0,
        first_sample=0,
        frame_time=Fraction(0),
        sample_time=Fraction(0),
        is_last=True,
    )


def clip_chunks(pictures: torch.Tensor, samples: torch.Tensor) -> Iterator[MediaChunk]:
    """Cut a clip as the engine does: a chunk per latent, a block's sound with its first chunk."""
    frame = sample = 0
    for latent in range(1 + -(-(len(pictures) - 1) // CLOCK.frames_per_latent)):
        block, index = divmod(latent, LATENTS_PER_BLOCK)
        end = CLOCK.frames(latent + 1)
        sound_end = sample + (SAMPLES_PER_BLOCK if index == 0 else 0)
        if end == len(pictures):
            sound_end = len(samples)
        yield MediaChunk(
            block=block,
            frames=pictures[frame:end],
            samples=samples[sample:sound_end],
            first_frame=frame,
            first_sample=sample,
            frame_time=CLOCK.frame_time(frame),
            sample_time=CLOCK.sample_time(sample),
            is_last=end == len(pictures),
        )
        frame, sample = end, min(sound_end, len(samples))


def noise_clip(blocks: int = 2, height: int = 32, width: int = 64) -> list[MediaChunk]:
    """The chunks of a clip of moving noise."""
    frames = CLOCK.frames(blocks * LATENTS_PER_BLOCK)
    seed = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (frames, height, width, 3), generator=seed, dtype=torch.uint8)
    samples = torch.rand(CLOCK.samples_for_frames(frames), generator=seed).sub_(0.5)
    return list(clip_chunks(pictures, samples))


def decode(stream: bytes) -> tuple[list[tuple[float, np.ndarray]], list[tuple[float, np.ndarray]]]:
    """(time, pixels) of every frame and (time, samples) of every piece of sound."""
    with av.open(io.BytesIO(stream)) as container:
        pictures = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    with av.open(io.BytesIO(stream)) as container:
        sound = [(f.time, f.to_ndarray()[0]) for f in container.decode(audio=0)]
    return pictures, sound
