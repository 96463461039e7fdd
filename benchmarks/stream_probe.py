"""Marks in time while a clip is made; they are read when it is done, never in between."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from benchmarks.measure import MILLI, synchronize
from hallo_live_core import MediaChunk, Placement, Progress, Request
from hallo_live_core.engine import HalloLive

BUFFER_SECONDS = 0.1
"""What a player waits before it begins."""

Mark = torch.cuda.Event | float


def mark(device: torch.device) -> Mark:
    """Now: on a GPU, the moment at which it has done what it was given so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def between(first: Mark, second: Mark) -> float:
    """Seconds, once all is done."""
    if isinstance(first, float) or isinstance(second, float):
        return float(second) - float(first)  # pyright: ignore[reportArgumentType]
    return first.elapsed_time(second) / MILLI


@dataclass
class Probe:
    """One clip: `(block, begin, end)` of every pass, `(begin, end)` of every other part.

    waits: how often the host has waited for a device so far. reserved, waited: the allocators'
    bytes on all devices, and those waits, when the newest pass of each block had been launched.
    """

    on: Placement
    waits: Callable[[], int] = int
    passes: list[tuple[int, Mark, Mark]] = field(default_factory=list)
    latents: list[tuple[Mark, Mark]] = field(default_factory=list)
    sounds: list[tuple[Mark, Mark]] = field(default_factory=list)
    texts: list[tuple[Mark, Mark]] = field(default_factory=list)
    reserved: dict[int, int] = field(default_factory=dict)
    waited: dict[int, int] = field(default_factory=dict)
    _last: Mark | None = None

    def begin(self) -> None:
        """The transformer is about to be asked for its first pass."""
        self._last = mark(self.on.transformer)

    def __call__(self, progress: Progress) -> None:
        """As `on_progress`: what came before is the pass, or decoding in this thread."""
        now = mark(self.on.transformer)
        if progress.stage == "denoise" and self._last is not None:
            self.passes.append((progress.block, self._last, now))
            used = [torch.cuda.memory_reserved(device) for device in gpus_of(self.on)]
            self.reserved[progress.block] = sum(used)
            self.waited[progress.block] = self.waits()
        self._last = now

    def block_seconds(self) -> list[float]:
        """The transformer's time for each block."""
        blocks: dict[int, float] = {}
        for block, first, second in self.passes:
            blocks[block] = blocks.get(block, 0.0) + between(first, second)
        return list(blocks.values())

    def growth(self) -> int:
        """Bytes that the allocators took between the second block and the last."""
        later = [used for block, used in self.reserved.items() if block]
        return max(later) - later[0] if later else 0

    def steady_waits(self) -> int:
        """How often the host waited after the passes of the first block."""
        return self.waits() - self.waited.get(0, 0)


def gpus_of(on: Placement) -> list[torch.device]:
    every = dict.fromkeys((on.transformer, *on.sharers, on.decoder, on.text_encoder))
    return [device for device in every if device.type == "cuda"]


def timed(work: Callable, device: torch.device, into: Callable[[], list]) -> Callable:
    """`work`, which notes in `into()` when it began and ended."""

    def run(*arguments, **options):
        began = mark(device)
        answer = work(*arguments, **options)
        into().append((began, mark(device)))
        return answer

    return run


class Watched:
    """An engine whose decoders and text encoder tell the probe of the clip in work."""

    def __init__(self, engine: HalloLive) -> None:
        self.engine, self.on = engine, engine.placement
        self.waits: Callable[[], int] = int
        self.probe = Probe(self.on)
        video, sound, text = engine._video_decoder, engine._audio_decoder, engine._text_encoder
        beside, here = self.on.decoder, self.on.text_encoder
        video.decode = timed(video.decode, beside, lambda: self.probe.latents)
        sound.middle = timed(sound.middle, beside, lambda: self.probe.sounds)
        sound.render = timed(sound.render, beside, lambda: self.probe.sounds)
        text.encode = timed(text.encode, here, lambda: self.probe.texts)

    def fresh(self) -> Probe:
        """The probe of the next clip."""
        self.probe = Probe(self.on, self.waits)
        return self.probe


@dataclass
class Clip:
    """What one clip was like for whoever asked for it; seconds since the prompt was submitted."""

    probe: Probe
    first_frame: float
    first_block: float
    first_sound: float
    last_frame: float
    frames: int
    arrivals: list[tuple[float, float]]

    @property
    def hand_out_fps(self) -> float:
        """Frames between the first and the last one that came, over the time between them."""
        return (self.frames - 1) / (self.last_frame - self.first_frame)

    @property
    def total_fps(self) -> float:
        return self.frames / self.last_frame

    def lateness(self) -> list[float]:
        """How long after its moment each chunk came; below zero is early."""
        start = self.arrivals[0][0] + BUFFER_SECONDS
        return [came - start - due for came, due in self.arrivals]


class Viewer:
    """Reads chunks in a thread of its own, as players do, and notes when they were really there."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._chunks: queue.SimpleQueue[MediaChunk | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="viewer")
        self.arrivals: list[tuple[float, float]] = []
        self.frames = 0
        self.first_sound = self.first_block = 0.0

    def __enter__(self) -> Viewer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.put(None)
        self._thread.join()

    def show(self, chunk: MediaChunk) -> None:
        self._chunks.put(chunk)

    def _read(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            frames, samples = chunk.frames, chunk.samples
            now = time.perf_counter() - self._began
            self.first_block = now if chunk.block == 0 else self.first_block
            self.first_sound = self.first_sound or (now if len(samples) else 0.0)
            self.arrivals.append((now, float(chunk.frame_time)))
            self.frames += len(frames)


def make(watched: Watched, request: Request, *, only_first_block: bool = False) -> Clip:
    """Make a clip and take its times."""
    probe = watched.fresh()
    began = time.perf_counter()
    with Viewer(began) as viewer:
        text = watched.engine.encode(request.prompt)
        probe.begin()
        chunks = watched.engine.stream(request, text=text, on_progress=probe)
        for chunk in chunks:
            if only_first_block and chunk.block:
                chunks.close()
                break
            viewer.show(chunk)
    for device in {watched.on.transformer, watched.on.decoder, *watched.on.sharers}:
        synchronize(device)
    arrivals = viewer.arrivals
    return Clip(
        probe,
        first_frame=arrivals[0][0],
        first_block=viewer.first_block,
        first_sound=viewer.first_sound,
        last_frame=arrivals[-1][0],
        frames=viewer.frames,
        arrivals=arrivals,
    )
