"""What a run tells the terminal: a progress bar while it runs, a table when it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from ..clock import MediaClock
from ..types import MediaChunk, Progress

MEBIBYTE = 2**20


@dataclass(slots=True)
class Stopwatch:
    """Wall-clock marks of one clip, in seconds since the prompt was submitted.

    A `Sink` for a thread of its own (`Delivery`), because it waits until each chunk has come from
    the GPU. The run must not wait: it hands out what it has launched, and goes on launching.
    """

    clock: MediaClock
    started: float = field(default_factory=time.perf_counter)
    text_seconds: float | None = None
    first_frame_seconds: float | None = None
    first_sound_seconds: float | None = None
    last_seconds: float = 0.0
    frames: int = 0
    samples: int = 0

    def elapsed(self) -> float:
        """Seconds since the prompt was submitted."""
        return time.perf_counter() - self.started

    def text_done(self) -> None:
        """The prompt has been encoded."""
        self.text_seconds = self.elapsed()

    def write(self, chunk: MediaChunk) -> None:
        """Take note of when a chunk is there; reading it waits."""
        frames = len(chunk.frames)
        if frames and self.first_frame_seconds is None:
            self.first_frame_seconds = self.elapsed()
        samples = len(chunk.samples)
        if samples and self.first_sound_seconds is None:
            self.first_sound_seconds = self.elapsed()
        self.frames += frames
        self.samples += samples
        self.last_seconds = self.elapsed()

    def close(self) -> None:
        """Nothing follows."""

    @property
    def clip_seconds(self) -> float:
        """How long the clip plays."""
        return float(self.clock.frame_time(self.frames))

    @property
    def real_time_factor(self) -> float:
        """Seconds of clip made per second of waiting, text encoding included; 1 is real time."""
        return self.clip_seconds / self.last_seconds if self.last_seconds else 0.0

    def rows(self) -> list[tuple[str, str]]:
        """The summary as (what, value)."""
        steady = self.last_seconds - (self.first_frame_seconds or 0.0)
        hand_out = (self.frames - 1) / steady if steady > 0 else 0.0
        return [
            ("clip", f"{self.clip_seconds:.3f} s, {self.frames} frames, {self.samples} samples"),
            ("text encoding", _seconds(self.text_seconds)),
            ("time to first frame", _seconds(self.first_frame_seconds)),
            ("time to first sound", _seconds(self.first_sound_seconds)),
            ("prompt to last frame", _seconds(self.last_seconds)),
            ("frames per second handed out", f"{hand_out:.2f}"),
            ("speed relative to real time", f"{self.real_time_factor:.2f} x"),
            *_memory_rows(),
        ]


class ProgressBar:
    """A tqdm bar over passes and latents with block, speed and time to first frame."""

    def __init__(self, title: str, watch: Stopwatch) -> None:
        self._title, self._watch = title, watch
        self._bar: tqdm | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands."""
        if self._bar is None:
            self._bar = tqdm(
                total=progress.total or None, desc=self._title, unit="step", leave=False
            )
        first = self._watch.first_frame_seconds
        of_all = f"/{progress.num_blocks}" if progress.num_blocks else ""
        self._bar.set_postfix_str(
            f"block {progress.block + 1}{of_all}"
            f", {self._watch.real_time_factor:.2f} x real time"
            + (f", first frame {first:.2f} s" if first is not None else ""),
            refresh=False,
        )
        self._bar.update(progress.done - self._bar.n)


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _memory_rows() -> list[tuple[str, str]]:
    return [
        (f"peak memory cuda:{i}", f"{torch.cuda.max_memory_allocated(i) / MEBIBYTE:.0f} MiB")
        for i in range(torch.cuda.device_count())
    ]
