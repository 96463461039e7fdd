"""Workflows as files: both forms say the same, and both come from the script. Needs no ComfyUI."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tools import build_workflows

ROOT = Path(__file__).parents[2]
CANVAS = sorted((ROOT / "workflows").glob("*.json"))
SCHEMAS = json.loads((ROOT / "tools" / "schemas.json").read_text(encoding="utf-8"))
SEED_CONTROLS = {"fixed", "increment", "decrement", "randomize"}
NOTES = {"MarkdownNote", "Note"}

MADE_HERE = {"First try"}
"""Workflows whose files are made by a command, not downloaded."""

any_workflow = pytest.mark.parametrize("path", CANVAS, ids=lambda path: path.stem)


def canvas_to_api(workflow: dict) -> dict:
    """What the browser sends for a canvas, written from the host's rules, not from our script.

    Widgets take `widgets_values` in the order of the schema; a seed is followed by its control.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values = iter(node["widgets_values"])
        linked = {i["name"]: i["link"] for i in node["inputs"] if i["link"] is not None}
        groups = SCHEMAS[node["type"]]["input"]
        inputs = {}
        for name, (kind, options) in (groups["required"] | groups.get("optional", {})).items():
            if kind in {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}:
                inputs[name] = next(values)
                if options.get("control_after_generate"):
                    assert next(values) in SEED_CONTROLS
            if name in linked:
                inputs[name] = links[linked[name]]
        assert next(values, None) is None, f"{node['type']} has too many widget values"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_workflows():
    assert len(CANVAS) >= 4


@pytest.mark.parametrize(
    ("path", "text"),
    build_workflows.build(SCHEMAS).items(),
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_files_are_what_the_script_writes(path, text):
    assert path.read_text(encoding="utf-8") == text, "run python tools/build_workflows.py"


def test_no_file_was_written_by_anything_else():
    written = set(build_workflows.build(SCHEMAS))
    found = [(ROOT / folder).rglob("*.json") for folder in ("workflows", "subgraphs")]
    assert written == set().union(*found)


@any_workflow
def test_both_forms_say_the_same(path):
    api = load(path.parent / "api" / path.name)
    bare = {number: {k: node[k] for k in ("class_type", "inputs")} for number, node in api.items()}
    assert canvas_to_api(load(path)) == bare


@any_workflow
def test_links_agree_with_both_of_their_ends(path):
    workflow = load(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, target_slot, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][target_slot]["link"] == number
        accepted = nodes[target]["inputs"][target_slot]["type"]
        assert kind in accepted.split(",") or accepted == "*"


@any_workflow
def test_seeds_are_fixed_so_that_everyone_sees_the_same_clip(path):
    for node in load(path)["nodes"]:
        for value in node["widgets_values"]:
            assert value not in SEED_CONTROLS - {"fixed"}


@any_workflow
def test_a_note_explains_the_graph(path):
    (note,) = (node for node in load(path)["nodes"] if node["type"] in NOTES)
    text = note["widgets_values"][0]
    for word in ("Files", "Memory", "hallolive_dit.pt"):
        assert word in text
    assert "`" not in text  # Nodes 2.0 draw code in blue on the note's colour: unreadable


@any_workflow
def test_a_small_picture_stands_for_it_among_the_templates(path):
    file = path.with_suffix(".jpg")
    assert file.is_file(), "run tools/make_thumbnails.py"
    assert file.stat().st_size < 40_000
    with Image.open(file) as picture:
        assert picture.format == "JPEG" and picture.size == (512, 288)


@any_workflow
def test_every_file_that_a_loader_names_says_where_it_comes_from(path):
    for node in load(path)["nodes"]:
        properties = node.get("properties", {})
        offered = {model["name"] for model in properties.get("models", [])}
        named = {
            v for v in node["widgets_values"] if str(v).endswith((".pt", ".pth", ".safetensors"))
        }
        assert named == offered or (path.stem in MADE_HERE and not offered)
        for model in properties.get("models", []):
            assert model["url"].startswith("https://")
            assert model["directory"] in {
                "diffusion_models",
                "text_encoders",
                "vae",
                "vae_approx",
            }


@any_workflow
def test_every_node_names_its_pack(path):
    for node in load(path)["nodes"]:
        if node["type"] not in NOTES:
            ours = node["type"].startswith("HalloLive")
            assert node["properties"]["cnr_id"] == ("hallo-live" if ours else "comfy-core")
            assert node["properties"]["ver"]
