"""What the running nodes share: the engine, the report to the user, the clip on disk."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ..hallo_live_core import (
    Delivery,
    HalloLive,
    MediaChunk,
    MediaClock,
    Mp4Writer,
    Placement,
    Progress,
    StreamSettings,
    gigabytes,
)
from . import host, host_media, host_watch
from .sockets import LoadedModel, LoadedVae


class RunReport:
    """Tells the user where the run is: bar, picture of each block, speed against real time."""

    def __init__(
        self, node_id: str | None, engine: HalloLive, clock: MediaClock | None = None
    ) -> None:
        self._host = host_watch.ProgressReport(node_id)
        self._clock, self._device = clock or engine.clock, engine.placement.transformer
        self._started = time.monotonic()
        self._first_after: float | None = None
        self._block = -1
        self._first: MediaChunk | None = None
        self._num_blocks = 0

    def advance(self, progress: Progress) -> None:
        """After every pass and every latent; raises when the user asked to stop."""
        self._num_blocks = progress.num_blocks
        self._host.advance(progress.done, progress.total)

    def show(self, chunk: MediaChunk, *, remark: str = "", watched: bool = False) -> None:
        """The first picture of every block, and how fast the run is.

        It is shown when the next chunk comes, whose work the GPU has by then: waiting for a picture
        must not leave it idle. watched: a player shows all this already, and better; then nothing
        is shown here.
        """
        first, self._first = self._first, None
        if chunk.block != self._block:
            self._block, self._first = chunk.block, chunk
        if first is None or not len(first.frames):
            return
        chunk = first
        elapsed = time.monotonic() - self._started
        if self._first_after is None:
            self._first_after = elapsed
        if watched:
            return
        made = float(self._clock.frame_time(chunk.first_frame + len(chunk.frames)))
        self._host.show(chunk.frames[-1])
        used, total = self.memory()
        parts = (
            f"block {chunk.block + 1}" + (f"/{self._num_blocks}" if self._num_blocks else ""),
            f"{made / elapsed:.2f}x real time",
            f"first frames after {self._first_after:.1f} s",
            f"{gigabytes(used)} of {gigabytes(total)} in use",
            remark,
        )
        self._host.say(" · ".join(part for part in parts if part))

    def memory(self) -> tuple[int, int]:
        """Bytes in use and bytes there are where the transformer runs."""
        return host.memory(self._device)


def write_clip(
    stream: Generator[MediaChunk, None, None], report: RunReport, metadata: dict[str, str]
) -> tuple[Path, torch.Tensor, list[torch.Tensor]]:
    """Drive a stream into a clip in the temp folder, which is encoded beside the run.

    Whatever stops it, the clip stays playable. Returns where it is, its sound, and its pictures.
    """
    path, chunks = host_media.temporary_clip(), list[MediaChunk]()
    with Delivery(Mp4Writer(path, metadata=metadata)) as delivery, closing(stream):
        for chunk in stream:
            delivery.write(chunk)
            chunks.append(chunk)
            report.show(chunk)
    sound = torch.cat([chunk.samples for chunk in chunks])
    return path, sound, [chunk.frames for chunk in chunks]


def engine_of(*, model: LoadedModel | None = None, vae: LoadedVae | None = None) -> HalloLive:
    """The core on the devices that the host chose for these models."""
    patchers = [*([model.patcher] if model else []), *([vae.video] if vae else [])]
    main, decoder = patchers[0].load_device, patchers[-1].load_device
    return HalloLive(
        transformer=model.patcher.model if model else None,
        video_decoder=vae.video.model if vae else None,
        audio_decoder=vae.audio.model if vae else None,
        placement=Placement(
            transformer=main,
            decoder=decoder,
            text_encoder=main,
            dtype=model.dtype if model else torch.float32,
            decoder_dtype=vae.dtype if vae else torch.float32,
        ),
        settings=StreamSettings(fp8_cache=model is not None and model.fp8_cache),
        decoding=vae.decoding if vae else None,
    )


def as_audio(samples: torch.Tensor, clock: MediaClock) -> dict[str, Any]:
    """An AUDIO of float32 [1, 1, s] from mono samples [s]."""
    return {"waveform": samples[None, None], "sample_rate": clock.sample_rate}


def as_images(pictures: list[torch.Tensor]) -> torch.Tensor:
    """All frames as the host wants them: float32 [f, h, w, 3] in 0..1, without a second copy."""
    total = sum(len(part) for part in pictures)
    images = torch.empty(total, *pictures[0].shape[1:])
    start = 0
    for part in pictures:
        torch.div(part, 255, out=images[start : start + len(part)])
        start += len(part)
    return images
