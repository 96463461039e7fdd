import contextvars
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from hallo_live_core.decoding.worker import BackgroundWorker

where = contextvars.ContextVar("where", default="nowhere")


def twice(item: int):
    yield item
    yield item * 10


def results(worker) -> list:
    return [r for r in worker.finish() if r is not None]


def hallo_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("hallo-live")]


def test_results_come_in_the_order_of_the_items():
    with BackgroundWorker(twice) as worker:
        for item in (1, 2, 3):
            assert worker.offer(item)
        assert results(worker) == [1, 10, 2, 20, 3, 30]
    assert not hallo_threads()


def test_a_result_is_ready_while_the_owner_still_works():
    release = threading.Event()

    def slow(item):
        yield item
        release.wait(5)
        yield -item

    with BackgroundWorker(slow) as worker:
        assert worker.offer(7)
        deadline = time.monotonic() + 5
        early = []
        while not early and time.monotonic() < deadline:
            early = list(worker.ready())
        assert early == [7]
        release.set()
        assert results(worker) == [-7]


def test_no_more_is_taken_when_the_thread_is_behind():
    gate, started = threading.Event(), []

    def gated(item):
        started.append(item)
        gate.wait(5)
        return [item]

    with BackgroundWorker(gated, max_waiting=1) as worker:
        assert worker.offer(0)
        while not started:
            time.sleep(0.01)
        assert worker.offer(1)
        assert not worker.offer(2)
        gate.set()
        assert worker.offer(2)
        assert results(worker) == [0, 1, 2]


def test_an_exception_in_the_thread_reaches_the_owner_and_nothing_is_left_running():
    def failing(item):
        yield item
        raise MemoryError("out of decoder memory")

    with BackgroundWorker(failing) as worker:
        assert worker.offer(1)
        finishing = worker.finish()
        assert next(r for r in finishing if r is not None) == 1
        with pytest.raises(MemoryError, match="decoder"):
            list(finishing)
        assert not worker.offer(2)
    assert not hallo_threads()


def test_leaving_early_stops_after_the_result_in_hand():
    made = []

    def endless(item):
        while True:
            made.append(item)
            yield item
            time.sleep(0.01)

    with BackgroundWorker(endless) as worker:
        assert worker.offer(1)
        while not made:
            time.sleep(0.01)
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count
    assert not hallo_threads()


LEFT_OPEN = """
import torch
from hallo_live_core.decoding.worker import BackgroundWorker

def endless(item):
    while True:
        yield torch.randn(300, 300) @ torch.randn(300, 300)

worker = BackgroundWorker(endless).__enter__()
worker.offer(1)
while not list(worker.ready()):
    pass
print("left open")
"""


def test_a_program_that_leaves_a_worker_open_still_ends_well():
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "left open\n", "")


def test_the_thread_inherits_inference_mode_and_context():
    seen = []

    def look(item):
        seen.append((torch.is_inference_mode_enabled(), where.get()))
        return [item]

    where.set("here")
    with torch.inference_mode(), BackgroundWorker(look) as worker:
        assert worker.offer(1)
        results(worker)
    assert seen == [(True, "here")]
