"""The nodes in the real ComfyUI, with tiny random models: clips, sockets, stops, refusals."""

import asyncio
import copy
import json
import struct
import time
import uuid
from pathlib import Path
from unittest.mock import ANY
from urllib.parse import quote
from urllib.request import urlopen

import av
import pytest
import torch
from safetensors.torch import load_file

from hallo_live_core import HalloLive, Placement, Request
from hallo_live_core.models.video_vae.latents import LatentScale

from .graphs import (
    CLIP,
    FRAMES,
    MODEL,
    SAMPLE_RATE,
    SAMPLER,
    SAMPLES,
    SECONDS,
    SIDE,
    TEXT,
    VAE,
    picture_and_sound,
    shipped,
    tiny,
    with_inputs,
)

ROOT = Path(__file__).parents[2]
AAC_FRAME = 1024

PREVIEW, TEXT_LINE = 4, 3
"""First number of the host's binary messages."""


def saved_latents(server, graph: dict, *sockets: int) -> list:
    """The latents on these outputs of the sampler, by way of the host's SaveLatent."""
    graph = {number: graph[number] for number in (MODEL, CLIP, VAE, TEXT, SAMPLER)}
    for socket in sockets:
        graph[f"save{socket}"] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": [SAMPLER, socket], "filename_prefix": "latents/test"},
        }
    outputs = server.run(graph)
    files = [server.file(outputs[f"save{socket}"]["latents"][0]) for socket in sockets]
    return [load_file(file)["latent_tensor"] for file in files]


def test_the_host_lists_all_nodes_without_complaint(server):
    assert "IMPORT FAILED" not in server.tail()
    for name in json.loads((ROOT / "tools" / "schemas.json").read_text(encoding="utf-8")):
        assert server.get(f"/object_info/{name}")


def test_the_workflows_stand_among_the_templates(server):
    (templates,) = server.get("/workflow_templates").values()
    names = [path.stem for path in (ROOT / "workflows").glob("*.json")]
    assert sorted(templates) == sorted(names)


def test_the_pictures_of_the_templates_are_where_the_page_looks_for_them(server, pack):
    for path in (ROOT / "workflows").glob("*.json"):
        place = f"/api/workflow_templates/{pack.name}/{quote(path.stem)}.jpg"
        with urlopen(f"http://127.0.0.1:{server.port}{place}", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"


def test_the_streaming_workflow_makes_a_clip_with_sound(server, streaming):
    outputs = server.run(streaming)
    preview, saved = outputs[SAMPLER]["video"][0], outputs["6"]["images"][0]
    assert preview["type"] == "temp" and saved["type"] == "output"
    frames, samples, size = picture_and_sound(server.file(preview))
    assert (frames, size) == (FRAMES, (SIDE, SIDE))
    assert samples == SAMPLES
    frames, samples, _ = picture_and_sound(server.file(saved))
    assert frames == FRAMES
    assert abs(samples - SAMPLES) <= AAC_FRAME


def test_a_saved_clip_restores_its_workflow(server, streaming):
    outputs = server.run(with_inputs(streaming, SAMPLER, seed=2))
    with av.open(str(server.file(outputs[SAMPLER]["video"][0]))) as clip:
        assert json.loads(clip.metadata["prompt"])[SAMPLER]["inputs"]["seed"] == 2


def test_the_first_try_finds_the_files_that_make_tiny_writes(server, tiny_models):
    graph = with_inputs(shipped("First try"), SAMPLER, seconds=1)
    clip = server.run(graph)["6"]["images"][0]
    assert picture_and_sound(server.file(clip)) == (21, ANY, (256, 128))


def test_the_workflow_for_small_cards_makes_a_clip(server, tiny_models):
    graph = tiny("Small card")
    assert graph[MODEL]["inputs"]["weight_dtype"] == "fp8_e4m3fn"
    graph[VAE]["inputs"]["video_vae"] = "taew2_2.safetensors"
    frames, _, size = picture_and_sound(server.file(server.run(graph)["6"]["images"][0]))
    assert (frames, size) == (FRAMES, (SIDE, SIDE))


def test_two_steps_make_a_clip_of_the_same_length(server, two_steps):
    outputs = server.run(two_steps)
    frames, samples, size = picture_and_sound(server.file(outputs["8"]["images"][0]))
    assert (frames, size) == (FRAMES, (SIDE, SIDE))
    assert abs(samples - SAMPLES) <= AAC_FRAME


def test_both_samplers_make_the_same_latents_in_core_layout(server, streaming, two_steps):
    video, audio = saved_latents(server, two_steps, 0, 1)
    streamed_video, streamed_audio = saved_latents(server, streaming, 2, 3)
    blocks, latents = SECONDS, 6 * SECONDS
    assert video.shape == (1, 48, latents, SIDE // 16, SIDE // 16)
    assert audio.shape == (1, 20, 30 * blocks)
    assert streamed_video.equal(video) and streamed_audio.equal(audio)


@pytest.mark.parametrize(
    "prompt",
    [
        "A (very) calm woman: <S>Hello there.<E> <AUDCAP>A clear voice.<ENDAUDCAP>",
        "  “Curly” &lt;S&gt;quotes&lt;E&gt; and\n\nline breaks ",
        "more words than the model reads " * 100,
    ],
    ids=["brackets", "untidy", "too long"],
)
def test_comfyui_and_the_terminal_make_the_same_latents(server, two_steps, tiny_models, prompt):
    """Text encoder, number formats and attention are the host's here and ours there."""
    engine = HalloLive.load(tiny_models, placement=Placement.on("cpu"))
    request = Request(prompt=prompt, seconds=SECONDS, seed=42, height=SIDE, width=SIDE)
    blocks = list(engine.sample(request))
    video, audio = saved_latents(server, with_inputs(two_steps, TEXT, raw_prompt=prompt), 0, 1)
    ours = LatentScale.on(None).restore(torch.cat([block.video for block in blocks], dim=1))
    torch.testing.assert_close(video.transpose(1, 2), ours, rtol=1e-3, atol=1e-3)
    sound = torch.cat([block.audio for block in blocks], dim=1)
    torch.testing.assert_close(audio.transpose(1, 2), sound, rtol=1e-3, atol=1e-3)


def test_a_seed_repeats_its_clip_and_another_does_not(server, two_steps):
    first, other = (
        saved_latents(server, with_inputs(two_steps, SAMPLER, seed=seed), 0)[0] for seed in (7, 8)
    )
    server.post("/free", {"unload_models": True, "free_memory": True})
    (again,) = saved_latents(server, with_inputs(two_steps, SAMPLER, seed=7), 0)
    assert again.equal(first) and not other.equal(first)


def test_a_cached_rerun_shows_the_same_clip(server, streaming):
    graph = with_inputs(streaming, SAMPLER, seed=3)
    first, second = (server.run(graph, client_id="me")[SAMPLER]["video"] for _ in range(2))
    assert first == second and server.file(first[0]).is_file()


def test_lookahead_is_accepted(server, two_steps):
    (video,) = saved_latents(server, with_inputs(two_steps, SAMPLER, lookahead=4), 0)
    assert video.isfinite().all()


def test_the_audio_output_lasts_as_long_as_the_picture_to_the_sample(server, streaming):
    graph = copy.deepcopy(streaming)
    inputs = {"audio": [SAMPLER, 1], "filename_prefix": "audio/test"}
    graph["save"] = {"class_type": "SaveAudio", "inputs": inputs}
    saved = server.run(graph)["save"]["audio"][0]
    with av.open(str(server.file(saved))) as clip:
        assert sum(frame.samples for frame in clip.decode(audio=0)) == SAMPLES


def test_joint_latents_of_other_packs_are_decoded_too(server, two_steps):
    graph = copy.deepcopy(two_steps)
    inputs = {"video_latent": [SAMPLER, 0], "audio_latent": [SAMPLER, 1]}
    graph["joint"] = {"class_type": "LTXVConcatAVLatent", "inputs": inputs}
    graph["6"]["inputs"] = {"vae": [VAE, 0], "video_latent": ["joint", 0]}
    outputs = server.run(graph)
    frames, _, _ = picture_and_sound(server.file(outputs["8"]["images"][0]))
    assert frames == FRAMES


def test_the_light_decoder_makes_a_clip_of_the_same_size(server, streaming):
    graph = with_inputs(streaming, VAE, video_vae="taew2_2.safetensors")
    outputs = server.run(graph)
    frames, samples, size = picture_and_sound(server.file(outputs[SAMPLER]["video"][0]))
    assert (frames, samples, size) == (FRAMES, SAMPLES, (SIDE, SIDE))


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn", "fp8_e5m2"])
def test_smaller_weights_stay_close_to_the_full_ones(server, two_steps, weight_dtype):
    (full,) = saved_latents(server, two_steps, 0)
    (small,) = saved_latents(server, with_inputs(two_steps, MODEL, weight_dtype=weight_dtype), 0)
    difference = ((small - full).norm() / full.norm()).item()
    assert difference < (0.01 if weight_dtype == "bf16" else 0.5)
    assert weight_dtype == "bf16" or difference > 0


def test_an_attention_kernel_that_is_not_installed_is_replaced(server, two_steps):
    (default,) = saved_latents(server, two_steps, 0)
    (other,) = saved_latents(server, with_inputs(two_steps, MODEL, attention="sage"), 0)
    assert (other - default).abs().max() < 1e-2


def test_progress_counts_up_and_every_block_sends_a_picture(server, streaming):
    progress, binary = asyncio.run(watch(server, with_inputs(streaming, SAMPLER, seed=4)))
    done = [value for value, _ in progress]
    assert done == sorted(done) and progress[-1][0] == progress[-1][1]
    assert len(progress) > 4 * SECONDS  # every denoising pass and more
    assert binary.count(PREVIEW) >= SECONDS
    assert binary.count(TEXT_LINE) >= SECONDS


async def watch(server, graph: dict) -> tuple[list, list]:
    """(value, max) of the sampler's progress events, and the kinds of binary messages."""
    import aiohttp

    client, progress, binary = uuid.uuid4().hex, [], []
    url = f"http://127.0.0.1:{server.port}/ws?clientId={client}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        features = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        await socket.send_json(features)
        prompt_id = await asyncio.to_thread(server.queue, graph, client_id=client)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                binary.append(struct.unpack(">I", message.data[:4])[0])
                continue
            event = json.loads(message.data)
            data = event.get("data", {})
            if event["type"] == "progress" and data["node"] == SAMPLER:
                progress.append((data["value"], data["max"]))
            if event["type"] == "execution_success" and data["prompt_id"] == prompt_id:
                return progress, binary
            assert event["type"] != "execution_error", data
    raise AssertionError("the socket closed early")


def test_an_interrupt_leaves_a_playable_clip_and_no_thread(server, streaming):
    server.run(with_inputs(streaming, SAMPLER, seed=5))  # all threads of a run exist by now
    before, threads = clips(server), num_threads(server)
    prompt_id = server.queue(with_inputs(streaming, SAMPLER, seed=6, seconds=30))
    deadline = time.monotonic() + 60
    while not clips(server) - before:  # one that is being written
        assert time.monotonic() < deadline, server.tail()
        time.sleep(0.01)
    server.post("/interrupt", {"prompt_id": prompt_id})
    status = server.wait(prompt_id)["status"]
    assert not status["completed"]
    assert "execution_interrupted" in dict(status["messages"])
    (clip,) = clips(server) - before
    frames, samples, _ = picture_and_sound(clip)
    assert 1 <= frames < 24 * 30 - 3
    assert samples == round(frames * SAMPLE_RATE / 24)
    assert num_threads(server) <= threads
    server.run(with_inputs(streaming, SAMPLER, seed=9))  # and the host works on


def clips(server) -> set[Path]:
    return set((server.base / "temp").glob("hallolive_*.mp4"))


def num_threads(server) -> int:
    tasks = Path(f"/proc/{server.process.pid}/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0


# ── What cannot work is refused before anything runs, in one line that says what to do ─────────


def test_a_missing_model_is_named(server, streaming):
    (error,) = server.refusals(with_inputs(streaming, MODEL, model_name="nowhere.safetensors"))
    assert "nowhere.safetensors" in error


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"width": 100}, ("100", "32")),
        ({"seconds": 60}, ("60",)),
        ({"seconds": 34, "lookahead": 20}, ("34",)),
    ],
)
def test_settings_that_cannot_work_are_refused(server, streaming, inputs, words):
    errors = server.refusals(with_inputs(streaming, SAMPLER, **inputs))
    assert errors and all(word in errors[0] for word in words), errors
    assert "Fix:" in errors[0]
    assert all(error.endswith(" - see above") for error in errors[1:]), errors


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"scene": "", "speech": "", "voice": "", "ambience": ""}, "The prompt is empty"),
        ({"raw_prompt": "She says <S>hello"}, "never closed"),
        ({"speech": "Hello <E>"}, "<E>"),
    ],
)
def test_prompts_that_cannot_work_are_refused(server, streaming, inputs, words):
    errors = server.refusals(with_inputs(streaming, TEXT, **inputs))
    assert errors and words in errors[0], errors


def test_another_model_in_the_loader_is_recognised(server, streaming, tiny_models):
    source = tiny_models / "vae" / "Wan2.2_VAE.pth"
    (tiny_models / "diffusion_models" / "wrong.pth").write_bytes(source.read_bytes())
    graph = with_inputs(streaming, MODEL, model_name="wrong.pth")
    error = server.error_of(graph)
    assert "wrong.pth" in error and "Wan2.2 video VAE" in error


def test_another_text_encoder_is_recognised_by_the_encode_node(server, streaming):
    graph = copy.deepcopy(streaming)
    graph[CLIP] = wrong_clip()
    error = server.error_of(graph)
    assert "not umT5" in error and "type wan" in error


def test_another_text_encoder_is_recognised_by_the_sampler(server, streaming):
    graph = copy.deepcopy(streaming)
    graph[CLIP] = wrong_clip()
    graph[TEXT] = {"class_type": "CLIPTextEncode", "inputs": {"clip": [CLIP, 0], "text": "hi"}}
    error = server.error_of(graph)
    assert "768" in error and "another text encoder" in error


def wrong_clip() -> dict:
    """The host takes the tiny file for a CLIP-L, since it knows only one size of umT5."""
    name = "models_t5_umt5-xxl-enc-bf16.pth"
    return {"class_type": "CLIPLoader", "inputs": {"clip_name": name, "type": "stable_diffusion"}}


def test_combined_prompts_are_refused_by_the_sampler(server, two_steps):
    graph = copy.deepcopy(two_steps)
    combine = {"conditioning_1": [TEXT, 0], "conditioning_2": [TEXT, 0]}
    graph["both"] = {"class_type": "ConditioningCombine", "inputs": combine}
    graph[SAMPLER]["inputs"]["positive"] = ["both", 0]
    assert "2 entries" in server.error_of(graph)


def test_decoding_without_sound_says_what_to_connect(server, two_steps):
    graph = copy.deepcopy(two_steps)
    del graph["6"]["inputs"]["audio_latent"]
    assert "audio_latent" in server.error_of(graph)


def test_core_text_encode_works_too(server, two_steps):
    graph = copy.deepcopy(two_steps)
    graph[TEXT] = {"class_type": "CLIPTextEncode", "inputs": {"clip": [CLIP, 0], "text": "hi"}}
    (video,) = saved_latents(server, graph, 0)
    assert video.isfinite().all()


def test_new_loaders_take_files_that_fit(server, streaming):
    for number in (MODEL, CLIP, VAE):
        node = streaming[number]
        info = server.get(f"/object_info/{node['class_type']}")[node["class_type"]]["input"]
        for name, (_, options) in (info["required"] | info.get("optional", {})).items():
            node["inputs"][name] = options.get("default", options["options"][0])
    server.run(streaming)
