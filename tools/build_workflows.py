"""Write every workflow in both of ComfyUI's forms from one description.

    python tools/read_schemas.py COMFYUI    when inputs of our nodes have changed
    python tools/build_workflows.py

`workflows/*.json` is for the canvas: widget values stand by position, so nobody should edit them
by hand. `workflows/api/*.json` is for POST /prompt, `subgraphs/*.json` for the node library.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

if __package__:
    from . import build_words
    from . import workflow_blueprint as blueprints
    from . import workflow_graphs as graphs
else:  # run as a script
    import build_words
    import workflow_blueprint as blueprints
    import workflow_graphs as graphs

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
SUBGRAPHS = ROOT / "subgraphs"

CORE_NODES = (
    "CLIPLoader",
    "CreateVideo",
    "LoadImage",
    "PreviewAny",
    "PreviewImage",
    "SaveVideo",
)
CORE_VERSION = "0.8.0"
"""The oldest ComfyUI that has these nodes in this form."""

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEED_CONTROL = "fixed"
"""What follows a seed among the widget values: shipped workflows repeat themselves."""

NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}

NOTE = ROOT / "tools" / "workflow_note.md"
"""What stands beside every graph; filled in with `str.format`."""


def to_api(workflow: graphs.Workflow, schemas: dict[str, Any]) -> dict[str, Any]:
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


def draw(
    workflow: graphs.Workflow, schemas: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """Nodes and links of a canvas."""
    links: list[list[Any]] = []
    nodes = [_canvas_node(node, schemas[node.kind], links) for node in workflow.nodes]
    for link in links:
        output = nodes[link[1] - 1]["outputs"][link[2]]
        output["links"].append(link[0])
        link[-1] = output["type"]  # an input may take any
    return nodes, links


def to_canvas(workflow: graphs.Workflow, schemas: dict[str, Any]) -> dict[str, Any]:
    """The form of the canvas."""
    nodes, links = draw(workflow, schemas)
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


def _canvas_node(
    node: graphs.Node, schema: dict[str, Any], links: list[list[Any]]
) -> dict[str, Any]:
    sockets: list[dict[str, Any]] = []
    widgets: list[dict[str, Any]] = []
    values: list[Any] = []
    linked_widgets: list[tuple[dict[str, Any], tuple[graphs.Node, int]]] = []
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


def _properties(node: graphs.Node) -> dict[str, Any]:
    core = node.kind in CORE_NODES
    properties: dict[str, Any] = {
        "cnr_id": "comfy-core" if core else "hallo-live",
        "ver": CORE_VERSION if core else _version(),
        "Node name for S&R": node.kind,
    }
    return properties | ({"models": node.models} if node.models else {})


def _canvas_note(workflow: graphs.Workflow, number: int) -> dict[str, Any]:
    text = NOTE.read_text(encoding="utf-8").format(
        title=workflow.name,
        what=workflow.note,
        transformer=graphs.TRANSFORMER["url"],
        umt5=graphs.UMT5["url"],
        video=graphs.VIDEO_VAE["url"],
        audio=graphs.AUDIO_VAE["url"],
        vocoder=graphs.VOCODER["url"],
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
    for workflow in graphs.workflows():
        name = f"{workflow.name}.json"
        files[WORKFLOWS / name] = build_words.as_json(to_canvas(workflow, schemas))
        files[WORKFLOWS / "api" / name] = build_words.as_json(to_api(workflow, schemas))
    blueprint = blueprints.talking_clip()
    folded = blueprints.to_blueprint(blueprint, *draw(blueprint.workflow, schemas))
    # The host reads these files in the encoding of its system, so they hold ASCII only.
    files[SUBGRAPHS / f"{blueprint.workflow.name}.json"] = json.dumps(folded, indent=2) + "\n"
    return files


def main() -> None:
    """Write all workflows, and the words about their nodes."""
    for path, text in build(build_words.read(build_words.SCHEMAS)).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    build_words.main()


if __name__ == "__main__":
    main()
