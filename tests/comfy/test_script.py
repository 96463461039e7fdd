"""Scripts, streams without end and spoken lines in the real ComfyUI, with tiny models."""

import json
import time
import urllib.error
import urllib.request

import pytest
import torch

from .graphs import CLIP, SAMPLE_RATE, SAMPLER, TEXT, picture_and_sound, tiny, with_inputs

SCRIPT = "7"
"""Number of the script node in its workflow."""

WAIT_SECONDS = 100


@pytest.fixture
def script(tiny_models) -> dict:
    """The shipped workflow, as long as its lines, all of which it remembers."""
    graph = with_inputs(tiny("Script"), SCRIPT, lines="1 | One.\n1 | Two.")
    return with_inputs(graph, SAMPLER, seconds=[SCRIPT, 1])


@pytest.fixture
def endless(tiny_models) -> dict:
    """A stream without end that listens."""
    graph = with_inputs(tiny("Streaming avatar"), SAMPLER, seconds=0, window_blocks=2)
    return with_inputs(graph, SAMPLER, clip=[CLIP, 0])


def until_block(server, prompt_id: str, block: int) -> dict:
    """The stream of a prompt once this block is being made."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for status in server.get("/hallolive/sessions")["sessions"]:
            if status["tags"]["prompt_id"] == prompt_id and status["block"] >= block:
                return status
        time.sleep(0.02)
    pytest.fail(server.tail())


def is_whole(clip) -> bool:
    """Whether picture and sound end together, at a block's border, at 25 fps from block 2 on."""
    frames, samples, _ = picture_and_sound(clip)
    steady = max(0, frames - 45)
    seconds = (frames - steady) / 24 + steady / 25
    return (frames + 3) % 24 == 0 and samples == round(seconds * SAMPLE_RATE)


def test_a_script_says_its_lines_one_after_the_other(server, interop_pack, script):
    sources = [SAMPLER, 2], [SAMPLER, 3], [SCRIPT, 1]
    video, audio, seconds = server.kept(script, *sources)
    assert seconds == 2.0 and video["samples"].shape[2] == 12
    other = with_inputs(script, SCRIPT, lines="1 | One.\n1 | Something else altogether!")
    video_too, audio_too, _ = server.kept(other, *sources)
    for a, b, axis, half in (
        (video["samples"], video_too["samples"], 2, 6),
        (audio["samples"], audio_too["samples"], 2, 30),
    ):
        assert torch.equal(a.narrow(axis, 0, half), b.narrow(axis, 0, half))
        assert not torch.allclose(a.narrow(axis, half, half), b.narrow(axis, half, half))


def test_a_stream_without_end_says_what_it_is_told_until_it_is_finished(server, endless):
    prompt_id = server.queue(endless)
    place = f"/hallolive/sessions/{until_block(server, prompt_id, 1)['id']}"
    told = server.post(f"{place}/say", {"text": "Tea?"})
    assert told["num_lines"] == 1 and told["num_blocks"] == 0
    status = until_block(server, prompt_id, 4)
    assert status["num_lines"] == 0
    server.post(f"{place}/finish", {})
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success", server.tail()
    (clip,) = entry["outputs"][SAMPLER]["video"]
    assert is_whole(server.file(clip))
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post(f"{place}/say", {"text": "Too late."})
    with refused.value as answer:
        assert answer.code == 409 and "has ended" in json.load(answer)["error"]


def test_an_interrupted_stream_without_end_leaves_a_playable_clip(server, endless):
    prompt_id = server.queue(with_inputs(endless, SAMPLER, seed=77))
    status = until_block(server, prompt_id, 3)
    server.post("/interrupt", {"prompt_id": prompt_id})
    assert "execution_interrupted" in dict(server.wait(prompt_id)["status"]["messages"])
    frames, samples, _ = picture_and_sound(server.base / "temp" / status["tags"]["file"])
    assert frames >= 24 and samples > SAMPLE_RATE * frames / 26


def test_a_run_without_a_text_encoder_says_that_it_cannot_be_told(server, tiny_models):
    prompt_id = server.queue(with_inputs(tiny("Streaming avatar"), SAMPLER, seconds=30))
    place = f"/hallolive/sessions/{until_block(server, prompt_id, 1)['id']}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post(f"{place}/say", {"text": "Tea?"})
    with refused.value as answer:
        assert answer.code == 409 and "connect a CLIP" in json.load(answer)["error"]
    server.post(f"{place}/cancel", {})
    server.wait(prompt_id)


@pytest.mark.parametrize(
    ("node", "inputs", "words"),
    [
        (SCRIPT, {"scene": "A man.", "lines": "1 | One.\n1 | <S>open"}, "Line 2 of the script"),
        (SCRIPT, {"scene": "A man.", "lines": "  "}, "1 to 1000 lines"),
        (SCRIPT, {"lines": "2s | One."}, "no number of seconds"),  # the scene is linked
        (SAMPLER, {"seconds": 0, "window_blocks": 2, "sink_blocks": 2}, "leave no room"),
        (SAMPLER, {"seconds": 60, "window_blocks": 0}, "a window of 5 blocks"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_it_runs(server, script, node, inputs, words):
    errors = server.refusals(with_inputs(script, node, **inputs))
    assert errors and words in errors[0], errors


def test_latents_alone_have_an_end(server, two_steps):
    lines = {"clip": [CLIP, 0], "scene": [TEXT, 1], "lines": "On and on."}
    graph = two_steps | {"77": {"class_type": "HalloLiveScript", "inputs": lines}}
    graph = with_inputs(graph, SAMPLER, seconds=["77", 1], positive=["77", 0])
    assert "without end" in server.error_of(graph)
