"""What the terminal tells of a run must not slow the run."""

import threading
from fractions import Fraction

import torch

from hallo_live_core.cli.generate import Clip, _make
from hallo_live_core.cli.report import Stopwatch
from hallo_live_core.clock import MediaClock
from hallo_live_core.types import MediaChunk, Request

CHUNKS = 6
PATIENCE = 5.0
"""Seconds after which a test gives up."""


class AfterTheRun:
    """A tensor that comes from the GPU only when the run has launched all of its work."""

    def __init__(self, tensor: torch.Tensor, launched: threading.Event) -> None:
        self._tensor, self._launched = tensor, launched

    def result(self) -> torch.Tensor:
        if not self._launched.wait(PATIENCE):
            raise AssertionError("somebody waits for a chunk in the thread that launches")
        return self._tensor


class Engine:
    """Launches chunk after chunk; none is there before the last has been launched."""

    def clock_for(self, _request):
        return MediaClock()

    def encode(self, _prompt):
        return None

    def stream(self, _request, **_options):
        launched = threading.Event()
        for number in range(CHUNKS):
            yield MediaChunk(
                block=0,
                frames=AfterTheRun(torch.zeros(4, 32, 64, 3, dtype=torch.uint8), launched),
                samples=AfterTheRun(torch.zeros(2560), launched),
                first_frame=4 * number,
                first_sample=2560 * number,
                frame_time=Fraction(4 * number, 24),
                sample_time=Fraction(16 * number, 100),
                is_last=number == CHUNKS - 1,
            )
        launched.set()


def test_a_run_in_the_terminal_goes_on_while_its_chunks_are_on_their_way(tmp_path, capsys):
    target = tmp_path / "clip.mp4"
    clip = Clip(Request(prompt="Hello"), target, "1/1", None, None, listens=False)
    _make(Engine(), clip, stop=lambda: False)
    assert target.is_file()
    assert f"{4 * CHUNKS} frames, {2560 * CHUNKS} samples" in capsys.readouterr().out


def test_first_times_are_those_at_which_chunks_are_there():
    watch, launched = Stopwatch(MediaClock()), threading.Event()
    launched.set()
    nothing, frames = torch.zeros(0), torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    one = {"block": 0, "first_frame": 0, "first_sample": 0, "is_last": False}
    times = {"frame_time": Fraction(0), "sample_time": Fraction(0)}
    watch.write(MediaChunk(frames=AfterTheRun(frames, launched), samples=nothing, **one, **times))
    assert watch.first_frame_seconds is not None and watch.first_sound_seconds is None
    watch.write(MediaChunk(frames=frames, samples=torch.zeros(5), **one, **times))
    assert watch.first_frame_seconds <= watch.first_sound_seconds <= watch.last_seconds
    assert (watch.frames, watch.samples) == (2, 5)
