"""Reads any video file for the judges: all frames, and sound from the first frame on."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MediaError
from ..rewards.base import Clip
from .encoders import require_av
from .label import prompt_of

if TYPE_CHECKING:
    from av.container import InputContainer

logger = logging.getLogger(__name__)

MAX_SECONDS = 60.0
"""Where reading stops, or a film would fill the memory; judges are for clips."""

ALMOST_HALF = 0.45
"""Of a frame's time: less is what containers round, and no other rate."""

TIME_NOISE = 1e-3
"""Seconds by which a frame may appear late in a file with coarse time stamps."""

ANOTHER_FILE = "choose another file, or convert this one to MP4"

DEFAULT_RATE = 16_000
"""Hz, for clips without sound."""


def read_clip(path: str | Path, *, prompt: str = "", max_seconds: float = MAX_SECONDS) -> Clip:
    """A clip from a file that PyAV can open; sound keeps its channels and its rate.

    Where sound begins before the picture it is cut, where it begins later silence is put before it,
    so that sample 0 belongs to frame 0.

    Raises:
        MediaError: PyAV is missing, or the file is missing, damaged or without a picture.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"There is no file {path}", fix="check the path to the clip")
    av = require_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path.name} has no picture", fix="choose a video file")
            fps = container.streams.video[0].average_rate or Fraction(0)
            frames, times = _read_picture(container, max_seconds)
        frames, start = [frames[i] for i in evenly(times, fps)], times[0] if times else 0.0
        samples, rate = None, DEFAULT_RATE
        with av.open(str(path)) as container:
            if container.streams.audio:
                seconds = float(len(frames) / fps) if fps else 0.0
                samples, rate = _read_sound(container, start, seconds)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path.name} cannot be read as a video", found=error, fix=ANOTHER_FILE
        ) from error
    if not frames or fps <= 0:
        found = f"{len(frames)} at {fps} fps"
        raise MediaError(f"{path.name} has no frames", found=found, fix=ANOTHER_FILE)
    return Clip(torch.stack(frames), Fraction(fps), samples, rate, prompt)


def read_prompt(path: str | Path) -> str:
    """The prompt that `hallo-live generate` stored in a clip; empty for clips of other origin."""
    av = require_av()
    try:
        with av.open(str(path)) as container:
            return prompt_of(container.metadata)
    except (av.FFmpegError, OSError):
        return ""  # reading the clip itself will say why


def evenly(times: Sequence[float], fps: Fraction) -> list[int]:
    """Which frame is seen at 0, 1 / fps, 2 / fps, ... of frames that appear at `times`, in seconds.

    All, one after the other, where the rate is constant: no frame is off by half a frame's time.
    Streams that went on for long are no such clips: their picture follows the sound (`MediaClock`).
    """
    if not times or fps <= 0:
        return list(range(len(times)))
    grid = [float(times[0] + i / fps) for i in range(len(times))]
    if all(abs(at - time) * fps < ALMOST_HALF for at, time in zip(grid, times, strict=True)):
        return list(range(len(times)))
    return [bisect_right(times, at + TIME_NOISE) - 1 for at in grid]


def _read_picture(
    container: InputContainer, max_seconds: float
) -> tuple[list[Tensor], list[float]]:
    """Frames [h, w, 3], and when each appears, in seconds."""
    frames: list[Tensor] = []
    times: list[float] = []
    for frame in container.decode(video=0):
        time = frame.time or 0.0
        if frames and time - times[0] >= max_seconds:
            logger.warning("%s is long: only its first %g s are read", container.name, max_seconds)
            break
        frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
        times.append(time)
    return frames, times


def _read_sound(
    container: InputContainer, start: float, seconds: float
) -> tuple[Tensor | None, int]:
    """Samples [channels, s] of `seconds` from `start` on, and their rate."""
    resampler = require_av().AudioResampler(format="fltp")
    parts: list[np.ndarray[Any, Any]] = []
    first, rate = 0.0, DEFAULT_RATE
    for frame in container.decode(audio=0):
        time = frame.time or 0.0
        if not parts:
            first, rate = time, frame.sample_rate
        if time - start >= seconds:
            break
        parts += [part.to_ndarray() for part in resampler.resample(frame)]
    if not parts:
        return None, rate
    sound = np.concatenate(parts, axis=1)
    late = round((first - start) * rate)
    sound = np.pad(sound, ((0, 0), (late, 0))) if late > 0 else sound[:, -late:]
    return torch.from_numpy(np.ascontiguousarray(sound[:, : round(seconds * rate)])), rate
