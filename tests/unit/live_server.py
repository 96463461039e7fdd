"""A server around an engine that does what a test wants."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

from aiohttp.test_utils import TestClient, TestServer

from hallo_live_core.clock import MediaClock
from hallo_live_core.errors import Cancelled
from hallo_live_core.functional.request import check_request
from hallo_live_core.serving.app import build_app
from hallo_live_core.serving.studio import Studio
from hallo_live_core.types import MediaChunk, Progress

from .live_media import noise_clip

PROMPT = "A woman says, <S>Hello.<E>"


class StagedEngine:
    """Hands out a clip of noise; `allow` says how many chunks may come so far."""

    def __init__(self, blocks: int = 3, fails_at: int | None = None):
        self.clock = MediaClock()
        self.chunks = noise_clip(blocks)
        self.fails_at = fails_at
        self.requests = []
        self.said = []
        self._allowed = 0
        self._changed = threading.Condition()

    def check(self, request):
        return check_request(request)

    def allow(self, chunks: int = 10**9) -> None:
        with self._changed:
            self._allowed = chunks
            self._changed.notify_all()

    def clock_for(self, request):
        return self.clock

    def stream(
        self, request, *, on_progress, should_stop, should_finish, next_said
    ) -> Iterator[MediaChunk]:
        self.requests.append(request)
        blocks = self.chunks[-1].block + 1
        for index, chunk in enumerate(self.chunks):
            is_new = index and chunk.block != self.chunks[index - 1].block
            if is_new and should_finish():
                return
            if is_new and (said := next_said(chunk.block)) is not None:
                self.said.append(said)
            on_progress(Progress("denoise", chunk.block, blocks, index, len(self.chunks)))
            while not self._may(index):
                if should_stop():
                    raise Cancelled
            if index == self.fails_at:
                raise MemoryError("no room for pictures")
            yield chunk

    def _may(self, index: int) -> bool:
        with self._changed:
            return self._allowed > index or self._changed.wait_for(
                lambda: self._allowed > index, timeout=0.02
            )


@contextlib.asynccontextmanager
async def serving(engine, folder, *, loopback: bool = True, **limits) -> AsyncIterator[TestClient]:
    """A client of a running server; everything is stopped at the end."""
    with Studio(engine, folder, **limits) as studio:
        app = build_app(studio, loopback=loopback)
        async with TestClient(TestServer(app)) as client:
            client.studio = studio
            yield client


async def begin(client: TestClient, **fields) -> str:
    """Ask for a clip; returns its id."""
    answer = await client.post("/api/generate", json={"prompt": PROMPT, **fields})
    assert answer.status == 202, await answer.text()
    return (await answer.json())["id"]
