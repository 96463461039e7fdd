"""The shipped workflows as graphs, before `build_workflows.py` gives them ComfyUI's two forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

HUGGING_FACE = "https://huggingface.co/"
UMT5 = {
    "name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "url": HUGGING_FACE + "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/"
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "directory": "text_encoders",
}
VIDEO_VAE = {
    "name": "wan2.2_vae.safetensors",
    "url": HUGGING_FACE + "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/"
    "vae/wan2.2_vae.safetensors",
    "directory": "vae",
}
AUDIO_VAE = {
    "name": "v1-16.pth",
    "url": HUGGING_FACE + "hkchengrex/MMAudio/resolve/main/ext_weights/v1-16.pth",
    "directory": "vae",
}
VOCODER = {
    "name": "best_netG.pt",
    "url": HUGGING_FACE + "hkchengrex/MMAudio/resolve/main/ext_weights/best_netG.pt",
    "directory": "vae",
}
LIGHT_VAE = {
    "name": "taew2_2.safetensors",
    "url": "https://github.com/madebyollin/taehv/raw/main/safetensors/taew2_2.safetensors",
    "directory": "vae_approx",
}
TRANSFORMER = {
    "name": "hallolive_dit.pt",
    "url": HUGGING_FACE + "fudan-generative-ai/Hallo-Live",
    "directory": "diffusion_models",
}

TINY = {
    "transformer": "hallolive_dit.safetensors",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "video_vae": "Wan2.2_VAE.pth",
    "audio_vae": AUDIO_VAE["name"],
    "vocoder": VOCODER["name"],
}
"""What `make-tiny --comfyui` writes."""

SYNC_FILES = HUGGING_FACE + "ByteDance/LatentSync-1.6"

SEED = 42
"""Of every shipped workflow."""


@dataclass
class Node:
    """One box. `inputs` holds values, or (node, output index) for a link."""

    kind: str
    position: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    models: list[dict[str, str]] = field(default_factory=list)
    number: int = 0

    def __getitem__(self, output: int) -> tuple[Node, int]:
        return self, output


@dataclass
class Workflow:
    """A named graph."""

    name: str
    nodes: list[Node]
    note: str

    def __post_init__(self) -> None:
        for number, node in enumerate(self.nodes, start=1):
            node.number = number


def _loaders(*, light: bool = False) -> tuple[Node, Node, Node, Node]:
    """Model, text encoder, decoders, words. light: all that takes less memory."""
    model = Node(
        "HalloLiveModelLoader",
        (0, 0),
        (380, 190),
        {"model_name": TRANSFORMER["name"]}
        | ({"weight_dtype": "fp8_e4m3fn", "kv_cache": "fp8"} if light else {}),
        models=[TRANSFORMER],
    )
    clip = Node(
        "CLIPLoader",
        (0, 280),
        (380, 110),
        {"clip_name": UMT5["name"], "type": "wan"} | ({"device": "cpu"} if light else {}),
        models=[UMT5],
    )
    video_vae = LIGHT_VAE if light else VIDEO_VAE
    vae = Node(
        "HalloLiveVAELoader",
        (0, 470),
        (380, 150),
        {
            "video_vae": video_vae["name"],
            "audio_vae": AUDIO_VAE["name"],
            "vocoder": VOCODER["name"],
        },
        models=[video_vae, AUDIO_VAE, VOCODER],
    )
    text = Node("HalloLiveTextEncode", (430, 0), (420, 560), {"clip": clip[0]})
    return model, clip, vae, text


def _inputs(model: Node, positive: Node, **others: object) -> dict[str, Any]:
    """What every sampler is given."""
    return {"model": model[0], "positive": positive[0], "seed": SEED} | others


def _stream_sampler(inputs: dict[str, Any], *, height: int = 820) -> Node:
    return Node("HalloLiveStreamSampler", (900, 0), (480, height), inputs)


def _save(video: Node, ending: str = "", *, left: int = 1430) -> Node:
    """Saves the first output of `video` under a name that ends so."""
    inputs = {"video": video[0], "filename_prefix": f"video/hallo-live{ending}"}
    return Node("SaveVideo", (left, 0), (420, 420), inputs)


def from_prompt_to_clip(name: str, *, light: bool = False) -> Workflow:
    """Loaders, words and the stream sampler; what happens to the clip is left open."""
    model, clip, vae, text = _loaders(light=light)
    sampler = _stream_sampler(_inputs(model, text, vae=vae[0]))
    return Workflow(name, [model, clip, vae, text, sampler], note="")


def streaming() -> Workflow:
    """Everything in one node, which shows the clip while it is made."""
    nodes = from_prompt_to_clip("").nodes
    save = _save(nodes[-1])
    what = (
        "A sentence becomes a talking avatar. Picture and sound of each second are made together, "
        "decoded and played in the sampler while the next second is being made. Finish ends the "
        "clip early and keeps it; the finished clip goes to output/video."
    )
    return Workflow("Streaming avatar", [*nodes, save], what)


def first_frame() -> Workflow:
    """The streaming workflow, begun with a picture."""
    model, clip, vae, text = _loaders()
    picture = Node("LoadImage", (430, 610), (420, 330), {"image": "example.png"})
    sampler = _stream_sampler(_inputs(model, text, vae=vae[0], first_frame=picture[0]))
    save = _save(sampler, "-picture")
    what = (
        "The clip begins with your picture, cut around its centre to the clip's shape: choose a "
        "width and height of the same shape, multiples of 32, such as 992 x 512, 512 x 992 or "
        "704 x 704. Describe in the prompt who is in the picture. **The published model was not "
        "trained for this**, only the one it learned from: it may drift away from the face."
    )
    return Workflow("First frame", [model, clip, vae, text, sampler, save, picture], what)


def script() -> Workflow:
    """One stream that says several lines, one after the other."""
    model, clip, vae, text = _loaders()
    script = Node(
        "HalloLiveScript",
        (430, 610),
        (420, 400),
        {
            "clip": clip[0],
            "scene": text[1],
            "lines": "2 | Hello there!\n3 | This is one stream with a script.\n3 | Goodbye.",
        },
    )
    told = {"seconds": script[1], "window_blocks": 5, "clip": clip[0]}
    sampler = _stream_sampler(_inputs(model, script, vae=vae[0], **told), height=840)
    save = _save(sampler, "-script")
    what = (
        "Several lines in one stream: each is said for its seconds, in the scene of the text "
        "encode node. While it runs, a line under the player takes more. Let the last line stand "
        "without seconds and the stream goes on until you press Finish. It remembers five seconds, "
        "the first one always: memory and speed stay the same for ever. **The published model was "
        "trained on clips of five seconds**: beyond, words and lips fall apart."
    )
    return Workflow("Script", [model, clip, vae, text, sampler, save, script], what)


def two_steps() -> Workflow:
    """Latents first, then decoding, for those who want to do something in between."""
    model, clip, vae, text = _loaders()
    sampler = Node("HalloLiveSampler", (900, 0), (400, 320), _inputs(model, text))
    decode = Node(
        "HalloLiveDecode",
        (1350, 0),
        (320, 110),
        {"vae": vae[0], "video_latent": sampler[0], "audio_latent": sampler[1]},
    )
    create = Node(
        "CreateVideo",
        (1350, 170),
        (320, 100),
        {"images": decode[0], "audio": decode[1], "fps": 24.0},
    )
    save = _save(create, left=1720)
    what = (
        "The same clip in two steps: latents first, pictures and sound after that, as ordinary "
        "IMAGE and AUDIO for any other node. The video latent also fits VAE Decode with the Wan2.2 "
        "VAE. All pictures are held in memory: 6 MB per frame at 992 x 512."
    )
    nodes = [model, clip, vae, text, sampler, decode, create, save]
    return Workflow("Two steps with separate decode", nodes, what)


def best_of_four() -> Workflow:
    """Four seeds of one prompt; the judges choose."""
    model, clip, vae, text = _loaders()
    judges = Node("HalloLiveJudgeLoader", (0, 690), (380, 160))
    asked = {"judges": judges[0], "prompt": text[1], "takes": 4}
    inputs = _inputs(model, text, vae=vae[0], **asked)
    best = Node("HalloLiveBestOf", (900, 0), (420, 620), inputs)
    save = _save(best, "-best", left=1370)
    table = Node("PreviewAny", (1370, 470), (700, 220), {"source": best[3]}, title="Table")
    pictures = Node("PreviewImage", (1370, 740), (420, 260), {"images": best[4]}, title="All takes")
    what = (
        "Four takes of one prompt, with the seeds 42 to 45; those that fail in their first second "
        "are given up there. The judges choose: switch on lip sync, sound and picture in the judge "
        "loader. The best take goes to output/video, the table says why. Each judge needs its own "
        "files in models/judges: for lip sync **sfd_face.pth** and **syncnet_v2.model** from "
        f"[LatentSync]({SYNC_FILES}), folder auxiliary."
    )
    nodes = [model, clip, vae, text, best, save, judges, table, pictures]
    return Workflow("Best of four", nodes, what)


def low_vram() -> Workflow:
    """The streaming workflow with all that takes less memory."""
    nodes = from_prompt_to_clip("", light=True).nodes
    save = _save(nodes[-1], "-light")
    what = (
        "The streaming workflow for a smaller card. Four choices save memory, each can be undone "
        "alone: weight_dtype fp8_e4m3fn halves the transformer, kv_cache fp8 nearly halves what a "
        "run remembers, the light decoder "
        f"[taew2_2]({LIGHT_VAE['url']}) (models/vae_approx, in place of wan2.2_vae) needs a "
        "200th of the work, and the text encoder runs on the CPU. The picture is softer, the clip "
        "slightly another one than in 16 bits. If it is still too much: a smaller width and "
        "height first, fewer seconds second."
    )
    return Workflow("Small card", [*nodes, save], what)


def first_try() -> Workflow:
    """The streaming workflow with the tiny random model, for a first look on any machine."""
    model = Node("HalloLiveModelLoader", (0, 0), (380, 190), {"model_name": TINY["transformer"]})
    clip = Node(
        "HalloLiveTextEncoderLoader", (0, 280), (380, 90), {"text_encoder": TINY["text_encoder"]}
    )
    files = {name: TINY[name] for name in ("video_vae", "audio_vae", "vocoder")}
    vae = Node("HalloLiveVAELoader", (0, 440), (380, 150), files)
    text = Node("HalloLiveTextEncode", (430, 0), (420, 560), {"clip": clip[0]})
    sampler = _stream_sampler(_inputs(model, text, vae=vae[0], width=256, height=128))
    save = _save(sampler, "-try")
    what = (
        "A first look that needs no download, on any machine: a tiny model with **random weights** "
        "makes noise that moves and sounds. It shows that everything is connected, not what "
        "Hallo-Live can do. In the folder of this pack run **python -m hallo_live_core make-tiny "
        "--comfyui ../..** with ComfyUI's Python, press R here, and run. With the real files "
        "(below) load the workflow Streaming avatar."
    )
    return Workflow("First try", [model, clip, vae, text, sampler, save], what)


def workflows() -> list[Workflow]:
    """All shipped workflows."""
    return [
        first_try(),
        streaming(),
        two_steps(),
        first_frame(),
        script(),
        low_vram(),
        best_of_four(),
    ]
