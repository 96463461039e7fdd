"""Store the schemas of our nodes, and of the core nodes our workflows use, in `tools/schemas.json`.

    python tools/read_schemas.py COMFYUI

Their words go into `tools/words/en.json`, from where `build_words.py` takes them.

A script of its own process: it loads ComfyUI and the pack the way ComfyUI does.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "tools" / "schemas.json"
ENGLISH = ROOT / "tools" / "words" / "en.json"

KEPT_OPTIONS = ("default", "control_after_generate", "min", "max", "step", "multiline", "advanced")
"""Of an input's options those that the stored schemas keep; lists of files differ everywhere."""


def trim(info: dict[str, Any]) -> dict[str, Any]:
    """Of one entry of /object_info what the workflows and the snapshot need."""
    groups = {}
    for group in ("required", "optional"):
        entries = info["input"].get(group) or {}
        if entries:
            groups[group] = {name: _trim_input(entry) for name, entry in entries.items()}
    return {
        "display_name": info["display_name"],
        "input": groups,
        "output": list(info["output"]),
        "output_name": list(info["output_name"]),
    }


def words(info: dict[str, Any]) -> dict[str, Any]:
    """Of one entry of /object_info what people read, in the form of the host's locales."""
    inputs = {
        name: {"name": name, "tooltip": entry[1].get("tooltip", "")}
        for group in ("required", "optional")
        for name, entry in (info["input"].get(group) or {}).items()
    }
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": {
            str(slot): {"name": name, "tooltip": tooltip}
            for slot, (name, tooltip) in enumerate(outputs)
        },
    }


def _trim_input(entry: Any) -> list[Any]:  # noqa: ANN401 - the host's list or tuple
    kind, options = entry[0], (dict(entry[1]) if len(entry) > 1 else {})
    if not isinstance(kind, str):  # older nodes put the choices where the type stands
        kind, options = "COMBO", {"options": kind, **options}
    kept = {key: options[key] for key in KEPT_OPTIONS if options.get(key) is not None}
    if "default" in options.get("options", []):
        kept.setdefault("default", "default")
    return [kind, kept]


def read_schemas(comfyui: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schemas of a ComfyUI with this pack, and words of the pack, loaded here as the host does."""
    sys.path.insert(0, str(comfyui))
    importlib.import_module("comfy.options").enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    core = importlib.import_module("nodes")
    video = importlib.import_module("comfy_extras.nodes_video")
    schemas = {
        kind.__name__: kind.GET_NODE_INFO_V1() for kind in (video.CreateVideo, video.SaveVideo)
    }
    ours = {kind.__name__: kind.GET_NODE_INFO_V1() for kind in _pack_nodes()}
    schemas |= ours
    any_preview = importlib.import_module("comfy_extras.nodes_preview_any")
    older = [(core, name) for name in ("CLIPLoader", "LoadImage", "PreviewImage")]
    for module, name in [*older, (any_preview, "PreviewAny")]:
        schemas[name] = _older_node(module, name)
    trimmed = {name: trim(schemas[name]) for name in sorted(schemas)}
    return trimmed, {name: words(ours[name]) for name in sorted(ours)}


def _older_node(module: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - a module of the host
    """The schema of a core node in the form that nodes had before."""
    node = module.NODE_CLASS_MAPPINGS[name]
    return {
        "display_name": module.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
        "input": node.INPUT_TYPES(),
        "output": node.RETURN_TYPES,
        "output_name": getattr(node, "RETURN_NAMES", node.RETURN_TYPES),
    }


def _pack_nodes() -> list[Any]:
    name = "custom_nodes_x_hallo_live"
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit("the pack has no __init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)

    async def listed() -> list[Any]:
        return await (await module.comfy_entrypoint()).get_node_list()

    return asyncio.run(listed())


def main() -> None:
    """Read the schemas of the ComfyUI named on the command line."""
    for path, content in zip((SCHEMAS, ENGLISH), read_schemas(Path(sys.argv[1])), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
