"""Writes a clip as MP4 (H.264 + AAC) while it is being made; playable however it ends.

Two files: a fragmented one grows beside the target with every chunk, so that even a killed process
leaves something to play; on close it becomes the target, a progressive file (`+faststart`) in which
picture and sound last equally long, to the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..clock import MediaClock
from ..errors import MediaError
from ..paths import refuse_link
from ..types import MediaChunk
from .encoders import (
    AAC_FRAME,
    as_sound,
    picture_frame,
    require_av,
    set_up_picture,
    set_up_sound,
    sound_frame,
)
from .kept_sound import KeptSound

if TYPE_CHECKING:
    from av import Packet
    from av.audio.stream import AudioStream
    from av.container import OutputContainer

VIDEO_ENCODER = {"preset": "veryfast", "crf": "18", "rc-lookahead": "10", "g": "24"}
"""x264 settings: visually lossless, a key frame a second, at most a block behind the input."""

FRAGMENTED = {
    "movflags": "empty_moov+default_base_moof+delay_moov",
    "frag_duration": "200000",  # microseconds
    "flush_packets": "1",
}
PROGRESSIVE = {"movflags": "+faststart+use_metadata_tags"}


class Mp4Writer:
    """Appends `MediaChunk`s to one MP4; use it as a context manager.

    Args:
        path: the finished file. While writing, `partial_path` grows beside it.
        clock: frame and sample rates.
        metadata: strings stored in the finished file (prompt, settings, ...).

    The file is finished on `close`, also after an exception in the `with` block: what was written
    until then becomes a complete clip. Nothing is left when no frame was ever written.

    Raises:
        MediaError: PyAV is missing, a name is a link, or the file cannot be written or finished.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: MediaClock | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.partial_path = self.path.with_suffix(".partial.mp4")
        for name in (self.path, self.partial_path):
            refuse_link(name, MediaError)
        self._clock = clock or MediaClock()
        self._metadata = dict(metadata or {})
        self._growing: _GrowingFile | None = None
        self._sound = KeptSound()
        self._frames = 0
        self._closed = False
        self._failures = (require_av().FFmpegError, OSError)

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, chunk: MediaChunk) -> None:
        """Append a chunk: frames uint8 [f, h, w, 3], samples float32 [s] in -1..1."""
        if self._closed:
            raise MediaError(f"The clip {self.path.name} is finished", fix="open a new writer")
        sound = as_sound(chunk.samples)
        try:
            self._sound.add(sound)
            if self._growing is not None:
                self._growing.add_sound(sound)
            for frame in chunk.frames.numpy():
                self._grow(*frame.shape[:2]).add_frame(frame)
                self._frames += 1
        except self._failures as error:
            raise self._failed(error) from error

    def close(self) -> Path | None:
        """Finish the file; returns its path, or None when nothing was written. Safe to repeat."""
        growing, self._growing = self._growing, None  # its encoder has threads of its own
        if not self._closed and growing is not None:
            self._closed = True
            try:
                growing.close()
                self._finish()
            except self._failures as error:
                raise self._failed(error) from error
            self.partial_path.unlink()
        self._closed = True
        self._sound.close()
        return self.path if self._frames else None

    def _grow(self, height: int, width: int) -> _GrowingFile:
        """The partial file; opened by the first frame, because only that tells the size."""
        if self._growing is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._growing = _GrowingFile(self.partial_path, self._clock, height, width)
            for _, sound in self._sound.parts(0, self._sound.length, AAC_FRAME):
                self._growing.add_sound(sound)
        return self._growing

    def _finish(self) -> None:
        """Copy the picture, encode the sound anew so that it ends where the picture ends.

        AAC comes in whole frames of 1024 samples. Silence before the start (skipped by the edit
        list, like the encoder's priming) makes the end fall on a frame border: players and
        decoders then give exactly the samples of the picture's length.
        """
        av = require_av()
        length = self._clock.samples_for_frames(self._frames)
        lead = -length % AAC_FRAME
        rate = self._clock.sample_rate
        with (
            av.open(str(self.partial_path)) as source,
            av.open(str(self.path), "w", format="mp4", options=dict(PROGRESSIVE)) as target,
        ):
            target.metadata.update(self._metadata)
            picture = source.streams.video[0]
            # Opaque: no encoder, whose parameter sets PyAV 14.2 would write instead of the copy's.
            video = target.add_stream_from_template(picture, opaque=True)
            audio = _add_aac(target, rate)
            packets = (packet for packet in source.demux(picture) if packet.dts is not None)
            for start, part in self._sound.parts(-lead, length, AAC_FRAME):
                target.mux(audio.encode(sound_frame(part, start, rate)))
                # The picture in step with it: the muxer holds what it cannot interleave yet.
                for packet in _until(packets, Fraction(start + AAC_FRAME, rate)):
                    packet.stream = video
                    target.mux(packet)
            target.mux(audio.encode(None))
            for packet in packets:
                packet.stream = video
                target.mux(packet)

    def _failed(self, error: Exception) -> MediaError:
        made = self.partial_path
        kept = f"; what was made so far is {made}" if made.is_file() else ""
        fix = f"check the free space and the folder{kept}"
        return MediaError(f"Cannot write {self.path}", found=error, fix=fix)


class _GrowingFile:
    """The fragmented MP4 that is playable up to its last fragment at any moment."""

    def __init__(self, path: Path, clock: MediaClock, height: int, width: int) -> None:
        self._clock = clock
        self._container: OutputContainer = require_av().open(
            str(path), "w", format="mp4", options=dict(FRAGMENTED)
        )
        self._video = self._container.add_stream(
            "libx264", rate=clock.fps, options=dict(VIDEO_ENCODER)
        )
        set_up_picture(self._video.codec_context, clock, height, width)
        self._audio = _add_aac(self._container, clock.sample_rate)
        self._frames = 0
        self._samples = 0

    def add_frame(self, pixels: np.ndarray) -> None:
        """Encode one frame, uint8 [h, w, 3]."""
        frame = picture_frame(pixels, self._frames, self._clock)
        self._frames += 1
        self._container.mux(self._video.encode(frame))

    def add_sound(self, sound: np.ndarray) -> None:
        """Encode samples, float32 [s]."""
        if len(sound):
            frame = sound_frame(sound, self._samples, self._clock.sample_rate)
            self._samples += len(sound)
            self._container.mux(self._audio.encode(frame))

    def close(self) -> None:
        """Write out what the encoders still hold."""
        self._container.mux(self._audio.encode(None))
        self._container.mux(self._video.encode(None))
        self._container.close()


def _until(packets: Iterator[Packet], time: Fraction) -> Iterator[Packet]:
    """The packets up to the first one that is decoded at `time` or later, in seconds."""
    for packet in packets:
        yield packet
        if (packet.dts or 0) * (packet.time_base or Fraction(1)) >= time:
            return


def _add_aac(container: OutputContainer, sample_rate: int) -> AudioStream:
    stream = container.add_stream("aac", rate=sample_rate)
    set_up_sound(stream.codec_context)
    return stream
