"""What tests of several kinds share."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from hallo_live_core.checkpoints.tiny import write_tiny_models

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--mute-audio",
]

# Tiny networks are slower on many threads than on one, far slower where cores are busy.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

# A shell that runs the tests in the background ignores Ctrl-C, and so would the processes of tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder with the complete set of tiny files in the published layouts. Do not write to it."""
    return write_tiny_models(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def serve(tiny_models) -> Callable[..., AbstractContextManager[str]]:
    """`with serve("--size", "32x64") as address`: `hallo-live serve` as a process of its own.

    It is ended as if by Ctrl-C, which must succeed and be quiet.
    """

    @contextlib.contextmanager
    def run(*options: str) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "hallo_live_core", "serve", "--models", str(tiny_models)]
        where = ["--device", "cpu", "--port", str(port)]
        process = subprocess.Popen([*command, *where, *options], cwd=ROOT, stderr=subprocess.PIPE)
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
                    break
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors.decode()
        assert b"Traceback" not in errors, errors.decode()

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; tests skip where one of them is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=BROWSER_OPTIONS
        )
        yield chromium
        chromium.close()
