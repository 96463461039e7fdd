"""What our sockets mean to nodes of others, in the real ComfyUI with a tiny core Wan2.2 VAE."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .graphs import FRAMES, SAMPLE_RATE, SAMPLER, SAMPLES, SIDE, VAE, picture_and_sound

DECODE, SAVE = "6", "8"
"""Node numbers in the two-step workflow."""

CORE_VAE = {"class_type": "TestTinyCoreVAE", "inputs": {"name": "Wan2.2_VAE.pth"}}
HALF_A_SHADE = 0.5 / 255

KEYS = Path(__file__).parents[1] / "keys" / "wan22_vae.json"


def without(graph: dict, *nodes: str) -> dict:
    return {number: node for number, node in graph.items() if number not in nodes}


def test_core_decodes_our_latent_to_the_pixels_that_we_decode_it_to(server, two_steps):
    graph = without(two_steps, "7", SAVE) | {
        "core vae": CORE_VAE,
        "core": {
            "class_type": "VAEDecode",
            "inputs": {"samples": [SAMPLER, 0], "vae": ["core vae", 0]},
        },
    }
    core, ours = server.kept(graph, ["core", 0], [DECODE, 0])
    assert core.shape == ours.shape == (FRAMES, SIDE, SIDE, 3)
    torch.testing.assert_close(ours, core, rtol=0, atol=HALF_A_SHADE + 1e-4)
    assert ours.std() > 0.05  # not two grey pictures


def test_core_has_the_same_names_and_shapes_at_full_size(comfyui):
    script = (
        "import sys, json; sys.argv = sys.argv[:1]; sys.path.insert(0, '.')\n"
        "import comfy.options; comfy.options.enable_args_parsing(False)\n"
        "import comfy.cli_args; comfy.cli_args.args.cpu = True\n"
        "import torch, comfy.ldm.wan.vae2_2 as core\n"
        "with torch.device('meta'):\n"
        "    vae = core.WanVAE(dim=160, z_dim=48, temperal_downsample=[False, True, True])\n"
        "print(json.dumps({k: list(v.shape) for k, v in vae.state_dict().items()}))\n"
    )
    command = [sys.executable, "-c", script]
    run = subprocess.run(
        command, cwd=comfyui, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    names = json.loads(run.stdout.splitlines()[-1])
    stored = json.loads(KEYS.read_text(encoding="utf-8"))["tensors"]
    assert names == {name: list(shape) for name, shape in stored.items()}


@pytest.mark.slow
def test_core_s_own_loader_at_published_widths_agrees_with_ours(comfyui):
    script = Path(__file__).with_name("full_width_vae.py")
    command = [sys.executable, str(script), str(comfyui), str(script.parents[2])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["shape"] == [5, 64, 64, 3]
    assert seen["spread"] > 0.1 and seen["latent_spread"] > 0.1  # something to compare
    assert seen["decode_error"] < 1e-5 and seen["encode_error"] < 1e-5


def test_joint_latents_made_by_core_of_ours_are_decoded_by_core_and_by_us(server, two_steps):
    joint = {"video_latent": [SAMPLER, 0], "audio_latent": [SAMPLER, 1]}
    graph = without(two_steps, "7", SAVE) | {
        "joint": {"class_type": "LTXVConcatAVLatent", "inputs": joint},
        "core vae": CORE_VAE,
        "core": {
            "class_type": "VAEDecode",
            "inputs": {"samples": ["joint", 0], "vae": ["core vae", 0]},
        },
    }
    graph[DECODE]["inputs"] = {"vae": [VAE, 0], "video_latent": ["joint", 0]}
    core, ours = server.kept(graph, ["core", 0], [DECODE, 0])
    torch.testing.assert_close(ours, core, rtol=0, atol=HALF_A_SHADE + 1e-4)


def test_core_takes_our_joint_latent_apart_again(server, two_steps):
    joint = {"video_latent": [SAMPLER, 0], "audio_latent": [SAMPLER, 1]}
    graph = without(two_steps, DECODE, "7", SAVE) | {
        "joint": {"class_type": "LTXVConcatAVLatent", "inputs": joint},
        "apart": {"class_type": "LTXVSeparateAVLatent", "inputs": {"av_latent": ["joint", 0]}},
    }
    values = server.kept(graph, *([n, s] for n in (SAMPLER, "apart") for s in (0, 1)))
    video, audio, video_again, audio_again = (value["samples"] for value in values)
    assert torch.equal(video, video_again) and torch.equal(audio, audio_again)


def test_images_and_audio_are_what_any_node_expects(server, two_steps, streaming):
    images, audio = server.kept(without(two_steps, "7", SAVE), [DECODE, 0], [DECODE, 1])
    assert images.dtype == torch.float32 and images.shape == (FRAMES, SIDE, SIDE, 3)
    assert images.is_contiguous() and images.device.type == "cpu"
    assert images.min() >= 0 and images.max() <= 1
    (streamed,) = server.kept(without(streaming, "6"), [SAMPLER, 1])
    for sound in (audio, streamed):
        wave = sound["waveform"]
        assert wave.dtype == torch.float32 and wave.shape == (1, 1, SAMPLES)
        assert wave.is_contiguous() and sound["sample_rate"] == SAMPLE_RATE
        assert wave.abs().max() <= 1


def test_our_video_can_be_taken_apart_and_put_together_by_core(server, streaming):
    graph = without(streaming, "6") | {
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": [SAMPLER, 0]}},
        "video": {
            "class_type": "CreateVideo",
            "inputs": {"images": ["parts", 0], "audio": ["parts", 1], "fps": ["parts", 2]},
        },
        "save": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["video", 0],
                "filename_prefix": "video/again",
                "format": "auto",
                "codec": "auto",
            },
        },
    }
    keep = {"class_type": "TestKeep", "inputs": {"value": ["parts", 0]}}
    outputs = server.run(graph | {"frames": keep})
    frames = torch.load(server.file(outputs["frames"]["kept"][0]), weights_only=True)
    assert frames.shape == (FRAMES, SIDE, SIDE, 3)
    frames, samples, size = picture_and_sound(server.file(outputs["save"]["images"][0]))
    assert (frames, size) == (FRAMES, (SIDE, SIDE))
    assert abs(samples - SAMPLES) <= 2 * 1024  # two AAC frames: decoded once, encoded twice


def test_our_video_knows_its_length_rate_and_size(server, streaming):
    graph = without(streaming, "6") | {
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": [SAMPLER, 0]}}
    }
    (rate,) = server.kept(graph, ["parts", 2])
    assert rate == 24.0


# ── Wrong types: one line that says what to do ─────────────────────────────────────────────────


def empty_latent(node: str, **inputs) -> dict:
    return {"class_type": node, "inputs": {"width": SIDE, "height": SIDE, "batch_size": 1} | inputs}


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (empty_latent("EmptyLatentImage"), "not the latents of one Hallo-Live clip"),
        (empty_latent("EmptyHunyuanLatentVideo", length=45), "16 and 20: latents of another model"),
    ],
    ids=["a picture's", "Wan 2.1's"],
)
def test_latents_of_another_model_are_not_decoded(server, two_steps, latent, words):
    graph = copy.deepcopy(two_steps) | {"other": latent}
    graph[DECODE]["inputs"]["video_latent"] = ["other", 0]
    error = server.error_of(graph)
    assert words in error and "Fix:" in error


def test_latents_of_picture_and_sound_in_each_others_place_are_not_decoded(server, two_steps):
    graph = copy.deepcopy(two_steps)
    graph[DECODE]["inputs"] |= {"video_latent": [SAMPLER, 1], "audio_latent": [SAMPLER, 0]}
    assert "connect both latents" in server.error_of(graph)


def test_a_socket_of_another_type_is_refused_before_anything_runs(server, two_steps):
    graph = copy.deepcopy(two_steps)
    graph[DECODE]["inputs"]["vae"] = [SAMPLER, 0]
    assert any("LATENT" in error for error in server.refusals(graph))
