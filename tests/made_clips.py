"""Video files of all kinds, made on the spot."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np


def write_clip(
    path: Path,
    *,
    frames: int = 55,
    fps: int = 25,
    size: tuple[int, int] = (128, 128),
    rate: int | None = 16_000,
    layout: str = "mono",
    title: str = "",
) -> Path:
    """A clip of moving noise with a hum; rate None leaves the sound out."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 255, (frames, height // 8, width // 8, 3))
    with av.open(str(path), "w") as container:
        if title:
            container.metadata.update({"title": title, "comment": "Hallo-Live seed=1"})
        video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        if rate is not None:
            audio = container.add_stream("aac", rate=rate, layout=layout)
        for picture in noise.astype(np.uint8):
            pixels = np.ascontiguousarray(picture.repeat(8, axis=0).repeat(8, axis=1))
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        if rate is not None:
            wave = 0.2 * np.sin(np.arange(rate * frames // fps) * 2 * math.pi * 220 / rate)
            channels = 2 if layout == "stereo" else 1
            sound = np.ascontiguousarray(np.tile(wave.astype(np.float32), (channels, 1)))
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
            frame.sample_rate = rate
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path
