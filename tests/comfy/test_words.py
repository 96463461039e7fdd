"""What people read about the nodes: help pages and languages, as files, as served, as shown."""

import copy
import json
import re
import urllib.request
from pathlib import Path

import pytest

from tools import build_words
from tools.read_schemas import words

from .canvas import Canvas

ROOT = Path(__file__).parents[2]
SCHEMAS = json.loads((ROOT / "tools" / "schemas.json").read_text(encoding="utf-8"))
OURS = sorted(name for name in SCHEMAS if name.startswith("HalloLive"))
LANGUAGES = ("en", *build_words.LANGUAGES)
SCRIPTS = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af]"}
"""Letters without which a sentence is not in that language."""

FILES = build_words.build()
"""Path and text of all that `tools/build_words.py` writes."""

ENGLISH = build_words.read(build_words.WORDS / "en.json")
PLAIN = r"\{'[@{}|]'\}"
"""A formatting character, marked as one that is none."""

MAX_UNTRANSLATED = 0.1
"""Of the texts; those that have just changed may be English for a while."""

FACT = r"models/\w+|fp8\w*|\w+\.(?:pth|model)|\d[\d.]*\d"
"""What is the same in every language: folders, formats, files, numbers."""

RUN = "run tools/read_schemas.py COMFYUI and tools/build_words.py"


def locale(language: str) -> dict:
    return build_words.read(ROOT / "locales" / language / "nodeDefs.json")


def keys(value) -> object:
    return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def texts(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for inner in value.values() for text in texts(inner)]


def inputs_of(node: str) -> list[str]:
    groups = SCHEMAS[node]["input"]
    return [*groups.get("required", {}), *groups.get("optional", {})]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_are_what_the_script_writes(path):
    assert path.read_text(encoding="utf-8") == FILES[path], "run tools/build_words.py"


def test_nothing_else_lies_among_them():
    pages = {page.stem for page in (ROOT / "web" / "docs").iterdir()}
    sources = {source.stem for source in build_words.HELP.iterdir()}
    assert pages == sources == set(OURS)
    assert {folder.name for folder in (ROOT / "locales").iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("node", OURS)
def test_every_node_has_help_for_each_of_its_inputs_and_outputs(node):
    page = (ROOT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")
    for name in [*inputs_of(node), *SCHEMAS[node]["output_name"]]:
        assert f"| `{name}` |" in page, name
    for heading in ("## Inputs", "## Outputs", "## Example", "## Common mistakes"):
        assert heading in page
    outside_code = re.sub(r"`[^`]*`", "", page)
    assert "<" not in outside_code, "a page would take it for a tag"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys(language):
    assert keys(locale(language)) == keys(locale("en"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_and_input_is_in_every_language(language):
    entries = locale(language)
    assert sorted(entries) == OURS
    for node in OURS:
        assert set(entries[node]["inputs"]) == set(inputs_of(node))
        assert len(entries[node]["outputs"]) == len(SCHEMAS[node]["output"])
    assert all(texts(entries))
    bare = [re.sub(PLAIN, "", text) for text in texts(entries)]
    assert not [text for text in bare if set(build_words.FORMATTING) & set(text)]


@pytest.mark.parametrize("language", build_words.LANGUAGES)
def test_a_language_is_that_language(language):
    words_of = build_words.read(build_words.WORDS / f"{language}.json")
    missing = build_words.untranslated(ENGLISH, words_of)
    assert len(missing) <= MAX_UNTRANSLATED * len(words_of["texts"]), missing
    for english, text in words_of["texts"].items():
        assert re.search(SCRIPTS[language], text), english


@pytest.mark.parametrize("language", build_words.LANGUAGES)
def test_numbers_and_names_of_files_survive_translation(language):
    words_of = build_words.read(build_words.WORDS / f"{language}.json")
    for english, text in words_of["texts"].items():
        for fact in re.findall(FACT, english):
            assert fact in text, (fact, text)


def test_a_changed_text_is_english_again_and_not_what_it_was():
    english = copy.deepcopy(ENGLISH)
    english["HalloLiveLora"]["description"] = "Now it does something else."
    there = build_words.translated(english, build_words.read(build_words.WORDS / "ja.json"))
    assert there["HalloLiveLora"]["description"] == "Now it does something else."
    assert there["HalloLiveLora"]["display_name"] == "Hallo-Live LoRA"


def test_english_is_what_the_nodes_say(facts):
    told = {name: words(info) for name, info in facts["nodes"].items()}
    assert json.loads(json.dumps(told)) == ENGLISH, RUN


def test_the_host_serves_every_language(server):
    served = server.get("/i18n")
    for language in LANGUAGES:
        ours = {name: served[language]["nodeDefs"][name] for name in OURS}
        assert ours == locale(language)


@pytest.mark.parametrize("node", OURS)
def test_the_host_serves_every_help_page_where_the_panel_looks(server, pack, node):
    place = f"http://127.0.0.1:{server.port}/extensions/{pack.name}/docs/{node}.md"
    with urllib.request.urlopen(place, timeout=30) as answer:
        shown = answer.read().decode()
    assert shown == (ROOT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")


@pytest.fixture
def speaking(browser, server):
    """Opens the page in a language, and goes back to English afterwards."""
    canvases = []

    def open_page(language: str) -> Canvas:
        server.post("/settings/Comfy.Locale", language)
        canvases.append(Canvas(browser, server))
        return canvases[-1]

    yield open_page
    server.post("/settings/Comfy.Locale", "en")
    for canvas in canvases:
        canvas.close()
        assert canvas.complaints == []


def add_node(canvas: Canvas, kind: str) -> None:
    canvas.ask(
        """(kind) => {
            window.app.graph.clear();
            const node = window.LiteGraph.createNode(kind);
            node.pos = [300, 300]; // with room for its buttons
            window.app.graph.add(node);
            Object.assign(window.app.canvas.ds, { scale: 0.8, offset: [200, 100] });
            window.app.canvas.selectNode(node);
        }""",
        kind,
    )


def test_the_page_s_translator_gives_every_tooltip_back_as_it_was_written(speaking):
    """Bars, braces and tags included."""
    wanted = {
        f"nodeDefs.{node}.inputs.{name}.tooltip": socket["tooltip"]
        for node, entry in ENGLISH.items()
        for name, socket in entry["inputs"].items()
    }
    told = speaking("en").ask(
        """(keys) => {
            const page = document.querySelector("#vue-app").__vue_app__;
            return keys.map((key) => page.config.globalProperties.$t(key));
        }""",
        list(wanted),
    )
    assert dict(zip(wanted, told, strict=True)) == wanted


@pytest.mark.parametrize("language", build_words.LANGUAGES)
def test_the_page_shows_a_node_in_the_language_of_its_user(speaking, language):
    canvas = speaking(language)
    add_node(canvas, "HalloLiveLora")
    wanted = locale(language)["HalloLiveLora"]["inputs"]
    labels = canvas.ask("() => window.app.graph.nodes[0].widgets.map((widget) => widget.label)")
    assert labels == [wanted["lora_name"]["name"], wanted["strength"]["name"]]


def test_the_help_panel_shows_the_page_with_its_tags(speaking, tmp_path):
    canvas = speaking("en")
    add_node(canvas, "HalloLiveTextEncode")
    canvas.page.get_by_test_id("info-button").click()
    panel = canvas.page.locator(".node-help-content")
    panel.get_by_text("Common mistakes").wait_for()
    text = panel.inner_text()
    assert "<S>speech<E>" in text and "raw_prompt" in text
    canvas.shoot("help", tmp_path)
    # It asks for a page in the user's language first, and takes the common one when there is none.
    canvas.complaints[:] = [words for words in canvas.complaints if "/en.md" not in words]
