"""What every written MP4 has in common: how a frame and a piece of sound reach the encoders."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..clock import MediaClock
from ..errors import MediaError

if TYPE_CHECKING:
    from av import AudioCodecContext, AudioFrame, VideoCodecContext, VideoFrame

AUDIO_BIT_RATE = 96_000
"""Bits per second; transparent for 16 kHz mono speech."""

AAC_FRAME = 1024
"""Samples in one AAC frame; also what the encoder runs ahead (priming)."""

PIXEL_FORMAT = "yuv420p"
"""The only one that all players show."""

JPEG_FORMAT = "yuvj420p"

BT709 = 1
"""Colour matrix, primaries and transfer of HD video (ITU-T H.273 code point 1)."""

LIMITED_RANGE = 1
"""libav's AVCOL_RANGE_MPEG: luma 16..235, what players expect of H.264."""


def require_av() -> ModuleType:
    """PyAV, or an error that says how to get it.

    Raises:
        MediaError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MediaError(
            "PyAV is needed to write MP4", fix='pip install "hallo-live[standalone]"'
        ) from error
    return av


def set_up_picture(context: VideoCodecContext, clock: MediaClock, height: int, width: int) -> None:
    """Rate, size, pixel format and colours of an H.264 encoder that has not been opened yet."""
    context.framerate, context.time_base = clock.fps, Fraction(1, clock.timescale)
    context.width, context.height, context.pix_fmt = width, height, PIXEL_FORMAT
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def set_up_sound(context: AudioCodecContext) -> None:
    """Channels and bit rate of an AAC encoder that has not been opened yet."""
    context.layout = "mono"
    context.bit_rate = AUDIO_BIT_RATE


def picture_frame(pixels: np.ndarray, index: int, clock: MediaClock) -> VideoFrame:
    """Frame number `index` for the encoder, from uint8 [h, w, 3]; its time counts ticks."""
    frame = require_av().VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = frame.reformat(format=PIXEL_FORMAT, dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)
    frame.pts, frame.time_base = clock.frame_ticks(index), Fraction(1, clock.timescale)
    return frame


def as_sound(samples: Tensor) -> np.ndarray:
    """Samples [s] on the CPU, as float32 in -1..1.

    Raises:
        MediaError: some are no numbers, which no encoder takes.
    """
    wrong = int((~samples.isfinite()).sum())
    if wrong:
        raise MediaError(
            "The sound has values that are no numbers",
            found=f"{wrong} of {len(samples)} samples",
            fix="check the weight files; float16 overflows where bfloat16 does not",
        )
    return samples.detach().to(torch.float32).clamp(-1, 1).numpy()


def sound_frame(sound: np.ndarray, start: int, sample_rate: int) -> AudioFrame:
    """Samples from number `start` for the encoder, from float32 [s]."""
    frame = require_av().AudioFrame.from_ndarray(
        np.ascontiguousarray(sound[None]), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
    return frame


def jpeg(pixels: np.ndarray) -> bytes:
    """A picture, uint8 [h, w, 3] with even sides, as a JPEG file."""
    av = require_av()
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, JPEG_FORMAT
    encoder.time_base = Fraction(1)
    packets = [*encoder.encode(frame.reformat(format=JPEG_FORMAT)), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
