"""Threads that stay: one for all jobs, gone with their owner."""

import contextvars
import gc
import threading
import weakref

import pytest

from hallo_live_core.decoding.worker import BackgroundWorker
from hallo_live_core.threads import StandingThread

NAME = "hallo-live-test"
where = contextvars.ContextVar("where", default="nowhere")


@pytest.fixture
def thread():
    thread = StandingThread(NAME)
    yield thread
    thread.end()


def named(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == name]


def test_every_job_is_done_by_the_same_thread_in_order(thread):
    done = []
    jobs = [thread.begin(lambda n=n: done.append((n, threading.get_ident()))) for n in range(5)]
    for job in jobs:
        job.result()
    assert [n for n, _ in done] == list(range(5))
    assert len({ident for _, ident in done}) == 1
    assert done[0][1] != threading.get_ident()


def test_it_says_whether_it_works(thread):
    gate = threading.Event()
    assert thread.is_idle
    job = thread.begin(lambda: (named(NAME), gate.wait(5)))
    assert not thread.is_idle
    gate.set()
    working, _ = job.result()
    assert len(working) == 1 and thread.is_idle
    assert not named(NAME) and named(f"idle {NAME}")


def test_an_error_reaches_who_asks_and_the_next_job_is_done(thread):
    def fail():
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        thread.begin(fail).result()
    assert thread.begin(lambda: 7).result() == 7


def test_a_job_sees_the_callers_context(thread):
    where.set("here")
    assert thread.begin(where.get).result() == "here"


def test_what_a_job_worked_on_is_let_go():
    class Large:
        pass

    thread, large = StandingThread(NAME), Large()
    gone = weakref.ref(large)
    thread.begin(lambda kept=large: None).result()
    del large
    thread.begin(int).result()
    gc.collect()
    assert gone() is None
    thread.end()


def test_it_ends_with_its_owner():
    thread = StandingThread(NAME)
    thread.begin(int).result()
    (running,) = named(f"idle {NAME}")
    del thread
    gc.collect()
    running.join(5)
    assert not running.is_alive()


def test_workers_that_are_given_a_thread_leave_it_as_it_was(thread):
    seen = []
    for item in (1, 2):
        with BackgroundWorker(lambda x: [(x, threading.get_ident())], thread=thread) as worker:
            assert worker.offer(item)
            seen += [result for result in worker.finish() if result is not None]
        assert thread.is_idle
    assert [item for item, _ in seen] == [1, 2]
    assert seen[0][1] == seen[1][1]
