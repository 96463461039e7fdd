from __future__ import annotations

import json

import pytest

from hallo_live_core.errors import Cancelled, MediaError
from hallo_live_core.live.fmp4 import Segment
from hallo_live_core.live.pacing import Pace, has_expired
from hallo_live_core.live.sessions import Sessions, TooManySessionsError
from hallo_live_core.types import Progress


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock) -> Sessions:
    return Sessions(max_sessions=3, kept_seconds=60, clock=clock)


def test_a_session_tells_its_state_its_block_and_its_speed(sessions, clock):
    seen = []
    session = sessions.open(tags={"prompt_id": "p1"}, on_change=seen.append)
    assert session.status().state == "waiting"
    with session.running():
        clock.now += 2
        session.advance(Progress("denoise", 0, 5, 1, 50))
        session.advance(Progress("denoise", 0, 5, 2, 50))
        session.made(1 / 24)
        clock.now += 2
        session.made(2.0)
        session.advance(Progress("denoise", 1, 5, 3, 50))
        session.advance(Progress("decode", 0, 5, 4, 50))
        status = session.status()
    assert (status.state, status.block, status.num_blocks) == ("running", 2, 5)
    assert (status.first_after, status.seconds, status.speed) == (2.0, 2.0, 0.5)
    changes = [(s.state, s.block) for s in seen]
    expected = [("running", 0), ("running", 1), ("running", 1), ("running", 2), ("finished", 2)]
    assert changes == expected
    assert json.loads(json.dumps(status.as_json()))["tags"] == {"prompt_id": "p1"}


def test_seconds_behind_is_what_a_viewer_had_to_wait(clock):
    pace = Pace(started=0.0)
    assert pace.seconds_behind(50) == 0 and pace.speed == 0 and pace.first_after is None
    pace = pace.after(1.0, now=10)
    assert pace.seconds_behind(10.5) == 0
    assert pace.seconds_behind(13) == 2
    assert pace.after(4.0, now=13).seconds_behind(13) == 0
    assert pace.after(4.0, now=16).speed == 0.25


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (None, "finished", None),
        (Cancelled(), "stopped", None),
        (KeyboardInterrupt(), "stopped", None),
        (GeneratorExit(), "stopped", None),
        (MediaError("No room", fix="make some"), "failed", "No room. Fix: make some."),
        (ValueError("first line\nsecret line"), "failed", "ValueError: first line"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_however_a_run_ends_its_stream_ends_and_says_how(sessions, error, state, words):
    session = sessions.open()
    reader = session.broadcast.reader()

    def run():
        with session.running():
            session.broadcast.push(Segment("init", b"i"))
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    assert list(reader) == [b"i"]
    assert (session.status().state, session.status().error) == (state, words)
    assert session.has_ended


def test_a_hosts_own_interruption_counts_as_stopped(sessions):
    class HostStoppedError(Exception):
        pass

    session = sessions.open()
    with pytest.raises(HostStoppedError), session.running((HostStoppedError,)):
        raise HostStoppedError
    assert session.status().state == "stopped"


def test_the_switches_are_what_the_run_asks(sessions):
    session = sessions.open()
    assert not session.should_stop() and not session.should_finish()
    session.finish()
    assert session.should_finish() and not session.should_stop()
    session.cancel()
    assert session.should_stop()


def test_the_first_end_counts(sessions):
    session = sessions.open()
    session.end("failed", "muxer")
    with session.running():
        pass
    assert session.status().state == "failed"


@pytest.mark.parametrize(
    "wrong",
    ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "../" + "0" * 29, "0" * 32 + "\n", "0" * 32],
)
def test_an_unknown_or_malformed_id_is_nothing(sessions, wrong):
    sessions.open()
    assert sessions.get(wrong) is None


def test_a_session_is_found_by_its_id(sessions):
    session, other = sessions.open(), sessions.open()
    assert session.id != other.id
    assert sessions.get(session.id) is session
    assert [s.id for s in sessions.statuses()] == [session.id, other.id]


def test_the_oldest_ended_session_makes_room_and_running_ones_do_not(clock):
    forgotten = []
    sessions = Sessions(max_sessions=3, on_forget=forgotten.append, clock=clock)
    first, second, _ = sessions.open(), sessions.open(), sessions.open()
    with pytest.raises(TooManySessionsError, match="wait for one to end"):
        sessions.open()
    second.end("finished")
    first.end("finished")
    sessions.open()
    assert forgotten == [first]
    assert sessions.get(first.id) is None and sessions.get(second.id) is second


def test_a_session_is_forgotten_some_time_after_its_end(sessions, clock):
    ended, running = sessions.open(), sessions.open()
    ended.end("finished")
    clock.now += 59
    assert sessions.get(ended.id) is ended
    clock.now += 1
    assert sessions.get(ended.id) is None
    clock.now += 10_000
    assert sessions.get(running.id) is running
    assert [s.id for s in sessions.statuses()] == [running.id]
    assert not has_expired(None, 1e9)


def test_closing_stops_all_runs_and_frees_all_readers(clock):
    forgotten = []
    sessions = Sessions(on_forget=forgotten.append, clock=clock)
    session = sessions.open()
    reader = session.broadcast.reader()
    sessions.close()
    assert session.should_stop() and session.has_ended
    assert reader.read() is None
    assert forgotten == [session] and sessions.statuses() == []
