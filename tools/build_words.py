"""Write what people read about our nodes: other languages, and the pages of the help panel.

    python tools/read_schemas.py COMFYUI    when words or inputs of our nodes have changed
    python tools/build_words.py             (`build_workflows.py` does it, too)

English stands in the nodes themselves; `read_schemas.py` copies it into `tools/words/en.json`. The
other languages come from their files there, by the English text: a text that has changed is
English again until somebody translates it anew. Help pages come from `tools/help`, with tables of
inputs and outputs in place of {inputs} and {outputs}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ROOT / "locales"
WORDS = ROOT / "tools" / "words"
HELP = ROOT / "tools" / "help"
PAGES = ROOT / "web" / "docs"
SCHEMAS = ROOT / "tools" / "schemas.json"
LANGUAGES = ("zh", "ja", "ko")
FILE = "nodeDefs.json"
TABLES_ALONE = "{inputs}\n\n{outputs}\n"
"""Help of a node for which nobody has written any; tests do not let it pass."""

FORMATTING = "@{}|"
"""What the page's translations take for links, placeholders and plurals."""

Entries = dict[str, Any]


def translated(english: Entries, words: dict[str, dict[str, str]]) -> Entries:
    """The texts of all nodes in another language; English where there is no translation."""
    nodes, texts = words["nodes"], words["texts"]

    def sockets(entries: Entries) -> Entries:
        return {
            key: {
                "name": words["names"].get(entry["name"], entry["name"]),
                "tooltip": texts.get(entry["tooltip"], entry["tooltip"]),
            }
            for key, entry in entries.items()
        }

    return {
        node: {
            "display_name": nodes.get(entry["display_name"], entry["display_name"]),
            "description": texts.get(entry["description"], entry["description"]),
            "inputs": sockets(entry["inputs"]),
            "outputs": sockets(entry["outputs"]),
        }
        for node, entry in english.items()
    }


def untranslated(english: Entries, words: dict[str, dict[str, str]]) -> set[str]:
    """The English texts and names that this language lacks."""
    missing = set()
    for entry in english.values():
        sockets = [*entry["inputs"].values(), *entry["outputs"].values()]
        wanted = {
            "nodes": {entry["display_name"]},
            "names": {socket["name"] for socket in sockets},
            "texts": {entry["description"], *(socket["tooltip"] for socket in sockets)},
        }
        for kind, found in wanted.items():
            missing |= found - words[kind].keys()
    return missing


def help_page(entry: Entries, schema: dict[str, Any], source: str) -> str:
    """A page of the help panel. source: what was written by hand."""
    groups = schema["input"]
    known = groups.get("required", {}) | groups.get("optional", {})
    inputs = [
        (name, words["tooltip"], _kind(*known[name])) for name, words in entry["inputs"].items()
    ]
    outputs = [
        (words["name"], words["tooltip"], kind)
        for words, kind in zip(entry["outputs"].values(), schema["output"], strict=True)
    ]
    tables = {"inputs": _table("input", inputs), "outputs": _table("output", outputs)}
    head = f"# {entry['display_name']}\n\n{_plain(entry['description'])}\n\n"
    return head + source.format(**tables)


def _table(what: str, rows: list[tuple[str, str, str]]) -> str:
    """Two columns, because the panel is narrow."""
    title = f"## {what.capitalize()}s"
    if not rows:
        return f"{title}\n\nNone."
    lines = [f"| `{name}` | {_plain(text)} *{kind}* |" for name, text, kind in rows]
    return "\n".join([title, "", f"| {what} | what it is |", "| --- | --- |", *lines])


def _kind(kind: str, options: dict[str, Any]) -> str:
    """The type of an input, and its default where that says something."""
    value = options.get("default")
    if kind == "STRING" or value is None:
        return kind
    return f"{kind}, {str(value).lower() if isinstance(value, bool) else value}"


def _plain(text: str) -> str:
    """Text in which neither tags nor bars mean anything to Markdown."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def read(path: Path) -> dict[str, Any]:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def build() -> dict[Path, str]:
    """Every file and its content."""
    english, schemas = read(WORDS / "en.json"), read(SCHEMAS)
    locales = {"en": english}
    for language in LANGUAGES:
        locales[language] = translated(english, read(WORDS / f"{language}.json"))
    files = {
        LOCALES / language / FILE: as_json(for_the_page(entries))
        for language, entries in locales.items()
    }
    for node, entry in english.items():
        source = HELP / f"{node}.md"
        written = source.read_text(encoding="utf-8") if source.is_file() else TABLES_ALONE
        files[PAGES / f"{node}.md"] = help_page(entry, schemas[node], written)
    return files


def for_the_page(value: Any) -> Any:  # noqa: ANN401 - a tree of texts
    """The texts with their formatting characters marked as plain ones."""
    if isinstance(value, dict):
        return {name: for_the_page(inner) for name, inner in value.items()}
    return "".join(f"{{'{letter}'}}" if letter in FORMATTING else letter for letter in value)


def as_json(value: Entries) -> str:
    """How files of words and workflows are written."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them, and say what is not translated."""
    for path, text in build().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for language in LANGUAGES:
        for text in sorted(untranslated(read(WORDS / "en.json"), read(WORDS / f"{language}.json"))):
            print(f"not in {language}: {text}")


if __name__ == "__main__":
    main()
