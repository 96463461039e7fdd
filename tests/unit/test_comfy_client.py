"""The client script against a server with ComfyUI's routes and ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hallo_live_core.live.delivery import Delivery, SessionSink
from hallo_live_core.live.sessions import Sessions
from hallo_live_core.serving.live_routes import live_routes

from .live_media import decode, noise_clip

CLIENT = Path(__file__).parents[2] / "tools" / "comfy_client.py"
WORKFLOW = {"4": {"class_type": "HalloLiveStreamSampler", "inputs": {"seconds": 5.0, "seed": 0}}}


class ComfyUI:
    """Just enough of it: a prompt opens a session, `make` makes some chunks of its clip."""

    def __init__(self):
        self.sessions = Sessions()
        self.workflow: dict = {}
        self.calls: list[tuple[str, dict]] = []
        self.history: dict = {}
        self.queued = asyncio.Event()
        self.stopped = asyncio.Event()

    async def prompt(self, request):
        self.workflow = (await request.json())["prompt"]
        self.prompt_id = str(uuid.uuid4())
        self.session = self.sessions.open(tags={"prompt_id": self.prompt_id})
        self.queued.set()
        return web.json_response({"prompt_id": self.prompt_id})

    async def note(self, request):
        self.calls.append((request.path, await request.json()))
        if request.path == "/interrupt":
            self.stopped.set()
        return web.Response()

    async def tell_history(self, request):
        return web.json_response(self.history)

    def make(self, chunks):
        with Delivery(SessionSink(self.session)) as delivery:
            for chunk in chunks:
                delivery.write(chunk)

    @contextlib.asynccontextmanager
    async def serving(self):
        app = web.Application()
        app.router.add_post("/prompt", self.prompt)
        app.router.add_post("/queue", self.note)
        app.router.add_post("/interrupt", self.note)
        app.router.add_get("/history/{id}", self.tell_history)
        for method, path, handler in live_routes(self.sessions):
            app.router.add_route(method, path, handler)
        async with TestServer(app) as server:
            yield server


async def start(server, folder: Path, *arguments: str):
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLIENT),
        str(folder / "workflow.json"),
        *arguments,
        "--server",
        f"http://127.0.0.1:{server.port}/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )


def test_the_stream_of_a_queued_workflow_is_saved_while_it_is_made(tmp_path):
    async def scene():
        comfy = ComfyUI()
        async with comfy.serving() as server:
            clip = tmp_path / "clip.mp4"
            settings = ("--set", "4.seconds=2", "--set", "4.seed=7")
            process = await start(server, tmp_path, "-o", str(clip), *settings)
            await asyncio.wait_for(comfy.queued.wait(), 30)
            assert comfy.workflow["4"]["inputs"] == {"seconds": 2, "seed": 7}
            with comfy.session.running():
                chunks = noise_clip()
                await asyncio.to_thread(comfy.make, chunks)
                while not (clip.exists() and clip.stat().st_size):
                    await asyncio.sleep(0.05)
            _, errors = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 0, errors
            assert len(decode(clip.read_bytes())[0]) == 45
            assert b"queued as" in errors and b"finished: " in errors

    asyncio.run(scene())


def test_ctrl_c_cancels_the_run_and_what_has_come_plays(tmp_path):
    async def scene():
        comfy = ComfyUI()
        async with comfy.serving() as server:
            process = await start(server, tmp_path, "-o", "-")
            await asyncio.wait_for(comfy.queued.wait(), 30)
            await asyncio.to_thread(comfy.make, noise_clip()[:7])
            begun = await asyncio.wait_for(process.stdout.readexactly(4096), 30)
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGINT)
            rest, errors = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 1 and errors.endswith(b"stopped\n")
            assert len(decode(begun + rest)[0]) > 10
            prompt = comfy.prompt_id
            assert comfy.calls == [
                ("/queue", {"delete": [prompt]}),
                ("/interrupt", {"prompt_id": prompt}),
            ]
            comfy.session.end("stopped")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.json"], "missing.json cannot be read"),
        (["text.json"], "text.json cannot be read"),
        (["canvas.json"], "canvas.json is not in API form"),
        (["api.json", "-o", "no/clip.mp4"], "name a file in a folder that exists"),
        (["api.json", "-o", "."], "name a file in a folder that exists"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line_before_the_run(tmp_path, arguments, words):
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "canvas.json").write_text('{"nodes": [], "version": 0.4}')
    (tmp_path / "api.json").write_text(json.dumps(WORKFLOW))
    command = [sys.executable, str(CLIENT), *arguments, "--server", "http://127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_a_run_without_a_stream_and_a_wrong_setting_are_told(tmp_path):
    async def scene():
        comfy = ComfyUI()
        async with comfy.serving() as server:
            wrong = await start(server, tmp_path, "--set", "4.sed=1")
            _, errors = await asyncio.wait_for(wrong.communicate(), 30)
            assert wrong.returncode == 1 and b"no input 4.sed" in errors
            process = await start(server, tmp_path)
            await asyncio.wait_for(comfy.queued.wait(), 30)
            comfy.sessions.close()
            comfy.history = {comfy.prompt_id: {"status": {"status_str": "error"}}}
            _, errors = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 1 and b"without a stream: error" in errors

    asyncio.run(scene())
