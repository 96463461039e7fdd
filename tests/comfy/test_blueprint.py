"""The folded graph in the host's node library: one node that stands for the streaming workflow."""

import json
from pathlib import Path

import pytest

from tools import build_workflows

from .canvas import Canvas
from .graphs import FRAMES, SAMPLER, as_tiny, picture_and_sound, shipped

ROOT = Path(__file__).parents[2]
(FILE,) = (ROOT / "subgraphs").glob("*.json")
SCHEMAS = json.loads((ROOT / "tools" / "schemas.json").read_text(encoding="utf-8"))
INSIDE = {"1", "2", "3", "4", "5"}
"""Numbers that the streaming workflow gives to what is folded here."""

CLICKS, LOOKS, LOOK_MS = 6, 50, 100
EDGES = {-10, -20}
SEED = 77


def folded() -> dict:
    (subgraph,) = json.loads(FILE.read_text(encoding="ascii"))["definitions"]["subgraphs"]
    return subgraph


def unfolded(outer: dict) -> dict:
    """What the page sends for the folded node with these values in its widgets."""
    subgraph = folded()
    links = {link["id"]: link for link in subgraph["links"]}
    graph = {}
    for node in subgraph["nodes"]:
        values = iter(node["widgets_values"])
        sources = {socket["name"]: links.get(socket["link"]) for socket in node["inputs"]}
        inputs = {}
        for name, kind, options in build_workflows.inputs_of(SCHEMAS[node["type"]]):
            if kind in build_workflows.WIDGET_TYPES:
                inputs[name] = next(values)
                if options.get("control_after_generate"):
                    next(values)
            if (link := sources.get(name)) is None:
                continue
            if link["origin_id"] in EDGES:
                inputs[name] = outer.get(
                    subgraph["inputs"][link["origin_slot"]]["name"], inputs[name]
                )
            else:
                inputs[name] = [str(link["origin_id"]), link["origin_slot"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def test_the_folded_graph_is_the_streaming_workflow():
    whole = shipped("Streaming avatar")
    assert unfolded({}) == {
        number: {key: whole[number][key] for key in ("class_type", "inputs")} for number in INSIDE
    }


def test_every_link_agrees_with_both_of_its_ends():
    subgraph = folded()
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        source, target = link["origin_id"], link["target_id"]
        start, end = (
            subgraph["inputs"][link["origin_slot"]]
            if source in EDGES
            else nodes[source]["outputs"][link["origin_slot"]],
            subgraph["outputs"][link["target_slot"]]
            if target in EDGES
            else nodes[target]["inputs"][link["target_slot"]],
        )
        assert start["type"] == end["type"] == link["type"]
        assert link["id"] in start.get("linkIds", start.get("links"))
        assert link["id"] in end.get("linkIds", [end.get("link")])


def test_one_length_serves_the_words_and_the_clip():
    graph = unfolded({"seconds": 3.0, "speech": "Three."})
    assert [graph[number]["inputs"]["seconds"] for number in ("4", "5")] == [3.0, 3.0]
    assert graph["4"]["inputs"]["speech"] == "Three."


def test_the_host_offers_it_in_its_node_library(server):
    ((number, entry),) = server.get("/global_subgraphs").items()
    assert entry["name"] == FILE.stem
    assert entry["info"]["node_pack"].endswith("ComfyUI-HalloLive")
    served = server.get(f"/global_subgraphs/{number}")
    assert json.loads(served["data"]) == json.loads(FILE.read_text(encoding="ascii"))


def test_the_folded_graph_makes_a_clip(server):
    graph = as_tiny(unfolded({"seed": SEED, "speech": "A folded hello."}))
    clip = server.run(graph)[SAMPLER]["video"][0]
    assert picture_and_sound(server.file(clip))[0] == FRAMES


def open_search(page):
    """The box for a node's name; a page that is still busy overhears a double click."""
    box = page.get_by_role("combobox").first
    for _ in range(CLICKS):
        page.mouse.dblclick(900, 500)
        for _ in range(LOOKS):
            if box.is_visible():
                return box
            page.wait_for_timeout(LOOK_MS)
    pytest.fail("the search does not open")


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "Nodes 2.0"])
def test_added_from_the_search_it_sends_what_its_widgets_say(browser, server, nodes_2):
    canvas = Canvas(browser, server, nodes_2=nodes_2)
    try:
        canvas.ask("() => window.app.graph.clear()")
        canvas.page.wait_for_timeout(1000)  # until the page has fetched the blueprints
        open_search(canvas.page).fill(FILE.stem)
        canvas.page.get_by_role("option").filter(has_text=FILE.stem).first.click()
        canvas.wait("window.app.graph.nodes.length === 1")
        words = {"speech": "Set outside.", "seed": SEED, "seconds": 3}
        canvas.ask(
            """(words) => {
                for (const widget of window.app.graph.nodes[0].widgets) {
                    if (!(widget.name in words)) continue;
                    widget.value = words[widget.name];
                    widget.callback?.(widget.value);
                }
            }""",
            words,
        )
        sent = json.loads(
            canvas.ask("async () => JSON.stringify((await window.app.graphToPrompt()).output)")
        )
        inside = {number.split(":")[-1]: node["inputs"] for number, node in sent.items()}
        wanted = {number: node["inputs"] for number, node in unfolded(words).items()}
        for number, inputs in wanted.items():
            values = {name: v for name, v in inputs.items() if not isinstance(v, list)}
            assert {name: inside[number][name] for name in values} == values
        assert canvas.complaints == []
    finally:
        canvas.close()
