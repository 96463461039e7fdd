"""Telling a stream what to say next, over the live routes."""

from __future__ import annotations

import asyncio
import json

import pytest

from hallo_live_core.errors import PromptError
from hallo_live_core.live.lines import MAX_WAITING, Lines
from hallo_live_core.live.sessions import NotListeningError, Sessions

from .live_server import PROMPT, StagedEngine, begin, serving

TEA = "A woman says, <S>Tea?<E>"
JSON = {"Content-Type": "application/json"}


async def say(client, clip: str, text: str):
    return await client.post(f"/hallolive/sessions/{clip}/say", json={"text": text})


def test_what_is_said_reaches_the_run_at_the_next_block(tmp_path):
    async def scene():
        engine = StagedEngine()
        async with serving(engine, tmp_path) as client:
            clip = await begin(client)
            engine.allow(2)
            answer = await say(client, clip, "Tea?")
            assert answer.status == 200 and (await answer.json())["num_lines"] == 1
            engine.allow()
            while (await status_of(client, clip))["state"] != "finished":
                await asyncio.sleep(0.02)
            assert engine.said == [TEA]
            assert (await status_of(client, clip))["num_lines"] == 0
            assert (await say(client, clip, "Too late.")).status == 409

    asyncio.run(scene())


async def status_of(client, clip: str) -> dict:
    return await (await client.get(f"/hallolive/sessions/{clip}")).json()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 20_000, 400, "not JSON"),
        (b"[]", 400, "the body must be"),
        (b"{}", 400, "the body must be"),
        (b'{"text": "a", "seed": 1}', 400, "the body must be"),
        (b'{"text": 5}', 400, "string"),
        (b'{"text": null}', 400, "string"),
        (json.dumps({"text": "x" * 4001}).encode(), 400, "4000"),
        (json.dumps({"text": "x" * 40_000}).encode(), 413, "bytes"),
        (b'{"text": "  "}', 400, "empty"),
        (b'{"text": "<S>open"}', 400, "<S>"),
        (b'{"text": "half \\ud800"}', 400, ""),
    ],
)
def test_what_cannot_be_said_is_refused_in_words(tmp_path, body, status, words):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            clip = await begin(client)
            answer = await client.post(f"/hallolive/sessions/{clip}/say", data=body, headers=JSON)
            assert answer.status == status
            assert words in (await answer.json())["error"]
            assert (await status_of(client, clip))["num_lines"] == 0

    asyncio.run(scene())


def test_the_route_is_guarded_as_the_other_switches(tmp_path):
    async def scene():
        async with serving(StagedEngine(), tmp_path) as client:
            clip = await begin(client)
            place = f"/hallolive/sessions/{clip}/say"
            assert (await client.post(place, data=b'{"text": "Hi"}')).status == 415
            assert (await client.get(place)).status == 405
            assert (await say(client, "0" * 32, "Hi")).status == 404
            foreign = JSON | {"Origin": "http://example.com"}
            assert (await client.post(place, data=b'{"text": "Hi"}', headers=foreign)).status == 403
            for _ in range(MAX_WAITING):
                assert (await say(client, clip, "Hi.")).status == 200
            assert (await say(client, clip, "Hi.")).status == 503

    asyncio.run(scene())


def test_a_session_that_nobody_listens_in_says_so():
    session = Sessions().open()
    assert session.status().num_lines is None
    with pytest.raises(NotListeningError, match="connect a CLIP"):
        session.say("Hi.")
    session.lines = Lines(PROMPT)
    with pytest.raises(PromptError):
        session.say("<S>open")
    session.say("Tea?")
    assert session.status().num_lines == 1 and session.lines(1) == TEA
    session.end("finished")
    with pytest.raises(NotListeningError, match="has ended"):
        session.say("Hi.")
