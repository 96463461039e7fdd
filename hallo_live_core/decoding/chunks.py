"""From latent blocks to media chunks: picture and sound on one clock, equally long at the end."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..clock import MediaClock
from ..types import LatentBlock, MediaChunk
from .audio import AudioStream
from .turns import IN_ORDER, Turns
from .video import VideoStream, copy_to_host


class ChunkDecoder:
    """Decodes the blocks of one clip, in order, one video latent at a time.

    The sound of a block is decoded with its first latent: it costs next to nothing beside the
    picture and players want it first. The last block's sound is cut or filled with silence so
    that the clip's sound lasts exactly as long as its picture (spec 03 §8, time axes).

    Only sample 0 of a batch is handed out. On a GPU a chunk is handed out when its work has been
    launched: its frames and samples arrive while the caller goes on (`types.Arriving`). turns: how
    the decoders share their device with the transformer.
    """

    def __init__(
        self,
        video: VideoStream,
        audio: AudioStream,
        clock: MediaClock,
        turns: Turns = IN_ORDER,
    ) -> None:
        self._video, self._audio, self._clock, self._turns = video, audio, clock, turns
        self._frames = 0
        self._samples = 0

    def decode(self, block: LatentBlock) -> Iterator[MediaChunk]:
        """One chunk for each video latent of `block`."""
        pictures = self._video.each(block.video)
        for index in range(block.video.shape[1]):
            with self._turns.latent(index == 0):
                chunk = self._next(block, pictures, index)
            yield chunk

    def _next(self, block: LatentBlock, pictures: Iterator[Tensor], index: int) -> MediaChunk:
        picture = next(pictures)[0]
        on_its_way = copy_to_host(picture)  # before the sound, so that it waits for nothing
        samples = self._sound_of(block) if index == 0 else torch.zeros(0)
        chunk = MediaChunk(
            block=block.index,
            frames=on_its_way,
            samples=copy_to_host(samples),
            first_frame=self._frames,
            first_sample=self._samples,
            frame_time=self._clock.frame_time(self._frames),
            sample_time=self._clock.sample_time(self._samples),
            is_last=block.is_last and index == block.video.shape[1] - 1,
        )
        self._frames += len(picture)
        self._samples += len(samples)
        return chunk

    def _sound_of(self, block: LatentBlock) -> Tensor:
        ahead = block.audio_ahead if block.audio_ahead.shape[1] else None
        samples = self._audio.push(block.audio, ahead=ahead, last=block.is_last)[0]
        if not block.is_last:
            return samples
        end = self._clock.samples_for_frames(
            self._clock.frames(block.first_video_latent + block.video.shape[1])
        )
        missing = end - self._samples - len(samples)
        if missing < 0:
            return samples[:missing]
        return torch.nn.functional.pad(samples, (0, missing))
