"""Write every workflow in both of ComfyUI's forms from one description.

    python tools/read_schemas.py COMFYUI    when inputs of our nodes have changed
    python tools/build_workflows.py

`workflows/*.json` is for the canvas: widget values stand by position, so nobody should edit them
by hand. `workflows/api/*.json` is for POST /prompt.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "tools" / "schemas.json"
WORKFLOWS = ROOT / "workflows"

CORE_NODES = ("CLIPLoader", "CreateVideo", "PreviewAny", "PreviewImage", "SaveVideo")
CORE_VERSION = "0.8.0"
"""The oldest ComfyUI that has these nodes in this form."""

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEED_CONTROL = "fixed"
"""What follows a seed among the widget values: shipped workflows repeat themselves."""

NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}

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
TRANSFORMER = {
    "name": "hallolive_dit.pt",
    "url": HUGGING_FACE + "fudan-generative-ai/Hallo-Live",
    "directory": "diffusion_models",
}

SYNC_FILES = HUGGING_FACE + "ByteDance/LatentSync-1.6"

NOTE = ROOT / "tools" / "workflow_note.md"
"""What stands beside every graph; filled in with `str.format`."""


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


def _loaders() -> tuple[Node, Node, Node, Node]:
    model = Node(
        "HalloLiveModelLoader",
        (0, 0),
        (380, 130),
        {"model_name": TRANSFORMER["name"]},
        models=[TRANSFORMER],
    )
    clip = Node(
        "CLIPLoader",
        (0, 180),
        (380, 110),
        {"clip_name": UMT5["name"], "type": "wan"},
        models=[UMT5],
    )
    vae = Node(
        "HalloLiveVAELoader",
        (0, 340),
        (380, 150),
        {
            "video_vae": VIDEO_VAE["name"],
            "audio_vae": AUDIO_VAE["name"],
            "vocoder": VOCODER["name"],
        },
        models=[VIDEO_VAE, AUDIO_VAE, VOCODER],
    )
    text = Node("HalloLiveTextEncode", (430, 0), (420, 560), {"clip": clip[0]})
    return model, clip, vae, text


def streaming() -> Workflow:
    """Everything in one node, which shows the clip while it is made."""
    model, clip, vae, text = _loaders()
    sampler = Node(
        "HalloLiveStreamSampler",
        (900, 0),
        (480, 700),
        {"model": model[0], "positive": text[0], "vae": vae[0], "seed": 42},
    )
    save = Node(
        "SaveVideo",
        (1430, 0),
        (420, 420),
        {"video": sampler[0], "filename_prefix": "video/hallo-live"},
    )
    what = (
        "A sentence becomes a talking avatar. Picture and sound of each second are made together, "
        "decoded and played in the sampler while the next second is being made. Finish ends the "
        "clip early and keeps it; the finished clip goes to output/video."
    )
    return Workflow("Streaming avatar", [model, clip, vae, text, sampler, save], what)


def two_steps() -> Workflow:
    """Latents first, then decoding, for those who want to do something in between."""
    model, clip, vae, text = _loaders()
    sampler = Node(
        "HalloLiveSampler",
        (900, 0),
        (400, 320),
        {"model": model[0], "positive": text[0], "seed": 42},
    )
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
    save = Node(
        "SaveVideo",
        (1720, 0),
        (420, 420),
        {"video": create[0], "filename_prefix": "video/hallo-live"},
    )
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
    judges = Node("HalloLiveJudgeLoader", (0, 540), (380, 130))
    best = Node(
        "HalloLiveBestOf",
        (900, 0),
        (420, 620),
        {
            "model": model[0],
            "positive": text[0],
            "vae": vae[0],
            "judges": judges[0],
            "prompt": text[1],
            "takes": 4,
            "seed": 42,
        },
    )
    save = Node(
        "SaveVideo",
        (1370, 0),
        (420, 420),
        {"video": best[0], "filename_prefix": "video/hallo-live-best"},
    )
    table = Node("PreviewAny", (1370, 470), (700, 220), {"source": best[3]}, title="Table")
    pictures = Node("PreviewImage", (1370, 740), (420, 260), {"images": best[4]}, title="All takes")
    what = (
        "Four takes of one prompt, with the seeds 42 to 45; those that fail in their first second "
        "are given up there. The judges choose: switch on lip sync, sound and picture in the judge "
        "loader. The best take goes to output/video, the table says why. Each judge needs its own "
        "files in models/judges: for lip sync `sfd_face.pth` and `syncnet_v2.model` from "
        f"[LatentSync]({SYNC_FILES}), folder auxiliary."
    )
    nodes = [model, clip, vae, text, best, save, judges, table, pictures]
    return Workflow("Best of four", nodes, what)


def to_api(workflow: Workflow, schemas: dict[str, Any]) -> dict[str, Any]:
    """The form of POST /prompt."""
    graph = {}
    for node in workflow.nodes:
        inputs = {}
        for name, _, options in inputs_of(schemas[node.kind]):
            value = node.inputs.get(name, options.get("default"))
            if isinstance(value, tuple):
                value = [str(value[0].number), value[1]]
            if value is not None:
                inputs[name] = value
        title = node.title or schemas[node.kind]["display_name"]
        graph[str(node.number)] = {
            "inputs": inputs,
            "class_type": node.kind,
            "_meta": {"title": title},
        }
    return graph


def to_canvas(workflow: Workflow, schemas: dict[str, Any]) -> dict[str, Any]:
    """The form of the canvas."""
    links: list[list[Any]] = []
    nodes = [_canvas_node(node, schemas[node.kind], links) for node in workflow.nodes]
    for link in links:
        output = nodes[link[1] - 1]["outputs"][link[2]]
        output["links"].append(link[0])
        link[-1] = output["type"]  # an input may take any
    nodes.append(_canvas_note(workflow, len(nodes) + 1))
    return {
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def inputs_of(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, type and options of every input, in the order of the canvas."""
    return [
        (name, *schema["input"][group][name])
        for group in ("required", "optional")
        for name in schema["input"].get(group, {})
    ]


def _canvas_node(node: Node, schema: dict[str, Any], links: list[list[Any]]) -> dict[str, Any]:
    sockets: list[dict[str, Any]] = []
    widgets: list[dict[str, Any]] = []
    values: list[Any] = []
    linked_widgets: list[tuple[dict[str, Any], tuple[Node, int]]] = []
    for name, kind, options in inputs_of(schema):
        value = node.inputs.get(name, options.get("default"))
        if kind in WIDGET_TYPES:
            widgets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
            if isinstance(value, tuple):
                linked_widgets.append((widgets[-1], value))
                value = options.get("default")
            values.append(value)
            if options.get("control_after_generate"):
                values.append(SEED_CONTROL)
            continue
        socket = {"name": name, "type": kind, "link": None}
        if name in schema["input"].get("optional", {}):
            socket["shape"] = 7  # the hollow circle of an optional input
        if value is not None:
            source, slot = value
            socket["link"] = len(links) + 1
            links.append([len(links) + 1, source.number, slot, node.number, len(sockets), kind])
        sockets.append(socket)
    for widget, (source, slot) in linked_widgets:
        widget["link"] = len(links) + 1
        place = len(sockets) + widgets.index(widget)
        links.append([widget["link"], source.number, slot, node.number, place, widget["type"]])
    outputs = zip(schema["output_name"], schema["output"], strict=True)
    drawn = {
        "id": node.number,
        "type": node.kind,
        "pos": list(node.position),
        "size": list(node.size),
        "flags": {},
        "order": node.number - 1,
        "mode": 0,
        "inputs": sockets + widgets,
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in outputs],
        "properties": _properties(node),
        "widgets_values": values,
    }
    return drawn | ({"title": node.title} if node.title else {})


def _properties(node: Node) -> dict[str, Any]:
    core = node.kind in CORE_NODES
    properties: dict[str, Any] = {
        "cnr_id": "comfy-core" if core else "hallo-live",
        "ver": CORE_VERSION if core else _version(),
        "Node name for S&R": node.kind,
    }
    return properties | ({"models": node.models} if node.models else {})


def _canvas_note(workflow: Workflow, number: int) -> dict[str, Any]:
    text = NOTE.read_text(encoding="utf-8").format(
        title=workflow.name,
        what=workflow.note,
        transformer=TRANSFORMER["url"],
        umt5=UMT5["url"],
        video=VIDEO_VAE["url"],
        audio=AUDIO_VAE["url"],
        vocoder=VOCODER["url"],
    )
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [-520, 0],
        "size": [470, 620],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "About this workflow",
        "properties": {},
        "widgets_values": [text],
        **NOTE_COLOURS,
    }


def _version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("pyproject.toml names no version")
    return found[1]


def build(schemas: dict[str, Any]) -> dict[Path, str]:
    """Every file and its content."""
    files = {}
    for workflow in (streaming(), two_steps(), best_of_four()):
        name = f"{workflow.name}.json"
        files[WORKFLOWS / name] = _text(to_canvas(workflow, schemas))
        files[WORKFLOWS / "api" / name] = _text(to_api(workflow, schemas))
    return files


def _text(value: Any) -> str:  # noqa: ANN401 - anything JSON can hold
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all workflows."""
    for path, text in build(json.loads(SCHEMAS.read_text(encoding="utf-8"))).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
