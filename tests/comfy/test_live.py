"""Streams of the real ComfyUI, with tiny models: seen while they are made, and every fault."""

import asyncio
import contextlib
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import av
import pytest

from .graphs import (
    FRAMES,
    ROOT,
    SAMPLE_RATE,
    SAMPLER,
    SECONDS,
    TEXT,
    picture_and_sound,
    with_inputs,
)

LONG = 30
"""Seconds of a clip that is certainly still being made when a test does something to it."""

WAIT_SECONDS = 60
UNKNOWN_IDS = ["0" * 32, "x", "..%2F..%2Fetc%2Fpasswd", "A" * 32, "0" * 33]


class Viewer(threading.Thread):
    """Reads a stream to its end, as a player would."""

    def __init__(self, server, session_id: str, query: str = "?from=start") -> None:
        super().__init__(daemon=True)
        self.server, self.path = server, f"/hallolive/stream/{session_id}{query}"
        self.data, self.first_at, self.headers = b"", None, {}
        self.start()

    def run(self) -> None:
        with open_url(self.server, self.path) as answer:
            self.headers = dict(answer.headers)
            while part := answer.read1():
                self.first_at = self.first_at or time.monotonic()
                self.data += part

    def file(self, folder):
        """What was seen, when the stream has ended."""
        self.join(WAIT_SECONDS)
        assert not self.is_alive(), "the stream did not end"
        path = folder / f"{uuid.uuid4().hex}.mp4"
        path.write_bytes(self.data)
        return path


class Client:
    """`tools/comfy_client.py` in a process of its own."""

    def __init__(self, server, graph: dict, folder: Path) -> None:
        workflow, self.clip, self.log = (
            folder / name for name in ("graph.json", "clip.mp4", "client.log")
        )
        workflow.write_text(json.dumps(graph), encoding="utf-8")
        address = f"http://127.0.0.1:{server.port}"
        command = [sys.executable, str(ROOT / "tools" / "comfy_client.py"), str(workflow)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "-o", str(self.clip), "--server", address], stderr=log
            )

    def prompt_id(self) -> str:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := re.match(r"queued as (\S+)\n", self.log.read_text()):
                return found[1]
            time.sleep(0.05)
        pytest.fail(self.log.read_text())

    def wait_for_picture(self) -> None:
        """Until a whole fragment is in the file: the next one has begun."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (self.clip.exists() and self.clip.read_bytes().count(b"moof") > 1):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def open_url(server, path: str, **options):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", **options)
    return urllib.request.urlopen(request, timeout=WAIT_SECONDS)


def refusal(server, path: str, **options) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        open_url(server, path, **options)
    with refused.value as answer:
        return answer.code, answer.read().decode()


def sessions_of(server, prompt_id: str) -> list[dict]:
    sessions = server.get("/hallolive/sessions")["sessions"]
    return [status for status in sessions if status["tags"]["prompt_id"] == prompt_id]


def session_of(server, prompt_id: str, wanted=lambda status: True) -> dict:
    """The stream of a prompt, once it is there and as wanted."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for status in sessions_of(server, prompt_id):
            if wanted(status):
                return status
        time.sleep(0.02)
    pytest.fail(f"no such stream: {sessions_of(server, prompt_id)}\n{server.tail()}")


def has_picture(status: dict) -> bool:
    return status["seconds"] > 0


def has_two_blocks(status: dict) -> bool:
    return status["seconds"] > 1


def turn(server, session_id: str, switch: str) -> dict:
    return server.post(f"/hallolive/sessions/{session_id}/{switch}", {})


def interrupted(entry: dict) -> bool:
    return "execution_interrupted" in dict(entry["status"]["messages"])


def test_a_prompt_id_leads_to_a_stream_that_plays_while_the_clip_is_made(
    server, streaming, tmp_path
):
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=101, seconds=4))
    status = session_of(server, prompt_id)
    viewer = Viewer(server, status["id"])
    session_of(server, prompt_id, has_picture)
    entry = server.wait(prompt_id)
    done_at = time.monotonic()
    assert viewer.first_at < done_at - 0.2
    frames, samples, _ = picture_and_sound(viewer.file(tmp_path))
    assert frames == 4 * 24 - 3
    assert abs(samples - frames * SAMPLE_RATE / 24) <= 2048
    assert viewer.headers["Content-Type"].startswith('video/mp4; codecs="avc1.')
    assert viewer.headers["X-Content-Type-Options"] == "nosniff"
    (ended,) = sessions_of(server, prompt_id)
    assert (ended["state"], ended["block"], ended["num_blocks"]) == ("finished", 4, 4)
    assert ended["tags"]["node"] == SAMPLER
    clip = entry["outputs"][SAMPLER]["video"][0]
    assert clip["filename"] == ended["tags"]["file"]
    assert picture_and_sound(server.file(clip))[0] == frames


def test_a_late_viewer_starts_at_the_newest_key_frame(server, streaming, tmp_path):
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=102, seconds=6))
    status = session_of(server, prompt_id, has_two_blocks)
    viewer = Viewer(server, status["id"], query="")
    with av.open(str(viewer.file(tmp_path))) as clip:
        frame = next(clip.decode(video=0))
        assert frame.key_frame and frame.time >= 0.8
    server.wait(prompt_id)


def test_after_the_end_the_stream_can_still_be_seen_whole(server, streaming, tmp_path):
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=103))
    server.wait(prompt_id)
    (status,) = sessions_of(server, prompt_id)
    assert picture_and_sound(Viewer(server, status["id"]).file(tmp_path))[0] == FRAMES


def test_viewers_that_leave_or_take_nothing_do_not_hold_up_the_run(server, streaming):
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=104, seconds=5))
    status = session_of(server, prompt_id)
    request = f"GET /hallolive/stream/{status['id']} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for takes_nothing in (True, True, False):
            viewer = stack.enter_context(socket.socket())
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            viewer.connect(("127.0.0.1", server.port))
            viewer.sendall(request)
            if not takes_nothing:
                viewer.recv(100)
                viewer.close()
        assert server.wait(prompt_id)["status"]["status_str"] == "success"
    session_of(server, prompt_id, lambda status: status["readers"] == 0)


def test_two_prompts_in_a_row_have_two_streams(server, streaming, tmp_path):
    prompts = [
        server.queue(with_inputs(streaming, SAMPLER, seed=seed, seconds=2)) for seed in (105, 106)
    ]
    viewers = [Viewer(server, session_of(server, prompt)["id"]) for prompt in prompts]
    for viewer in viewers:
        assert picture_and_sound(viewer.file(tmp_path))[0] == FRAMES
    assert viewers[0].data != viewers[1].data
    for prompt in prompts:
        server.wait(prompt)


def test_finish_ends_the_clip_after_the_block_and_keeps_what_exists(server, streaming, tmp_path):
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=107, seconds=LONG))
    status = session_of(server, prompt_id, has_picture)
    viewer = Viewer(server, status["id"])
    turn(server, status["id"], "finish")
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success"
    frames, samples, _ = picture_and_sound(server.file(entry["outputs"][SAMPLER]["video"][0]))
    assert frames % 24 == 24 - 3 and frames < LONG * 24 // 2
    assert samples == round(frames * SAMPLE_RATE / 24)
    assert picture_and_sound(viewer.file(tmp_path))[0] == frames
    assert picture_and_sound(server.file(entry["outputs"]["6"]["images"][0]))[0] == frames
    (ended,) = sessions_of(server, prompt_id)
    assert ended["state"] == "finished"


@pytest.mark.parametrize("by", ["the host's button", "a viewer"])
def test_an_interrupt_ends_the_stream_and_leaves_a_clip(server, streaming, tmp_path, by):
    seed = 108 if by == "a viewer" else 109
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=seed, seconds=LONG))
    status = session_of(server, prompt_id, has_picture)
    viewer = Viewer(server, status["id"])
    if by == "a viewer":
        turn(server, status["id"], "cancel")
    else:
        server.post("/interrupt", {"prompt_id": prompt_id})
    assert interrupted(server.wait(prompt_id))
    ended = session_of(server, prompt_id, lambda status: status["state"] == "stopped")
    assert picture_and_sound(viewer.file(tmp_path))[0] >= 1
    frames, samples, _ = picture_and_sound(server.base / "temp" / ended["tags"]["file"])
    assert 1 <= frames < LONG * 24 // 2
    assert samples == round(frames * SAMPLE_RATE / 24)


@pytest.mark.parametrize("unknown", UNKNOWN_IDS)
def test_unknown_ids_are_not_found_and_not_repeated(server, unknown):
    for path in (f"/hallolive/stream/{unknown}", f"/hallolive/sessions/{unknown}"):
        status, text = refusal(server, path)
        assert status == 404 and unknown not in text
    json_post = {"data": b"{}", "headers": {"Content-Type": "application/json"}}
    assert refusal(server, f"/hallolive/sessions/{unknown}/finish", **json_post)[0] == 404


def test_nothing_changes_on_get_nor_for_other_pages(server, streaming):
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=110))
    path = f"/hallolive/sessions/{session_of(server, prompt_id)['id']}/cancel"
    as_json = {"Content-Type": "application/json"}
    as_form = {"Content-Type": "text/plain"}
    foreign = as_json | {"Origin": "http://example.com"}
    assert refusal(server, path)[0] in {404, 405}
    assert refusal(server, path, data=b"{}", headers=as_form)[0] == 415
    assert refusal(server, path, data=b"{}", headers=foreign)[0] == 403
    assert server.wait(prompt_id)["status"]["status_str"] == "success"


def test_the_prompt_and_its_markup_stay_out_of_what_viewers_get(server, streaming):
    prompt = "<img src=x onerror=alert(1)> <S>Hello.<E> <AUDCAP>Quiet.<ENDAUDCAP>"
    graph = with_inputs(with_inputs(streaming, TEXT, raw_prompt=prompt), SAMPLER, seed=111)
    server.run(graph)
    with open_url(server, "/hallolive/sessions") as answer:
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "onerror" not in answer.read().decode()


@pytest.mark.parametrize(
    "workflow",
    ["a name", [1], {"id": ["x"]}, {"id": "x" * 100_000}],
    ids=lambda sent: str(sent)[:20],
)
def test_a_program_may_send_anything_as_its_workflow(server, streaming, workflow):
    seed = 5000 + len(str(workflow))
    prompt_id = server.queue(
        with_inputs(streaming, SAMPLER, seed=seed, seconds=1),
        extra_data={"extra_pnginfo": {"workflow": workflow}},
    )
    assert server.wait(prompt_id)["status"]["status_str"] == "success", server.tail()
    (status,) = sessions_of(server, prompt_id)
    assert status["tags"]["workflow"] == ""


def test_a_full_disk_fails_the_file_but_not_the_stream(server, streaming, tmp_path):
    """A limit on the size of files stands for the full disk."""
    limit = server.log.stat().st_size + 60_000  # the log itself must still fit
    old = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=112, seconds=12))
        viewer = Viewer(server, session_of(server, prompt_id)["id"])
        messages = dict(server.wait(prompt_id)["status"]["messages"])
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, old)
    error = messages["execution_error"]["exception_message"].splitlines()[0]
    assert "Cannot write" in error and "Fix:" in error
    assert picture_and_sound(viewer.file(tmp_path))[0] == 12 * 24 - 3
    (ended,) = sessions_of(server, prompt_id)
    assert ended["state"] == "failed" and "Cannot write" in ended["error"]
    server.run(with_inputs(streaming, SAMPLER, seed=113))  # and the next one is written


def test_pages_are_told_of_every_block_and_of_the_end(server, streaming):
    events = asyncio.run(stream_events(server, with_inputs(streaming, SAMPLER, seed=114)))
    states = [event["state"] for event in events]
    assert states[0] == "running" and states[-1] == "finished" and "failed" not in states
    assert {event["block"] for event in events} >= set(range(1, SECONDS + 1))
    assert len({event["id"] for event in events}) == 1
    last = events[-1]
    assert last["mime"].startswith("video/mp4") and last["first_after"] > 0 and last["speed"] > 0
    assert 0 < last["memory_used"] < last["memory_total"]
    assert last["num_waiting"] == 0 and last["version"]


async def stream_events(server, graph: dict) -> list[dict]:
    import aiohttp

    client, events = uuid.uuid4().hex, []
    url = f"http://127.0.0.1:{server.port}/ws?clientId={client}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
        await asyncio.to_thread(server.queue, graph, client_id=client)
        async for message in connection:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["type"] == "hallolive.stream":
                events.append(event["data"])
            if event["type"] == "execution_success":
                return events
    raise AssertionError("the socket closed early")


def test_a_cached_rerun_has_no_stream_but_names_the_clip(server, streaming):
    graph = with_inputs(streaming, SAMPLER, seed=115)
    first = server.run(graph, client_id="me")[SAMPLER]
    prompt_id = server.queue(graph, client_id="me")
    assert server.wait(prompt_id)["outputs"][SAMPLER] == first
    assert sessions_of(server, prompt_id) == []
    assert first["hallolive"][0]["state"] == "finished"


def test_the_player_node_shows_the_sampler_s_file_itself(server, streaming):
    graph = with_inputs(streaming, SAMPLER, seed=116)
    graph["player"] = {"class_type": "HalloLivePlayer", "inputs": {"video": [SAMPLER, 0]}}
    outputs = server.run(graph)
    assert outputs["player"]["video"] == outputs[SAMPLER]["video"]


def test_the_player_node_shows_videos_that_are_no_files_yet(server, two_steps):
    graph = dict(two_steps)
    graph["player"] = {"class_type": "HalloLivePlayer", "inputs": {"video": ["7", 0]}}
    clip = server.run(graph)["player"]["video"][0]
    assert clip["type"] == "temp" and picture_and_sound(server.file(clip))[0] == FRAMES


def test_the_client_script_saves_the_stream_of_its_prompt(server, streaming, tmp_path):
    client = Client(server, with_inputs(streaming, SAMPLER, seed=117), tmp_path)
    assert client.process.wait(WAIT_SECONDS) == 0, client.log.read_text()
    assert picture_and_sound(client.clip)[0] == FRAMES
    assert "finished" in client.log.read_text()


def test_ctrl_c_in_the_client_script_stops_the_run_and_keeps_the_clip(server, streaming, tmp_path):
    graph = with_inputs(streaming, SAMPLER, seed=118, seconds=LONG)
    client = Client(server, graph, tmp_path)
    prompt_id = client.prompt_id()
    client.wait_for_picture()
    client.process.send_signal(signal.SIGINT)
    assert client.process.wait(WAIT_SECONDS) != 0
    assert interrupted(server.wait(prompt_id))
    assert picture_and_sound(client.clip)[0] >= 1
