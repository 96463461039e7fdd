"""The shipped workflows with tiny models, and what is known about the clips they make."""

import copy
import json
from pathlib import Path

import av

ROOT = Path(__file__).parents[2]
SECONDS, SIDE = 2, 64
FRAMES = 24 * SECONDS - 3
SAMPLE_RATE = 16_000
SAMPLES = round(FRAMES * SAMPLE_RATE / 24)

MODEL, CLIP, VAE, TEXT, SAMPLER = "1", "2", "3", "4", "5"
"""Node numbers in both workflows."""


def shipped(name: str) -> dict:
    """A workflow in API form."""
    path = ROOT / "workflows" / "api" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def tiny(name: str) -> dict:
    """A shipped API workflow with the tiny models, at a size a CPU makes in a moment."""
    return as_tiny(shipped(name))


def as_tiny(graph: dict) -> dict:
    """The same graph with the tiny models, and small."""
    graph[MODEL]["inputs"]["model_name"] = "hallolive_dit.safetensors"
    graph[CLIP] = {
        "class_type": "HalloLiveTextEncoderLoader",
        "inputs": {"text_encoder": "models_t5_umt5-xxl-enc-bf16.pth"},
    }
    graph[VAE]["inputs"]["video_vae"] = "Wan2.2_VAE.pth"
    graph[SAMPLER]["inputs"] |= {"seconds": SECONDS, "width": SIDE, "height": SIDE}
    return graph


def with_inputs(graph: dict, node: str, **inputs) -> dict:
    graph = copy.deepcopy(graph)
    graph[node]["inputs"] |= inputs
    return graph


def picture_and_sound(path) -> tuple[int, int, tuple[int, int]]:
    """Frames, samples and (width, height) of a clip, by decoding it."""
    with av.open(str(path)) as clip:
        video = clip.streams.video[0]
        frames = sum(1 for _ in clip.decode(video))
        size = (video.width, video.height)
    with av.open(str(path)) as clip:
        samples = sum(frame.samples for frame in clip.decode(audio=0))
        assert clip.streams.audio[0].sample_rate == SAMPLE_RATE
    return frames, samples, size
