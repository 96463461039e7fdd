"""How our workflows and our player look on ComfyUI's page; skipped without Chromium."""

import json
from pathlib import Path

import pytest

from .canvas import Canvas
from .graphs import SIDE
from .test_player import PLAYER, SAMPLER, tiny_canvas

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))

COVERED = """() => {
    const boxes = window.app.graph.nodes.map((node) => [node.title, ...node.getBounding()]);
    const overlap = (start, length, other, otherLength) =>
        Math.min(start + length, other + otherLength) - Math.max(start, other) > 1;
    return boxes.flatMap(([name, x, y, w, h], i) => boxes.slice(i + 1)
        .filter(([, X, Y, W, H]) => overlap(x, w, X, W) && overlap(y, h, Y, H))
        .map(([other]) => `${name} and ${other}`));
}"""
"""Pairs of nodes that lie upon each other, at the sizes that the page gives them."""

MEASURE = """(selector) => {
    const { offsetWidth, offsetHeight } = document.querySelector(selector);
    return [offsetWidth, offsetHeight];
}"""


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "Nodes 2.0"])
def canvas(request, browser, server):
    canvas = Canvas(browser, server, nodes_2=request.param)
    yield canvas
    canvas.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_covers_another(canvas, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    canvas.open(graph)
    canvas.wait(f"window.app.graph.nodes.length === {len(graph['nodes'])}")
    canvas.page.wait_for_timeout(500)  # nodes grow to what is in them once they are drawn
    canvas.page.keyboard.press("Escape")  # the list of files that are missing here
    assert canvas.ask(COVERED) == []


def test_a_portrait_does_not_push_the_buttons_out_of_sight(canvas):
    graph = tiny_canvas(seed=301, seconds=1)
    (sampler,) = (node for node in graph["nodes"] if node["type"] == SAMPLER)
    sampler["widgets_values"][4] = 2 * SIDE
    canvas.open(graph)
    canvas.wait("document.querySelector('.hl-player') !== null")
    canvas.press_run()
    canvas.wait("document.querySelector('.hl-video').videoHeight > 0")
    canvas.page.wait_for_timeout(300)
    width, height = canvas.ask(MEASURE, ".hl-stage")
    assert 0 < height <= width
    assert canvas.ask(MEASURE, ".hl-video") == [width, height]


def test_a_new_node_has_room_for_a_picture(canvas):
    canvas.ask("() => window.app.graph.clear()")
    canvas.ask(
        f"() => window.app.graph.add(window.LiteGraph.createNode('{PLAYER}'))",
    )
    canvas.wait("document.querySelector('.hl-stage')?.offsetWidth > 0")
    canvas.page.wait_for_timeout(300)
    width, height = canvas.ask(MEASURE, ".hl-stage")
    assert width >= 360 and height >= 180
