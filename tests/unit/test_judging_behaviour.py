"""A drawn face that speaks with a synthetic voice, through a real MP4: what the lip judge sees."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hallo_live_core.media.clip_reader import read_clip
from hallo_live_core.media.mp4 import Mp4Writer
from hallo_live_core.rewards.sync.judge import SyncJudge
from hallo_live_core.types import MediaChunk

from .sync_stubs import PlantedDetector

RATE, FPS = 16_000, 24
FRAME = 1 / 25
HEIGHT, WIDTH = 160, 192
CENTRE = (80, 96)
FACE_BOX = (0.2, 0.05, 0.8, 0.95)
SENTENCE = "Everything you see and hear is being made right now, one second after the other."


class CourseReader(nn.Module):
    """Stands in for SyncNet: how a mouth opens and how loud a voice is, over five frames."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def embed_lips(self, crops: Tensor) -> Tensor:
        darkness = -crops.mean(dim=(1, 2, 3))  # an open mouth is dark
        return shape_of(darkness.unfold(0, 5, 1))

    def embed_audio(self, windows: Tensor) -> Tensor:
        return shape_of(windows[:, 0].unflatten(1, (5, 4)).mean(dim=2))  # log energy


def shape_of(courses: Tensor) -> Tensor:
    return functional.normalize(courses - courses.mean(dim=1, keepdim=True), dim=1)


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """float32 [s] at 16 kHz."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: no voice to draw a mouth for")
    command = ["espeak-ng", "--stdout", "-s", "150", SENTENCE]
    spoken = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    # espeak-ng cannot seek in a pipe: its header promises more than there is
    data = np.frombuffer(spoken[44:], dtype="<i2").astype(np.float32) / 32768
    with wave.open(io.BytesIO(spoken)) as header:
        rate = header.getframerate()
    times = np.arange(int(len(data) / rate * RATE)) / RATE
    sound = np.interp(times, np.arange(len(data)) / rate, data)
    noise = np.random.default_rng(0).normal(size=len(sound)) * 1e-3  # a room, not a void
    return (sound + noise).astype(np.float32)


def openness(voice: np.ndarray, time: float) -> float:
    """0..1 from the loudness of 40 ms around this time."""
    middle, half = int(time * RATE), RATE // 50
    part = voice[max(0, middle - half) : middle + half]
    return float(np.clip((math.log(np.sqrt(np.mean(part**2)) + 1e-6) + 7) / 6, 0, 1))


def face(opening: float) -> np.ndarray:
    """uint8 [h, w, 3]: skin, two eyes, and a mouth that opens."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    picture = np.full((HEIGHT, WIDTH, 3), (60, 90, 120), np.uint8)

    def ellipse(cy: float, cx: float, ry: float, rx: float, colour: tuple) -> None:
        picture[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = colour

    cy, cx = CENTRE
    ellipse(cy, cx, 66, 52, (225, 180, 150))
    for side in (-20, 20):
        ellipse(cy - 20, cx + side, 5, 8, (40, 30, 30))
    ellipse(cy + 30, cx, 2 + 14 * opening, 20, (90, 20, 20))
    return picture


def write_speech(path: Path, voice: np.ndarray, *, late: float) -> Path:
    """The face speaks in time; the sound comes `late` seconds after it."""
    count = int(len(voice) / RATE * FPS) - 1
    frames = np.stack([face(openness(voice, (n + 0.5) / FPS)) for n in range(count)])
    shift = round(late * RATE)
    sound = np.roll(voice, shift)
    if shift:  # what comes round the corner is silence
        sound[slice(0, shift) if shift > 0 else slice(shift, None)] = 0
    samples = torch.from_numpy(sound.copy())
    chunk = MediaChunk(0, torch.from_numpy(frames), samples, 0, 0, Fraction(0), Fraction(0), True)
    with Mp4Writer(path) as writer:
        writer.write(chunk)
    return path


@pytest.mark.parametrize("frames", [-6, 0, 5])
def test_shifted_sound_is_found_through_codecs_and_containers(voice, tmp_path, frames):
    path = write_speech(tmp_path / "speech.mp4", voice, late=frames * FRAME)
    score = SyncJudge(PlantedDetector(FACE_BOX), CourseReader()).score(read_clip(path))
    assert abs(score.details.offset + frames) <= 1
    assert score.component("offset").verdict == ("good" if frames == 0 else "bad")


def test_a_face_that_speaks_scores_higher_than_one_that_says_something_else(voice, tmp_path):
    judge = SyncJudge(PlantedDetector(FACE_BOX), CourseReader())
    own = judge.score(read_clip(write_speech(tmp_path / "own.mp4", voice, late=0.0)))
    half = len(voice) / RATE / 2
    other = judge.score(read_clip(write_speech(tmp_path / "other.mp4", voice, late=half)))
    assert own.value > 1.5 * other.value
