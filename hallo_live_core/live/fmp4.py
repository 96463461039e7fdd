"""MediaChunk -> init segment and fragments, as bytes that any player takes while they are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from ..clock import MediaClock
from ..errors import MediaError
from ..media.encoders import (
    AAC_FRAME,
    as_sound,
    picture_frame,
    require_av,
    set_up_picture,
    set_up_sound,
    sound_frame,
)
from ..types import MediaChunk
from .boxes import (
    AUDIO_TRACK,
    VIDEO_TRACK,
    Sample,
    Track,
    TrackRun,
    fragment,
    init_segment,
    length_prefixed,
    mime_type,
)

if TYPE_CHECKING:
    from av import AudioCodecContext, CodecContext, Packet, VideoCodecContext

Encoder = TypeVar("Encoder", bound="CodecContext")

LIVE_ENCODER = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "crf": "21",
    "maxrate": "8M",
    "bufsize": "8M",
    "g": "9999",  # key frames are where we ask for them: at the start of every block
    "sc_threshold": "0",
    "forced-idr": "1",
}
"""x264 settings: a frame comes out when it goes in, and a second is at most a megabyte."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the stream: the header, or a fragment of about a sixth of a second.

    kind: `init` is needed by every reader, first; playing can begin at every `key`. time, end: what
    it covers, in seconds since the start of the clip.
    """

    kind: Literal["init", "key", "normal"]
    data: bytes
    time: float = 0.0
    end: float = 0.0


class FragmentedMp4:
    """Encodes one clip for viewers who watch while it is being made.

    Every chunk becomes one fragment, sound before picture, and nothing waits for the next chunk but
    the last 128 ms of sound, which the AAC encoder holds. `mime` is known from the first frame on.

    Raises:
        MediaError: PyAV is missing, or an encoder fails.
    """

    def __init__(self, *, clock: MediaClock | None = None) -> None:
        self._clock = clock or MediaClock()
        self._encoders: _Encoders | None = None
        self._sound: list[np.ndarray] = []
        self._block: int | None = None
        self._number = 0
        self._failures = (require_av().FFmpegError, OSError)

    @property
    def mime(self) -> str | None:
        """Content type with codecs, from what the encoders said of themselves."""
        return None if self._encoders is None else self._encoders.mime

    def write(self, chunk: MediaChunk) -> list[Segment]:
        """The bytes of a chunk; with the first frame comes the init segment before them.

        Sound that comes before the first frame waits for it: only that tells the picture's size.
        """
        try:
            return list(self._segments(chunk))
        except self._failures as error:
            raise MediaError("Cannot encode the live stream", found=error) from error

    def close(self) -> list[Segment]:
        """What the sound encoder still held. Safe to repeat."""
        encoders, self._encoders = self._encoders, None
        if encoders is None:
            return []
        try:
            return self._fragment([encoders.sound_run(None)])
        except self._failures as error:
            raise MediaError("Cannot finish the live stream", found=error) from error

    def _segments(self, chunk: MediaChunk) -> Iterator[Segment]:
        self._sound.append(as_sound(chunk.samples))
        if self._encoders is None:
            if not len(chunk.frames):
                return
            height, width = chunk.frames.shape[1:3]
            self._encoders = _Encoders(self._clock, height, width)
            yield Segment("init", self._encoders.init)
        sound = self._encoders.sound_run(np.concatenate(self._sound))
        self._sound.clear()
        picture = self._encoders.picture_run(
            chunk.frames.numpy(), is_key=chunk.block != self._block
        )
        if len(chunk.frames):
            self._block = chunk.block
        yield from self._fragment([sound, picture])

    def _fragment(self, runs: Iterable[TrackRun]) -> list[Segment]:
        runs = [run for run in runs if run.samples]
        if not runs:
            return []
        self._number += 1
        covers = [_covers(run, self._clock) for run in runs]
        is_key = any(run.track == VIDEO_TRACK and run.samples[0].is_sync for run in runs)
        return [
            Segment(
                "key" if is_key else "normal",
                fragment(self._number, runs),
                time=float(min(start for start, _ in covers)),
                end=float(max(end for _, end in covers)),
            )
        ]


class _Encoders:
    """The two encoders of one stream, opened."""

    def __init__(self, clock: MediaClock, height: int, width: int) -> None:
        self._clock = clock
        self._video, self._audio = _open_h264(clock, height, width), _open_aac(clock)
        video = Track(clock.timescale, self._video.extradata or b"", height, width)
        audio = Track(clock.sample_rate, self._audio.extradata or b"", skip=AAC_FRAME)
        self._size = (height, width)
        self._frames = self._samples = 0
        self.init = init_segment(video, audio)
        self.mime = mime_type(video, audio)

    def picture_run(self, frames: np.ndarray, *, is_key: bool) -> TrackRun:
        """Encode frames, uint8 [f, h, w, 3]; is_key: the first one decodes alone."""
        if len(frames) and frames.shape[1:3] != self._size:
            raise MediaError(
                "All frames of a stream have one size",
                found=f"{frames.shape[1]}x{frames.shape[2]} after {self._size[0]}x{self._size[1]}",
            )
        ticks = self._clock.frame_ticks
        start = ticks(self._frames)
        samples = []
        for index, pixels in enumerate(frames):
            frame = picture_frame(pixels, self._frames, self._clock)
            if is_key and index == 0:
                frame.pict_type = require_av().video.frame.PictureType.I
            lasts = ticks(self._frames + 1) - ticks(self._frames)
            self._frames += 1
            samples += [
                Sample(length_prefixed(bytes(packet)), lasts, packet.is_keyframe)
                for packet in self._video.encode(frame)
            ]
        return TrackRun(VIDEO_TRACK, start, samples)

    def sound_run(self, sound: np.ndarray | None) -> TrackRun:
        """Encode samples, float32 [s]; None: there are no more."""
        packets: list[Packet] = []
        if sound is None:
            packets = self._audio.encode(None) if self._samples else []
        elif len(sound):
            packets = self._audio.encode(sound_frame(sound, self._samples, self._clock.sample_rate))
            self._samples += len(sound)
        # Presentation starts at -AAC_FRAME with the priming; the header says to skip that.
        start = (packets[0].pts or 0) + AAC_FRAME if packets else 0
        samples = [Sample(bytes(p), p.duration or AAC_FRAME, is_sync=True) for p in packets]
        return TrackRun(AUDIO_TRACK, start, samples)


def _covers(run: TrackRun, clock: MediaClock) -> tuple[Fraction, Fraction]:
    """From when to when a run is seen or heard."""
    length = sum(sample.duration for sample in run.samples)
    if run.track == VIDEO_TRACK:
        scale = clock.timescale
        return Fraction(run.start, scale), Fraction(run.start + length, scale)
    start = run.start - AAC_FRAME
    return clock.sample_time(max(0, start)), clock.sample_time(start + length)


def _open_h264(clock: MediaClock, height: int, width: int) -> VideoCodecContext:
    context = require_av().CodecContext.create("libx264", "w")
    set_up_picture(context, clock, height, width)
    context.options = dict(LIVE_ENCODER)
    return _opened(context)


def _open_aac(clock: MediaClock) -> AudioCodecContext:
    context = require_av().CodecContext.create("aac", "w")
    set_up_sound(context)
    context.format, context.sample_rate = "fltp", clock.sample_rate
    context.time_base = Fraction(1, clock.sample_rate)
    return _opened(context)


def _opened(context: Encoder) -> Encoder:
    """Open with the parameter sets in the header, where MP4 keeps them."""
    context.flags |= require_av().codec.context.Flags.global_header
    context.open()
    return context
