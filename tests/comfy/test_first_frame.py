"""Pictures as first frames in the real ComfyUI, from IMAGE and from core's LATENT."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hallo_live_core import HalloLive, Placement, Request, load_first_frame, read_picture

from .canvas import Canvas
from .graphs import (
    CLIP,
    FRAMES,
    MODEL,
    SAMPLER,
    SAMPLES,
    SECONDS,
    SIDE,
    TEXT,
    VAE,
    picture_and_sound,
    tiny,
    with_inputs,
)

CORE_VAE = {"class_type": "TestTinyCoreVAE", "inputs": {"name": "Wan2.2_VAE.pth"}}
SHIPPED = Path(__file__).parents[2] / "workflows" / "First frame.json"
PICTURE = "picture"
PROMPT = "A woman says, <S>Hello there.<E>"


@pytest.fixture
def face(server) -> Path:
    """A picture among the host's inputs, wider than the clip."""
    rows, columns = np.mgrid[0:90, 0:160]
    colours = np.stack([rows * 2, columns, 255 - rows - columns // 2], axis=-1)
    file = server.base / "input" / "face.png"
    Image.fromarray(colours.astype(np.uint8)).save(file)
    return file


def loaded(file: Path) -> dict:
    return {"class_type": "LoadImage", "inputs": {"image": file.name}}


def made(**shape) -> dict:
    inputs = {"batch": 1, "height": SIDE, "width": SIDE, "channels": 3}
    return {"class_type": "TestImage", "inputs": inputs | shape}


def encoded(source: str = PICTURE) -> dict:
    """Nodes by which core encodes a picture."""
    inputs = {"pixels": [source, 0], "vae": ["core vae", 0]}
    return {"core vae": CORE_VAE, "encoded": {"class_type": "VAEEncode", "inputs": inputs}}


def started(graph: dict, picture: dict, *, source: str = PICTURE, **extra) -> dict:
    """The part of a workflow up to its sampler, begun with the output of `source`."""
    kept = {number: graph[number] for number in (MODEL, CLIP, VAE, TEXT, SAMPLER)}
    more = {"first_frame": [source, 0], "vae": [VAE, 0]}
    return with_inputs(kept, SAMPLER, **more) | {PICTURE: picture} | extra


def test_the_first_frame_workflow_makes_a_clip_that_begins_with_the_picture(server, face):
    graph = tiny("First frame")
    (number,) = [n for n, node in graph.items() if node["class_type"] == "LoadImage"]
    graph[number]["inputs"]["image"] = face.name
    outputs = server.run(graph)
    frames, samples, size = picture_and_sound(server.file(outputs[SAMPLER]["video"][0]))
    assert (frames, samples, size) == (FRAMES, SAMPLES, (SIDE, SIDE))


def test_the_clips_first_frame_is_the_picture_as_core_encodes_and_decodes_it(server, two_steps):
    decode = {"video_latent": [SAMPLER, 0], "audio_latent": [SAMPLER, 1], "vae": [VAE, 0]}
    graph = started(two_steps, made()) | encoded()
    graph["alone"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": ["encoded", 0], "vae": ["core vae", 0]},
    }
    graph["clip"] = {"class_type": "HalloLiveDecode", "inputs": decode}
    alone, clip = server.kept(graph, ["alone", 0], ["clip", 0])
    assert alone.shape == (1, SIDE, SIDE, 3) and clip.shape == (FRAMES, SIDE, SIDE, 3)
    torch.testing.assert_close(clip[:1], alone, rtol=0, atol=0.5 / 255 + 1e-3)


def test_a_picture_and_its_latent_from_core_make_the_same_clip(server, two_steps):
    by_image, first = server.kept(
        started(two_steps, made()) | encoded(), [SAMPLER, 0], ["encoded", 0]
    )
    graph = started(two_steps, made(), source="encoded") | encoded()
    del graph[SAMPLER]["inputs"]["vae"]
    (by_latent,) = server.kept(graph, [SAMPLER, 0])
    video = by_latent["samples"]
    torch.testing.assert_close(video[:, :, :1], first["samples"], rtol=0, atol=1e-5)
    torch.testing.assert_close(by_image["samples"], video, rtol=1e-3, atol=1e-3)


def test_both_samplers_make_the_same_latents_of_it(server, streaming, two_steps, face):
    latents = [
        server.kept(started(g, loaded(face)), [SAMPLER, n])[0]
        for g, n in ((streaming, 2), (two_steps, 0))
    ]
    assert torch.equal(latents[0]["samples"], latents[1]["samples"])


def test_comfyui_and_the_terminal_make_the_same_latents_of_it(server, two_steps, tiny_models, face):
    place = Placement.on("cpu")
    engine = HalloLive.load(tiny_models, placement=place)
    wanted = {"prompt": PROMPT, "seconds": SECONDS, "seed": 42, "height": SIDE, "width": SIDE}
    first = load_first_frame(tiny_models, read_picture(face), Request(**wanted), placement=place)
    blocks = list(engine.sample(Request(**wanted, first_frame=first)))
    graph = with_inputs(started(two_steps, loaded(face)), TEXT, raw_prompt=PROMPT)
    (audio,) = server.kept(graph, [SAMPLER, 1])
    sound = torch.cat([block.audio for block in blocks], dim=1)
    torch.testing.assert_close(audio["samples"].transpose(1, 2), sound, rtol=1e-3, atol=1e-3)


def test_a_first_frame_in_a_joint_latent_is_found(server, two_steps):
    audio = {"class_type": "LTXVConcatAVLatent"}
    audio["inputs"] = {"video_latent": ["encoded", 0], "audio_latent": ["encoded", 0]}
    graph = started(two_steps, made(), source="joint", joint=audio) | encoded()
    video, first = server.kept(graph, [SAMPLER, 0], ["encoded", 0])
    torch.testing.assert_close(video["samples"][:, :, :1], first["samples"], rtol=0, atol=1e-5)


def test_a_transparent_picture_stands_on_white(server, two_steps):
    clear = made(channels=4)
    (video,) = server.kept(started(two_steps, clear), [SAMPLER, 0])
    assert video["samples"].isfinite().all()


def test_best_of_takes_a_first_frame_too(server):
    info = server.get("/object_info/HalloLiveBestOf")["HalloLiveBestOf"]["input"]["optional"]
    assert info["first_frame"][0] == "IMAGE,LATENT"
    assert "not trained" in info["first_frame"][1]["tooltip"]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (made(batch=3), "first_frame takes one picture. Found: 3"),
        (made(channels=1), "must be RGB or RGBA"),
        (made(fill=0.0), "not numbers"),
    ],
    ids=["several", "one channel", "not a number"],
)
def test_what_is_no_picture_is_refused_in_one_line(server, two_steps, picture, words):
    error = server.error_of(keeping(started(two_steps, picture)))
    assert words in error and "Fix:" in error


@pytest.mark.parametrize("given", ["a file name", {"video": 1}], ids=["text", "no latent"])
def test_what_a_program_sends_instead_of_a_picture_is_refused_in_one_line(server, two_steps, given):
    error = server.error_of(with_inputs(two_steps, SAMPLER, first_frame=given))
    assert "first_frame takes a picture" in error and "Fix:" in error


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        ({"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1}}, "48 channels"),
        (
            {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"length": 1, "batch_size": 1}},
            "48 channels",
        ),
        (
            {"class_type": "Wan22ImageToVideoLatent", "inputs": {"length": 9, "batch_size": 1}},
            "one latent of 48 channels",
        ),
    ],
    ids=["a picture's", "Wan 2.1's", "a whole clip's"],
)
def test_latents_of_something_else_are_refused_in_one_line(server, two_steps, latent, words):
    latent = copy.deepcopy(latent)
    latent["inputs"] |= {"width": SIDE, "height": SIDE}
    if latent["class_type"].startswith("Wan"):
        latent["inputs"]["vae"] = ["core vae", 0]
    graph = started(two_steps, latent) | {"core vae": CORE_VAE}
    error = server.error_of(keeping(graph))
    assert words in error and "Fix:" in error


def test_a_latent_of_another_size_is_refused_in_one_line(server, two_steps):
    graph = started(two_steps, made(height=2 * SIDE), source="encoded") | encoded()
    assert "8 x 4 instead of 4 x 4" in server.error_of(keeping(graph))


def test_a_picture_without_a_vae_says_what_to_connect(server, two_steps):
    graph = started(two_steps, made())
    del graph[SAMPLER]["inputs"]["vae"]
    assert "connect vae" in server.error_of(keeping(graph))


def test_the_light_decoder_has_no_encoder_and_says_so(server, two_steps):
    graph = with_inputs(started(two_steps, made()), VAE, video_vae="taew2_2.safetensors")
    error = server.error_of(keeping(graph))
    assert "alone can encode pictures" in error and "Wan2.2" in error


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_on_the_page_the_socket_takes_pictures_and_latents_and_nothing_else(
    browser, server, nodes_2
):
    canvas = Canvas(browser, server, nodes_2=nodes_2)
    try:
        canvas.open(json.loads(SHIPPED.read_text(encoding="utf-8")))
        sent = canvas.ask("async () => (await window.app.graphToPrompt()).output")
        api = json.loads((SHIPPED.parent / "api" / SHIPPED.name).read_text(encoding="utf-8"))
        assert {n: node["inputs"] for n, node in sent.items()} == {
            n: node["inputs"] for n, node in api.items()
        }
        accepted = canvas.ask(
            """() => {
                const graph = window.app.graph;
                const sampler = graph.nodes.find((n) => n.type === 'HalloLiveStreamSampler');
                const slot = sampler.findInputSlot('first_frame');
                return ['EmptyImage', 'VAEEncode', 'SolidMask'].map((type) => {
                    sampler.disconnectInput(slot);
                    const source = window.LiteGraph.createNode(type);
                    graph.add(source);
                    return Boolean(source.connect(0, sampler, slot));
                });
            }"""
        )
        assert accepted == [True, True, False]
        assert canvas.complaints == []
    finally:
        canvas.close()


def keeping(graph: dict) -> dict:
    """With an output, or nothing would run."""
    return graph | {"out": {"class_type": "TestKeep", "inputs": {"value": [SAMPLER, 0]}}}


def test_the_shipped_workflow_says_that_the_model_was_not_trained_for_it():
    (note,) = [
        node
        for node in json.loads(SHIPPED.read_text(encoding="utf-8"))["nodes"]
        if node["type"] == "MarkdownNote"
    ]
    assert "not trained for this" in note["widgets_values"][0].replace("\n", " ")
