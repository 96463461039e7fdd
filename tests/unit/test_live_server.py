from __future__ import annotations

import asyncio
import itertools
import threading
import time

import av
import pytest
from aiohttp import ClientPayloadError

from hallo_live_core.live.broadcast import MAX_READERS
from hallo_live_core.live.fmp4 import Segment
from hallo_live_core.serving import live_routes
from hallo_live_core.serving.guard import is_loopback, why_refused

from .live_media import decode
from .live_server import PROMPT, StagedEngine, begin, serving


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path):
    before = set(threading.enumerate())
    yield
    left = [t.name for t in set(threading.enumerate()) - before if t.name.startswith("hallo")]
    assert not left
    assert not list(tmp_path.iterdir())


async def status_of(client, clip: str) -> dict:
    return await (await client.get(f"/hallolive/sessions/{clip}")).json()


async def until(condition, seconds: float = 20):
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not (result := await condition()):
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)
    return result


async def ended(client, clip: str) -> dict:
    async def look():
        status = await status_of(client, clip)
        return status if status["state"] in ("finished", "stopped", "failed") else None

    return await until(look)


async def watch(client, clip: str, query: str = "?from=start") -> bytes:
    async with client.get(f"/hallolive/stream/{clip}{query}") as answer:
        assert answer.status == 200
        return await answer.read()


def test_a_clip_is_watched_while_it_is_made_and_kept_afterwards(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client, seconds=3, seed=7)
            engine.allow(2)
            answer = await client.get(f"/hallolive/stream/{clip}")
            assert answer.headers["Content-Type"].startswith('video/mp4; codecs="avc1.')
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            begun = await answer.content.readany()
            status = await status_of(client, clip)
            assert (status["state"], status["block"], status["num_blocks"]) == ("running", 1, 3)
            assert (await client.get(f"/hallolive/sessions/{clip}/file")).status == 404
            engine.allow()
            frames, _ = decode(begun + await answer.read())
            assert len(frames) == 69
            assert (await ended(client, clip))["state"] == "finished"
            file = await client.get(f"/hallolive/sessions/{clip}/file")
            assert len(decode(await file.read())[0]) == 69
            assert engine.requests[0].seed == 7 and engine.requests[0].prompt == PROMPT

    asyncio.run(scene())


def test_finish_ends_the_clip_after_the_block_and_cancel_at_once(tmp_path):
    async def scene():
        engine = StagedEngine(blocks=10)
        async with serving(engine, tmp_path) as client:
            for action, state in (("finish", "finished"), ("cancel", "stopped")):
                engine.allow(8)
                clip = await begin(client)
                await until(lambda clip=clip: seconds_made(client, clip, 29 / 24))
                answer = await client.post(f"/hallolive/sessions/{clip}/{action}", json={})
                assert answer.status == 200
                if action == "finish":
                    engine.allow()
                assert (await ended(client, clip))["state"] == state
                frames, _ = decode(await watch(client, clip))
                assert len(frames) == (45 if action == "finish" else 29)

    asyncio.run(scene())


async def seconds_made(client, clip: str, seconds: float) -> bool:
    return (await status_of(client, clip))["seconds"] >= round(seconds, 3)


def test_fifty_viewers_at_once_get_the_same_stream(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            viewers = [asyncio.create_task(watch(client, clip)) for _ in range(50)]
            await until(lambda: readers(client, clip, 50))
            engine.allow()
            streams = await asyncio.gather(*viewers)
            assert len(set(streams)) == 1
            assert len(decode(streams[0])[0]) == 69
            await until(lambda: readers(client, clip, 0))

    asyncio.run(scene())


async def readers(client, clip: str, count: int) -> bool:
    return (await status_of(client, clip))["readers"] == count


def test_a_late_viewer_begins_at_the_newest_key_frame_or_at_the_start(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            engine.allow(14)
            await until(lambda: seconds_made(client, clip, 53 / 24))
            late = asyncio.create_task(watch(client, clip, ""))
            whole = asyncio.create_task(watch(client, clip))
            await until(lambda: readers(client, clip, 2))
            engine.allow()
            frames, _ = decode(await late)
            assert frames[0][0] == pytest.approx(45 / 24)
            assert len(decode(await whole)[0]) == 69

    asyncio.run(scene())


def test_a_viewer_who_leaves_or_never_reads_does_not_hold_up_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(live_routes, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(live_routes, "LOOK_UP_SECONDS", 0.05)

    async def scene():
        engine = StagedEngine(blocks=2)
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            stalled = await asyncio.open_connection("127.0.0.1", client.port)
            request = f"GET /hallolive/stream/{clip} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            stalled[1].write(request.encode())
            gone = await asyncio.open_connection("127.0.0.1", client.port)
            gone[1].write(request.encode())
            await until(lambda: readers(client, clip, 2))
            gone[1].close()
            await until(lambda: readers(client, clip, 1))
            session = client.studio.sessions.get(clip)
            flood = b"\0" * 2**20
            session.broadcast.push(Segment("init", flood))
            for _ in range(30):
                session.broadcast.push(Segment("key", flood))
            await until(lambda: readers(client, clip, 0))
            engine.allow()
            assert (await ended(client, clip))["state"] == "finished"
            stalled[1].close()

    asyncio.run(scene())


def test_an_error_of_the_model_reaches_the_viewer_and_the_next_clip_is_made(tmp_path):
    async def scene():
        engine = StagedEngine(fails_at=3)
        engine.allow()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            status = await ended(client, clip)
            assert status["state"] == "failed"
            assert status["error"] == "MemoryError: no room for pictures"
            assert len(decode(await watch(client, clip))[0]) == 9
            engine.fails_at = 0
            broken = await begin(client)
            await ended(client, broken)
            answer = await client.get(f"/hallolive/stream/{broken}")
            assert answer.status == 410 and "no room" in (await answer.json())["error"]
            engine.fails_at = None
            good = await begin(client)
            assert (await ended(client, good))["state"] == "finished"

    asyncio.run(scene())


def test_a_waiting_clip_can_be_cancelled_and_the_queue_is_bounded(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path, max_waiting=2) as client:
            first = await begin(client)
            await until(lambda: is_in(client, first, "running"))
            second, third = await begin(client), await begin(client)
            full = await client.post("/api/generate", json={"prompt": PROMPT})
            assert full.status == 503
            assert "Too many clips are waiting" in (await full.json())["error"]
            await client.post(f"/hallolive/sessions/{second}/cancel", json={})
            engine.allow()
            assert (await ended(client, second))["state"] == "stopped"
            assert (await ended(client, third))["state"] == "finished"
            assert len(engine.requests) == 2

    asyncio.run(scene())


async def is_in(client, clip: str, state: str) -> bool:
    return (await status_of(client, clip))["state"] == state


def test_old_clips_make_room_and_expired_ones_go(tmp_path):
    async def scene():
        engine = StagedEngine(blocks=1)
        engine.allow()
        async with serving(engine, tmp_path, max_sessions=2, kept_seconds=1.5) as client:
            clips = []
            for _ in range(3):
                clips.append(await begin(client))
                await ended(client, clips[-1])
            assert (await client.get(f"/hallolive/sessions/{clips[0]}")).status == 404
            assert len(list(tmp_path.iterdir())) == 2
            await asyncio.sleep(1.6)
            assert (await (await client.get("/hallolive/sessions")).json()) == {"sessions": []}
            assert not list(tmp_path.iterdir())

    asyncio.run(scene())


def test_a_server_that_stops_ends_its_runs_and_its_streams(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            engine.allow(3)
            answer = await client.get(f"/hallolive/stream/{clip}?from=start")
            await answer.content.readany()
            closing = time.monotonic()
            await asyncio.to_thread(client.studio.close)
            assert time.monotonic() - closing < 5
            try:
                await asyncio.wait_for(answer.read(), 5)
            except ClientPayloadError:
                pytest.fail("the stream was torn, not ended")

    asyncio.run(scene())


@pytest.mark.parametrize("wrong", ["0" * 32, "0" * 31, "A" * 32, "..%2f" + "0" * 29, "x.mp4"])
def test_an_unknown_or_malformed_id_is_404_everywhere(tmp_path, wrong):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            for path in ("stream/{}", "sessions/{}", "sessions/{}/file"):
                answer = await client.get("/hallolive/" + path.format(wrong))
                assert answer.status == 404
                assert wrong not in await answer.text()
            for action in ("finish", "cancel"):
                answer = await client.post(f"/hallolive/sessions/{wrong}/{action}", json={})
                assert answer.status == 404

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"prompt": 5}', "prompt must be str"),
        (b'{"prompt": "x", "seed": true}', "seed must be int"),
        (b'{"prompt": "x", "seed": 1.5}', "seed must be int"),
        (b'{"prompt": "x", "path": "/etc"}', "Unknown field"),
        (b'{"prompt": "x", "height": 4096}', "at most 2048"),
        (b'{"prompt": "x", "height": 33}', "multiple of 32"),
        (b'{"prompt": "x", "seconds": 40}', "at most 34"),
        (b'{"prompt": "x", "seconds": NaN}', "length above zero"),
        (b'{"prompt": "  "}', "empty"),
        (b'{"prompt": "<S>open"}', "<S>"),
        (b'{"prompt": "' + b"x" * 5000 + b'"}', "at most 4000 characters"),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(tmp_path, body, words):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            headers = {"Content-Type": "application/json"}
            answer = await client.post("/api/generate", data=body, headers=headers)
            assert answer.status == 400
            assert words in (await answer.json())["error"]
            assert (await (await client.get("/hallolive/sessions")).json()) == {"sessions": []}

    asyncio.run(scene())


def test_large_bodies_and_other_content_types_are_refused(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            large = await client.post("/api/generate", json={"prompt": "x" * 100_000})
            assert large.status == 413
            form = await client.post("/api/generate", data={"prompt": PROMPT})
            assert form.status == 415
            clip = await begin(client)
            plain = await client.post(f"/hallolive/sessions/{clip}/cancel", data="{}")
            assert plain.status == 415
            for action in ("finish", "cancel"):
                got = await client.get(f"/hallolive/sessions/{clip}/{action}")
                assert got.status == 405
            session = client.studio.sessions.get(clip)
            assert not session.should_stop() and not session.should_finish()

    asyncio.run(scene())


def test_pages_of_other_origins_and_foreign_names_are_refused(tmp_path):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            own = f"http://127.0.0.1:{client.port}"
            for headers, status in (
                ({}, 200),
                ({"Origin": own}, 200),
                ({"Origin": "http://evil.example"}, 403),
                ({"Origin": "null"}, 403),
                ({"Host": "evil.example"}, 403),
                ({"Host": f"localhost:{client.port}"}, 200),
            ):
                answer = await client.get("/hallolive/sessions", headers=headers)
                assert answer.status == status, headers
            evil = {"Origin": "http://evil.example"}
            answer = await client.post("/api/generate", json={"prompt": PROMPT}, headers=evil)
            assert answer.status == 403

    asyncio.run(scene())


def test_only_loopback_names_mean_this_machine():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.3.2.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "example.org", "10.0.0.1", "")))
    assert why_refused("gpu.lan:8190", None, loopback=False) is None
    assert why_refused("gpu.lan:8190", "http://gpu.lan:8190", loopback=False) is None
    assert why_refused("gpu.lan:8190", "http://evil.example", loopback=False)
    assert why_refused(None, None, loopback=True)


def test_the_page_and_its_parts_are_served_with_a_strict_policy_and_nothing_else(tmp_path):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            parts = ("/", "/page.mjs", "/page.css", "/player/player.mjs", "/player/feed.mjs")
            for path in (*parts, "/player/player.css"):
                answer = await client.get(path)
                assert answer.status == 200, path
                assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "javascript" in (await client.get("/page.mjs")).headers["Content-Type"]
            for path in ("/app.py", "/player/", "/player/..%2f..%2fpyproject.toml", "/page/"):
                assert (await client.get(path)).status == 404
            settings = await (await client.get("/api/settings")).json()
            assert (settings["height"], settings["width"], settings["seconds"]) == (512, 992, 5.0)

    asyncio.run(scene())


def test_more_viewers_than_there_may_be_are_told_so(tmp_path):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            clip = await begin(client)
            broadcast = client.studio.sessions.get(clip).broadcast
            others = [broadcast.reader() for _ in range(MAX_READERS)]
            answer = await client.get(f"/hallolive/stream/{clip}")
            assert answer.status == 503
            assert len(others) == MAX_READERS

    asyncio.run(scene())


def test_other_programs_open_the_address_while_the_clip_is_made(tmp_path):
    def first_frames(address: str, count: int) -> list[float]:
        with av.open(address) as container:
            return [f.time for f in itertools.islice(container.decode(video=0), count)]

    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            engine.allow(14)
            address = f"http://127.0.0.1:{client.port}/hallolive/stream/{clip}?from=start"
            times = await asyncio.wait_for(asyncio.to_thread(first_frames, address, 24), 20)
            assert times == pytest.approx([i / 24 for i in range(24)])
            assert await is_in(client, clip, "running")
            engine.allow()

    asyncio.run(scene())
