"""Two hundred clips in the real ComfyUI, interrupted at random: none is lost, nothing stays.

Prints what it measured: run it with `-s` to see the numbers.
"""

import random
import time

import pytest

from .footprint import nothing_stays, resident_bytes
from .graphs import SAMPLER, with_inputs

pytestmark = pytest.mark.slow

CLIPS = 200
WARM_UP = 30
"""Clips until caches of the host and of the allocator have their size."""

SECONDS = 1
LONGEST_PAUSE = 1.5
"""Seconds between two looks at the queue."""

STOPPED = 0.3
"""Of the looks at the queue those that interrupt what runs."""

STUCK_SECONDS = 120
"""After which a clip of one second hangs, on however busy a machine."""

MEGABYTE = 2**20
MAX_GROWTH = 60 * MEGABYTE
"""Of memory over all clips; what would hold one clip in a hundred would cost more."""


def clip(graph: dict, number: int) -> dict:
    return with_inputs(graph, SAMPLER, seed=50_000 + number, seconds=SECONDS)


def outcome(entry: dict) -> str:
    messages = dict(entry["status"]["messages"])
    if entry["status"]["status_str"] == "success":
        return "success"
    return "interrupted" if "execution_interrupted" in messages else str(entry["status"])


def test_two_hundred_clips_leave_nothing_behind_and_none_is_lost(server, streaming):
    chance = random.Random(0)
    for number in range(WARM_UP):
        server.run(clip(streaming, -number - 1))
    memory, started = resident_bytes(server), time.monotonic()
    with nothing_stays(server):
        waiting = [server.queue(clip(streaming, number)) for number in range(CLIPS)]
        ends: dict[str, str] = {}
        interruptions, running, since = 0, None, started
        while len(ends) < CLIPS:
            time.sleep(chance.uniform(0, LONGEST_PAUSE))
            before, running = running, running_prompt(server)
            if running != before:
                since = time.monotonic()
            assert time.monotonic() - since < STUCK_SECONDS, (running, server.tail())
            if running and chance.random() < STOPPED:
                interrupt(server, chance, running)
                interruptions += 1
            history = server.get("/history")
            ends |= {name: outcome(history[name]) for name in waiting if name in history}
    assert set(ends.values()) == {"success", "interrupted"}, set(ends.values())
    assert list(ends.values()).count("interrupted") <= interruptions
    growth = resident_bytes(server) - memory
    kept = server.base / "temp"
    assert not list(kept.glob("*.partial*"))
    stopped = list(ends.values()).count("interrupted")
    print(  # noqa: T201 - the numbers of a soak are its result
        f"\n{CLIPS} clips, {stopped} interrupted, {time.monotonic() - started:.0f} s, "
        f"memory {memory / MEGABYTE:.0f} MB {growth / MEGABYTE:+.1f} MB"
    )
    assert growth < MAX_GROWTH
    server.run(clip(streaming, CLIPS))  # and the host works on


def running_prompt(server) -> str | None:
    running = server.get("/queue")["queue_running"]
    return running[0][1] if running else None


def interrupt(server, chance: random.Random, prompt_id: str) -> None:
    """Stop what runs: by the host's button, by its id, or by a viewer."""
    way = chance.choice(["button", "id", "viewer"])
    if way == "button":
        server.post("/interrupt", {})
    elif way == "id":
        server.post("/interrupt", {"prompt_id": prompt_id})
    else:
        for session in server.get("/hallolive/sessions")["sessions"]:
            if session["state"] == "running":
                server.post(f"/hallolive/sessions/{session['id']}/cancel", {})
