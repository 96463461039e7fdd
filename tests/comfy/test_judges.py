"""The judges in the real ComfyUI, with tiny random judges: one clip, several, and Best of four."""

import asyncio
import json
import math
import time
import uuid

import av
import numpy as np
import pytest
import torch

from hallo_live_core import load_judges, read_clip, score_clip
from hallo_live_core.checkpoints.tiny_judges import write_tiny_judges

from ..made_clips import write_clip
from .graphs import SAMPLER, picture_and_sound, tiny, with_inputs

SAVE, JUDGES, TABLE, PICTURES = "6", "7", "8", "9"
"""Node numbers in the workflow Best of four."""

SIDE = 128
"""The lip-sync judge needs faces of 100 pixels."""


@pytest.fixture(scope="module")
def judges(tiny_models):
    return write_tiny_judges(tiny_models / "judges")


@pytest.fixture
def best_of_four(judges) -> dict:
    return tiny("Best of four")


def judge_node(**switches) -> dict:
    inputs = {"sync": True, "audio": False, "video": False, "faces": "mean"} | switches
    return {"class_type": "HalloLiveJudgeLoader", "inputs": inputs}


def shown(source: list) -> dict:
    """The host's node that shows any value as text."""
    return {"class_type": "PreviewAny", "inputs": {"source": source}}


def texts(outputs: dict, *nodes: str) -> list[str]:
    return [outputs[node]["text"][0] for node in nodes]


# ── One clip ──────────────────────────────────────────────────────────────────────────────────


def score_graph(loader: dict, **inputs) -> dict:
    """Score what the nodes of `loader` give, and show the first four outputs."""
    graph = loader | {"judges": judge_node(sync=True, audio=True, video=True)}
    inputs = {"judges": ["judges", 0], "prompt": "A woman speaks."} | inputs
    graph["score"] = {"class_type": "HalloLiveScore", "inputs": inputs}
    return graph | {f"out{slot}": shown(["score", slot]) for slot in range(4)}


def video_node(server, name: str, **kind) -> dict:
    """A clip of this kind, loaded by the host."""
    write_clip(server.base / "input" / name, **kind)
    return {"clip": {"class_type": "LoadVideo", "inputs": {"file": name}}}


def apart(server, **kind) -> dict:
    """The same as images and audio."""
    graph = video_node(server, **kind)
    graph["parts"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["clip", 0]}}
    return graph


def test_a_video_of_any_origin_is_scored_as_in_the_terminal(server, judges):
    graph = score_graph(video_node(server, "any.mp4"), video=["clip", 0])
    outputs = server.run(graph)
    clip = read_clip(server.base / "input" / "any.mp4", prompt="A woman speaks.")
    told = score_clip(load_judges([judges], ["sync", "audio", "video"]), clip)
    numbers = [float(text) for text in texts(outputs, "out0", "out1", "out2")]
    assert numbers == pytest.approx([score.value for score in told], rel=1e-3, abs=1e-3)
    (table,) = texts(outputs, "out3")
    for name in ("confidence", "CE", "VQ", "TA", "scale of"):
        assert name in table


def test_the_plot_is_a_picture_with_a_curve(server, judges):
    graph = score_graph(video_node(server, "plot.mp4"), video=["clip", 0])
    from PIL import Image

    (plot,) = server.run(graph)["score"]["images"]
    picture = Image.open(server.file(plot)).convert("RGB")
    assert picture.size == (640, 360)
    assert len({colour for _, colour in picture.getcolors(maxcolors=1 << 20)}) > 3


def test_images_and_audio_score_like_the_video_they_are_from(server, judges):
    whole = server.run(score_graph(video_node(server, "whole.mp4"), video=["clip", 0]))
    parts = {"images": ["parts", 0], "audio": ["parts", 1], "fps": 25.0}
    split = server.run(score_graph(apart(server, name="whole.mp4"), **parts))
    pairs = zip(texts(whole, "out0", "out2"), texts(split, "out0", "out2"), strict=True)
    for one, other in pairs:
        assert float(one) == pytest.approx(float(other), rel=0.05, abs=0.05)


def test_a_video_made_of_images_scores_like_them(server, judges):
    graph = apart(server, name="any.mp4")
    made = {"images": ["parts", 0], "audio": ["parts", 1], "fps": 25.0}
    graph["made"] = {"class_type": "CreateVideo", "inputs": made}
    whole = server.run(score_graph(graph, video=["made", 0]))
    assert texts(whole, "out0", "out1", "out2") == texts(
        server.run(score_graph(apart(server, name="any.mp4"), **made)), "out0", "out1", "out2"
    )


def test_what_cannot_be_judged_is_nan_and_the_table_says_why(server, judges):
    graph = score_graph(video_node(server, "mute.mp4", rate=None), video=["clip", 0])
    outputs = server.run(graph)
    sync, audio, video, table = texts(outputs, "out0", "out1", "out2", "out3")
    assert math.isnan(float(sync)) and math.isnan(float(audio)) and math.isfinite(float(video))
    assert "sync: the clip has no sound" in table


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"rate": 48_000, "layout": "stereo"}, "sound was resampled from 48000 to 16000 Hz"),
        ({"rate": 48_000, "layout": "stereo"}, "2 channels were averaged"),
        ({"fps": 60, "frames": 130}, "re-timed from 60 to 25 fps"),
        ({"frames": 1}, "a single picture has no motion"),
    ],
)
def test_clips_of_other_kinds_say_what_was_done_to_them(server, judges, kind, words):
    name = "_".join(f"{value}" for value in kind.values()) + ".mp4"
    outputs = server.run(score_graph(video_node(server, name, **kind), video=["clip", 0]))
    assert words in texts(outputs, "out3")[0]


def test_without_a_prompt_the_picture_alone_is_judged(server, judges):
    graph = score_graph(video_node(server, "any.mp4"), video=["clip", 0], prompt=" ")
    assert "without a prompt" in texts(server.run(graph), "out3")[0]


def test_a_clip_must_be_connected_and_only_one(server, judges):
    assert "exactly one clip" in server.error_of(score_graph({}))
    both = {"video": ["clip", 0], "images": ["parts", 0]}
    assert "a video and images" in server.error_of(
        score_graph(apart(server, name="any.mp4"), **both)
    )


def test_a_loader_without_a_judge_says_what_to_switch_on(server, judges):
    graph = score_graph(video_node(server, "any.mp4"), video=["clip", 0])
    graph["judges"] = judge_node(sync=False)
    assert "No judge is switched on" in server.error_of(graph)


def test_missing_files_are_named_with_size_and_folder(server, judges):
    """Only those of the judge that is asked for."""
    weights = judges / "audiobox-aesthetics" / "model.safetensors"
    hidden = weights.with_suffix(".hidden")
    weights.rename(hidden)
    try:
        graph = score_graph(video_node(server, "any.mp4"), video=["clip", 0])
        graph["judges"] = judge_node(sync=True, audio=True, faces="best")
        error = server.error_of(graph)
        for words in ("audiobox-aesthetics/model.safetensors", "415 MB", str(judges)):
            assert words in error
        assert "sfd_face" not in error
        graph["judges"] = judge_node(sync=True, faces="best")
        server.run(graph)
    finally:
        hidden.rename(weights)


def test_an_interrupt_stops_the_judges_at_work(server, judges):
    graph = score_graph(video_node(server, "long.mp4", frames=1200), video=["clip", 0])
    entry = asyncio.run(interrupted(server, graph, "score"))
    assert not entry["status"]["completed"]
    assert "execution_interrupted" in dict(entry["status"]["messages"])
    server.run(score_graph(video_node(server, "any.mp4"), video=["clip", 0]))  # and it works on


async def interrupted(server, graph: dict, node: str) -> dict:
    """The history of a graph that is interrupted as soon as this node reports progress."""
    import aiohttp

    client = uuid.uuid4().hex
    url = f"http://127.0.0.1:{server.port}/ws?clientId={client}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        prompt_id = await asyncio.to_thread(server.queue, graph, client_id=client)
        async for message in socket:
            event = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
            if event.get("type") == "progress" and event["data"]["node"] == node:
                server.post("/interrupt", {"prompt_id": prompt_id})
                break
    return await asyncio.to_thread(server.wait, prompt_id)


# ── Several clips ─────────────────────────────────────────────────────────────────────────────


def test_the_clip_with_the_better_sound_is_picked(server, judges):
    graph = {"judges": judge_node(sync=False, audio=True)}
    for number, (name, kind) in enumerate([("mute.mp4", {"rate": None}), ("any.mp4", {})], start=1):
        graph[f"clip{number}"] = video_node(server, name, **kind)["clip"]
    inputs = {
        "judges": ["judges", 0],
        "prompt": "",
        "video_1": ["clip1", 0],
        "video_2": ["clip2", 0],
    }
    graph["pick"] = {"class_type": "HalloLivePickBest", "inputs": inputs}
    graph["save"] = save(["pick", 0])
    graph |= {"index": shown(["pick", 1]), "table": shown(["pick", 2])}
    outputs = server.run(graph)
    index, table = texts(outputs, "index", "table")
    assert index == "1"
    assert "the clip has no sound" in table and table.splitlines()[2].startswith("*  clip 1")
    assert picture_and_sound(server.file(outputs["save"]["images"][0]))[0] == 55


def save(video: list) -> dict:
    inputs = {"video": video, "filename_prefix": "video/best", "format": "auto", "codec": "auto"}
    return {"class_type": "SaveVideo", "inputs": inputs}


# ── Best of four ──────────────────────────────────────────────────────────────────────────────


def test_the_workflow_makes_four_takes_and_saves_the_best(server, best_of_four):
    outputs = server.run(with_inputs(best_of_four, SAMPLER, seconds=1))
    table = texts(outputs, TABLE)[0].splitlines()
    assert [line.split("seed ")[1].split()[0] for line in table[1:5]] == ["42", "43", "44", "45"]
    assert sum(line.startswith("*") for line in table[1:5]) == 1
    assert len(outputs[PICTURES]["images"]) == 4
    assert picture_and_sound(server.file(outputs[SAVE]["images"][0]))[0] == 21


@pytest.mark.slow
def test_lip_sync_decides_between_takes_that_are_long_enough(server, best_of_four):
    graph = with_inputs(best_of_four, SAMPLER, seconds=3, takes=2, width=SIDE, height=SIDE)
    graph["seed"] = shown([SAMPLER, 2])
    outputs = server.run(graph)
    table, seed = texts(outputs, TABLE, "seed")
    (best,) = [line for line in table.splitlines() if line.startswith("*  seed")]
    assert best.split()[2] == seed and best.split()[-1] == "1"
    assert "not judged" not in table


def test_the_best_seed_makes_the_same_clip_in_the_stream_sampler(server, best_of_four, streaming):
    graph = with_inputs(best_of_four, SAMPLER, seconds=1, takes=2)
    graph["seed"] = shown([SAMPLER, 2])
    sound = {"audio": [SAMPLER, 1], "filename_prefix": "audio/best"}
    graph["sound"] = {"class_type": "SaveAudio", "inputs": sound}
    best = server.run(graph)
    again = with_inputs(streaming, SAMPLER, seed=int(texts(best, "seed")[0]), seconds=1)
    again["sound"] = graph["sound"]
    first, second = (
        heard(server.file(outputs["sound"]["audio"][0])) for outputs in (best, server.run(again))
    )
    assert first.shape == second.shape and (first == second).all()


def heard(path) -> np.ndarray:
    with av.open(str(path)) as clip:
        return np.concatenate([frame.to_ndarray() for frame in clip.decode(audio=0)], axis=-1)


@pytest.fixture
def blind(server, judges):
    """The detector sees no face while this lasts."""
    file = judges / "sfd_face.pth"
    seeing = file.read_bytes()
    weights = torch.load(file)
    torch.save({n: t.zero_() if n.startswith("conf") else t for n, t in weights.items()}, file)
    server.post("/free", {"unload_models": True, "free_memory": True})  # forget what was loaded
    yield
    file.write_bytes(seeing)
    server.post("/free", {"unload_models": True, "free_memory": True})


def test_takes_without_a_face_are_given_up_after_their_first_second(server, best_of_four, blind):
    graph = with_inputs(best_of_four, SAMPLER, seconds=2, takes=3, width=SIDE, height=SIDE)
    outputs = server.run(graph)
    table = texts(outputs, TABLE)[0].splitlines()
    assert "the first was finished after all" in table[1] and table[1].startswith("*")
    for line in table[2:4]:
        assert "given up after the first second: no face in the first second" in line
    assert picture_and_sound(server.file(outputs[SAVE]["images"][0]))[0] == 45


def test_giving_up_can_be_switched_off(server, best_of_four, blind):
    graph = with_inputs(best_of_four, SAMPLER, seconds=2, takes=2, width=SIDE, height=SIDE)
    outputs = server.run(with_inputs(graph, SAMPLER, drop_early=False))
    assert "given up" not in texts(outputs, TABLE)[0]


def test_an_interrupt_ends_all_takes_and_the_host_works_on(server, best_of_four):
    clips = set((server.base / "temp").glob("hallolive_*.mp4"))
    prompt_id = server.queue(with_inputs(best_of_four, SAMPLER, seconds=30, takes=16))
    deadline = time.monotonic() + 60
    while not set((server.base / "temp").glob("hallolive_*.mp4")) - clips:
        assert time.monotonic() < deadline, server.tail()
        time.sleep(0.01)
    server.post("/interrupt", {"prompt_id": prompt_id})
    status = server.wait(prompt_id)["status"]
    assert not status["completed"] and "execution_interrupted" in dict(status["messages"])
    server.run(with_inputs(best_of_four, SAMPLER, seconds=1, takes=1))


def test_settings_that_cannot_work_are_refused_before_anything_runs(server, best_of_four):
    errors = server.refusals(with_inputs(best_of_four, SAMPLER, width=100))
    assert errors and "32" in errors[0] and "Fix:" in errors[0]
    errors = server.refusals(with_inputs(best_of_four, SAMPLER, takes=0))
    assert errors
