"""A stranger with the README alone: from a clone to a moving picture, with a stopwatch.

Prints the seconds of each step: run it with `-s`. What the network would take is not in them: the
clone comes from this folder, and ComfyUI and its packages are there already.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .canvas import QUEUE_BUTTON, Canvas
from .conftest import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACK = "ComfyUI-HalloLive"
ALL_SECONDS = 300
PLAYING = "document.querySelector('.hl-video').currentTime > 0.2"
DONE = "document.querySelector('.hl-player').dataset.state === 'finished'"
MAKE_TINY = r"python -m hallo_live_core make-tiny --comfyui \.\./\.\."
INSTALL = r"pip install -r requirements\.txt"


class Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 1), now


def command_of_readme(pattern: str) -> list[str]:
    """A command as the README gives it, with this Python."""
    (found,) = set(re.findall(pattern, (ROOT / "README.md").read_text(encoding="utf-8")))
    program, *words = shlex.split(found)
    return [sys.executable, *([] if program == "python" else ["-m", program]), *words]


def follow(command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def test_a_stranger_sees_a_moving_picture_in_five_minutes(comfyui, browser, tmp_path):
    base, watch = tmp_path / "ComfyUI", Stopwatch()
    (base / "custom_nodes").mkdir(parents=True)
    (base / "models").mkdir()
    pack = base / "custom_nodes" / PACK
    follow(["git", "clone", "--quiet", str(ROOT), PACK], pack.parent)
    watch.lap("clone")
    follow(command_of_readme(INSTALL), pack)
    watch.lap("pip install")
    follow(command_of_readme(MAKE_TINY), pack)
    watch.lap("make-tiny")
    server = Server(comfyui, base, PACK)
    try:
        server.wait_until_ready()
        watch.lap("ComfyUI starts")
        canvas = Canvas(browser, server)
        watch.lap("page")
        canvas.page.get_by_label("Templates").first.click()
        canvas.page.get_by_text(PACK, exact=True).first.click()
        canvas.page.get_by_test_id("template-workflow-First try").click()
        canvas.wait("document.querySelector('.hl-player') !== null")
        watch.lap("template")
        canvas.page.locator(QUEUE_BUTTON).click()
        canvas.wait(PLAYING)
        watch.lap("moving picture")
        moving = sum(watch.laps.values())
        canvas.wait(DONE)
        watch.lap("clip done")
        canvas.shoot("first try", tmp_path)
        assert canvas.complaints == []
        canvas.close()
        clips = list((base / "output" / "video").glob("*.mp4"))
    finally:
        server.stop()
    print("\n" + json.dumps(watch.laps), f"moving after {moving:.0f} s")  # noqa: T201 - the result
    assert len(clips) == 1
    assert moving < ALL_SECONDS
