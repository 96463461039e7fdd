"""`hallo-live serve` answers whatever comes, without a fault of its own and without a leak."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hallo_live_core.serving.app import build_app
from hallo_live_core.serving.guard import why_refused
from hallo_live_core.serving.studio import Studio

from ..raw_http import answer, bodies, foreign, headers, ids, methods, odd, queries, request, until
from .live_server import PROMPT, StagedEngine

PATHS = (
    "/",
    "/page.mjs",
    "/player/player.mjs",
    "/api/generate",
    "/api/settings",
    "/hallolive/sessions",
)
BELOW_ID = ("", "/", "/finish", "/cancel", "/say", "/file", "/../../file")
MANY = 10_000
"""Clips that may wait: here it is asked for more of them than anybody would."""

paths = st.one_of(
    st.sampled_from(PATHS),
    st.builds("/hallolive/sessions/{}{}".format, ids, st.sampled_from(BELOW_ID)),
    st.builds("/hallolive/stream/{}{}".format, ids, queries),
    st.builds("/player/{}".format, ids),
    st.builds("/{}".format, ids),
)
here = ("Host", "localhost")
AS_JSON = [here, ("Content-Type", "application/json")]


class Running:
    """The server in a thread with an event loop of its own, in front of a real socket."""

    def __init__(self, folder: Path) -> None:
        from aiohttp import web

        engine = StagedEngine(fails_at=0)
        engine.allow()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(1))  # else it grows to one per core
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._studio = Studio(engine, folder, max_waiting=MANY, max_sessions=MANY)
        self._studio.__enter__()
        self._runner = web.AppRunner(build_app(self._studio, loopback=True))
        self._thread.start()
        self.port = self._do(self._start())

    async def _start(self) -> int:
        from aiohttp import web

        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self._runner.addresses[0][1]

    async def _end(self) -> None:
        await self._runner.cleanup()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}  # for what clients never sent
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def num_tasks(self) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self._do(count())

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        reply = connection.getresponse()
        status, body = reply.status, reply.read()
        connection.close()
        return status, body

    def stop(self) -> None:
        self._do(self._end())
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._studio.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = Running(tmp_path_factory.mktemp("clips"))
    yield server
    server.stop()


def footprint(server: Running) -> tuple[int, int, int]:
    """Threads, open files, tasks of the event loop."""
    return threading.active_count(), len(list(Path("/dev/fd").iterdir())), server.num_tasks()


@pytest.fixture(autouse=True)
def alive_and_as_before(running):
    running.get("/page.mjs")  # what starts with the first request has started
    before = footprint(running)
    yield
    status, body = running.get("/hallolive/sessions")
    assert status == 200 and "sessions" in json.loads(body)

    def settled() -> bool:
        return all(now <= then for now, then in zip(footprint(running), before, strict=True))

    until(settled, lambda: (before, footprint(running)))


@odd
@given(methods, paths, st.one_of(st.just([here]), st.just([])), headers, bodies)
@example("POST", "/api/generate", AS_JSON, [], b"[" * 50_000)
@example("POST", "/api/generate", AS_JSON, [], b'{"seed": ' + b"9" * 5000 + b"}")
@example(
    "POST", "/api/generate", [here], [("Content-Type", "application/json; charset=none")], b"{}"
)
def test_no_request_makes_the_server_fail(running, method, path, start, extra, body):
    status = answer(running.port, request(method, path, [*start, *extra], body))
    assert status is None or status < 500, (status, method, path, extra, body[:100])


@odd
@given(st.lists(foreign, min_size=1, max_size=3), st.sampled_from(PATHS))
def test_no_name_of_a_server_or_page_makes_the_server_fail(running, names, path):
    status = answer(running.port, request("GET", path, names, b""))
    assert status is None or status < 500, (status, names)


@pytest.mark.parametrize("host", ["[", "[::1", "[::g]", "a]"])
def test_a_name_that_is_none_is_refused(host):
    assert why_refused(host, None, loopback=True)
    assert why_refused("localhost", f"http://{host}", loopback=True)


@odd
@given(bodies)
def test_any_body_is_taken_or_refused_in_words(running, body):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    kind = {"Content-Type": "application/json", "Host": "localhost"}
    try:
        connection.request("POST", "/api/generate", body, kind)
        reply = connection.getresponse()
        status, content = reply.status, reply.read()
    except ConnectionError:  # of a body beyond all bounds it need not read the rest
        assert len(body) > 64 * 2**10
        return
    finally:
        connection.close()
    assert status in (202, 400, 413), (status, body[:100])
    if status == 400:
        assert json.loads(content)["error"] and len(content) < 1000


def test_a_body_that_is_too_large_is_not_read_to_its_end(running):
    claim = [*AS_JSON, ("Content-Length", str(10**12))]
    raw = request("POST", "/api/generate", claim, b"x" * 300_000)
    assert answer(running.port, raw) in (None, 413)


def test_a_clip_can_still_be_asked_for(running):
    body = json.dumps({"prompt": PROMPT, "seconds": 1}).encode()
    assert answer(running.port, request("POST", "/api/generate", AS_JSON, body)) == 202
