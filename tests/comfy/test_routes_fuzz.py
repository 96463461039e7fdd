"""Our routes in the real ComfyUI: whatever comes, no fault, no leak, and the host works on.

The names of servers and pages (Host, Origin) are the host's to check, and stay as they should be.
"""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..raw_http import answer, bodies, headers, ids, methods, odd, queries, request, until
from .footprint import nothing_stays, resident_bytes
from .graphs import SAMPLER, tiny, with_inputs

MAX_READERS = 64
"""Viewers of one stream that are served at a time."""

MEGABYTE = 2**20
SECONDS = 4
paths = st.one_of(
    st.sampled_from(["/hallolive", "/hallolive/", "/hallolive/sessions", "/hallolive/stream/"]),
    st.builds(
        "/hallolive/sessions/{}{}".format, ids, st.sampled_from(["", "/finish", "/cancel", "/say"])
    ),
    st.builds("/hallolive/stream/{}{}".format, ids, queries),
    st.builds("/api/hallolive/stream/{}{}".format, ids, queries),
)
switches = st.builds(
    "/hallolive/sessions/{{}}/{}".format, st.sampled_from(["finish", "cancel", "say"])
)


@pytest.fixture(scope="module")
def session_id(server) -> str:
    """A stream that exists, and has ended."""
    server.run(with_inputs(tiny("Streaming avatar"), SAMPLER, seed=900))
    return server.get("/hallolive/sessions")["sessions"][-1]["id"]


def test_no_request_makes_the_host_fail(server, session_id):
    @odd
    @given(methods, paths, headers, bodies)
    def ask(method, path, extra, body):
        raw = request(method, path, [("Host", f"127.0.0.1:{server.port}"), *extra], body)
        status = answer(server.port, raw)
        assert status is None or status < 500, (status, method, path, extra, body[:100])

    with nothing_stays(server):
        ask()


def test_no_body_makes_a_switch_of_a_real_stream_fail(server, session_id):
    @odd
    @given(methods, switches, headers, bodies)
    def ask(method, path, extra, body):
        place = path.format(session_id)
        raw = request(method, place, [("Host", f"127.0.0.1:{server.port}"), *extra], body)
        status = answer(server.port, raw)
        assert status is None or status < 500, (status, method, extra, body[:100])

    with nothing_stays(server):
        ask()
    (status,) = (s for s in server.get("/hallolive/sessions")["sessions"] if s["id"] == session_id)
    assert status["state"] == "finished"  # what has ended is not stopped afterwards


def test_a_crowd_that_reads_nothing_costs_little_and_ends_with_its_sockets(server, streaming):
    server.run(with_inputs(streaming, SAMPLER, seed=901))  # all threads of a run exist by now
    graph = with_inputs(streaming, SAMPLER, seed=902, seconds=SECONDS)
    with nothing_stays(server), contextlib.ExitStack() as crowd:
        memory = resident_bytes(server)
        prompt_id = server.queue(graph)
        running = []

        def stream_is_there() -> bool:
            sessions = server.get("/hallolive/sessions")["sessions"]
            running[:] = [s for s in sessions if s["tags"]["prompt_id"] == prompt_id]
            return bool(running)

        until(stream_is_there, server.tail)
        path = f"/hallolive/stream/{running[0]['id']}?from=start"
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
        for _ in range(2 * MAX_READERS):
            viewer = crowd.enter_context(socket.socket())
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            viewer.connect(("127.0.0.1", server.port))
            viewer.sendall(head)
        assert server.wait(prompt_id)["status"]["status_str"] == "success"
        (status,) = (
            s for s in server.get("/hallolive/sessions")["sessions"] if s["id"] == running[0]["id"]
        )
        assert status["readers"] <= MAX_READERS
        assert resident_bytes(server) - memory < 200 * MEGABYTE


def test_a_client_that_sends_its_words_one_by_one_holds_nobody_up(server):
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /hallolive/sessions/" + b"0" * 32 + b"/cancel HTTP/1.1\r\nHost: x")
        started = time.monotonic()
        for _ in range(20):
            url = f"http://127.0.0.1:{server.port}/hallolive/sessions"
            with urllib.request.urlopen(url, timeout=10) as reply:
                assert reply.status == 200
            slow.sendall(b"x")
        assert time.monotonic() - started < 10
