from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import pytest

from hallo_live_core.cli import main

from .live_media import decode

ROOT = Path(__file__).parents[2]
PROMPT = "A woman says, <S>Hello.<E>"


@pytest.fixture
def command(tiny_models) -> list[str]:
    options = ["--models", str(tiny_models), "--device", "cpu", "--size", "32x64"]
    return [sys.executable, "-m", "hallo_live_core", "generate", PROMPT, *options]


def start(command: list[str], folder: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_standard_output_is_a_stream_and_messages_go_elsewhere(command, tmp_path):
    process = start(command, tmp_path, "--seconds", "2", "--live", "-")
    stream, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    frames, sound = decode(stream)
    assert len(frames) == 45
    assert sum(len(part) for _, part in sound) >= 30_000
    assert b"time to first frame" in errors
    assert list(tmp_path.iterdir()) == []


def test_the_stream_begins_before_the_clip_is_done(command, tmp_path):
    process = start(command, tmp_path, "--seconds", "20", "--live", "-")
    begun = os.read(process.stdout.fileno(), 65536)
    assert begun[4:8] == b"ftyp"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"stopped; kept" in errors
    assert 0 < len(decode(begun + rest)[0]) < 20 * 24 - 3


def test_a_player_that_closes_the_pipe_ends_the_run_with_one_line(command, tmp_path):
    process = start(command, tmp_path, "--seconds", "20", "--live", "-")
    os.read(process.stdout.fileno(), 1024)
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=120) == 1
    assert "its reader is still there" in errors
    assert "Traceback" not in errors and "Exception ignored" not in errors


def test_a_stream_and_a_finished_file_can_be_made_together(tiny_models, tmp_path, capsys):
    kept, live = tmp_path / "kept.mp4", tmp_path / "live.mp4"
    options = ["--models", str(tiny_models), "--device", "cpu", "--size", "32x64"]
    outputs = ["-o", str(kept), "--live", str(live)]
    assert main(["generate", PROMPT, "--seconds", "1", *options, *outputs]) == 0
    assert str(kept) in capsys.readouterr().out
    for file in (kept, live):
        with av.open(io.BytesIO(file.read_bytes())) as container:
            assert sum(1 for _ in container.decode(video=0)) == 21


def test_a_terminal_is_refused(tiny_models, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    options = ["--models", str(tiny_models), "--device", "cpu", "--size", "32x64"]
    assert main(["generate", PROMPT, "--seconds", "1", *options, "--live", "-"]) == 1
    assert "ffplay" in capsys.readouterr().err
