"""A graph folded into one node that ComfyUI offers in its node library: a subgraph blueprint."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

if __package__:
    from .workflow_graphs import Node, Workflow, from_prompt_to_clip
else:  # run as a script
    from workflow_graphs import Node, Workflow, from_prompt_to_clip

INPUT_NODE, OUTPUT_NODE = -10, -20
"""Numbers of a subgraph's edges, in every link that crosses them."""

EDGE_GAP = 200
"""Canvas units between the nodes inside and either edge."""

ROW = 24
"""Canvas units per input of the folded node."""

SIZE = (460, 320)
"""Of the folded node, without its inputs."""


@dataclass(frozen=True)
class Blueprint:
    """A folded graph.

    inputs: each outer input, and the (node, input) pairs inside that it feeds; outputs: outputs of
    nodes inside.
    """

    workflow: Workflow
    description: str
    inputs: dict[str, list[tuple[Node, str]]]
    outputs: list[tuple[Node, int]]


def talking_clip() -> Blueprint:
    """Words in, video out; the files are chosen outside, too."""
    workflow = from_prompt_to_clip("Hallo-Live talking clip")
    model, clip, vae, text, sampler = workflow.nodes
    inputs = {name: [(text, name)] for name in ("scene", "speech", "voice", "ambience")}
    inputs["seconds"] = [(sampler, "seconds"), (text, "seconds")]
    inputs |= {name: [(sampler, name)] for name in ("seed", "width", "height")}
    inputs |= {"model_name": [(model, "model_name")], "text_encoder": [(clip, "clip_name")]}
    inputs |= {name: [(vae, name)] for name in ("video_vae", "audio_vae", "vocoder")}
    description = "Scene, speech and sound in words become a talking clip, as one node."
    return Blueprint(workflow, description, inputs, [(sampler, 0), (sampler, 1)])


def to_blueprint(
    blueprint: Blueprint, nodes: list[dict[str, Any]], links: list[list[Any]]
) -> dict[str, Any]:
    """The file of a blueprint: a canvas with the folded node alone, and what is folded in it.

    nodes, links: the graph inside, drawn for a canvas. They are changed.
    """
    name = blueprint.workflow.name
    inside = [_named_link(*link) for link in links]
    inputs = [
        _input(place, outer, targets, nodes, inside)
        for place, (outer, targets) in enumerate(blueprint.inputs.items())
    ]
    outputs = [
        _output(place, source, slot, nodes, inside)
        for place, (source, slot) in enumerate(blueprint.outputs)
    ]
    folded = {
        "id": _id(name),
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": len(nodes),
            "lastLinkId": len(inside),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": INPUT_NODE, "bounding": _left_of(nodes, len(inputs))},
        "outputNode": {"id": OUTPUT_NODE, "bounding": _right_of(nodes, len(outputs))},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": inside,
        "extra": {},
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [_outside(folded)],
        "links": [],
        "groups": [],
        "config": {},
        "definitions": {"subgraphs": [folded]},
        "extra": {"BlueprintDescription": blueprint.description},
        "version": 0.4,
    }


def _input(
    place: int,
    outer: str,
    targets: list[tuple[Node, str]],
    nodes: list[dict[str, Any]],
    links: list[dict[str, Any]],
) -> dict[str, Any]:
    """An input of the folded node, linked to all that it feeds."""
    numbers, kind = [], ""
    for target, name in targets:
        sockets = nodes[target.number - 1]["inputs"]
        slot = next(i for i, socket in enumerate(sockets) if socket["name"] == name)
        kind = sockets[slot]["type"]
        sockets[slot]["link"] = len(links) + 1
        numbers.append(len(links) + 1)
        links.append(_named_link(numbers[-1], INPUT_NODE, place, target.number, slot, kind))
    return {"id": _id(f"in {outer}"), "name": outer, "type": kind, "linkIds": numbers}


def _output(
    place: int,
    source: Node,
    slot: int,
    nodes: list[dict[str, Any]],
    links: list[dict[str, Any]],
) -> dict[str, Any]:
    """An output of the folded node."""
    socket, number = nodes[source.number - 1]["outputs"][slot], len(links) + 1
    socket["links"].append(number)
    links.append(_named_link(number, source.number, slot, OUTPUT_NODE, place, socket["type"]))
    outer = {"id": _id(f"out {socket['name']}"), "name": socket["name"], "type": socket["type"]}
    return outer | {"linkIds": [number]}


def _outside(folded: dict[str, Any]) -> dict[str, Any]:
    """The folded node as it stands on a canvas."""
    inputs = [
        {
            "name": socket["name"],
            "type": socket["type"],
            "widget": {"name": socket["name"]},
            "link": None,
        }
        for socket in folded["inputs"]
    ]
    outputs = [
        {"name": socket["name"], "type": socket["type"], "links": []}
        for socket in folded["outputs"]
    ]
    width, height = SIZE
    return {
        "id": 1,
        "type": folded["id"],
        "pos": [0, 0],
        "size": [width, height + ROW * len(inputs)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "title": folded["name"],
        "properties": {},
        "widgets_values": [],
    }


def _named_link(
    number: int, source: int, slot: int, target: int, target_slot: int, kind: str
) -> dict[str, Any]:
    """A link in the form that subgraphs have."""
    return {
        "id": number,
        "origin_id": source,
        "origin_slot": slot,
        "target_id": target,
        "target_slot": target_slot,
        "type": kind,
    }


def _left_of(nodes: list[dict[str, Any]], rows: int) -> list[int]:
    left = min(node["pos"][0] for node in nodes)
    return [left - EDGE_GAP, 0, EDGE_GAP // 2, ROW * (rows + 1)]


def _right_of(nodes: list[dict[str, Any]], rows: int) -> list[int]:
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    return [right + EDGE_GAP // 2, 0, EDGE_GAP // 2, ROW * (rows + 1)]


def _id(name: str) -> str:
    """Always the same id for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"hallo-live/{name}"))
