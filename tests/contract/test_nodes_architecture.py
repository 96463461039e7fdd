"""Who may import what in `nodes/`, read from the source: it cannot be imported without ComfyUI."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = ROOT / "nodes"
FILES = sorted(NODES.glob("*.py"))
HOST_FILES = (
    "host.py",
    "host_devices.py",
    "host_media.py",
    "host_watch.py",
    "host_weights.py",
)
HOST_MODULES = {
    "comfy", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview",
    "node_helpers", "nodes", "server",
}  # fmt: skip
SCHEMA_NAMES = {"ComfyExtension", "io", "ui"}
"""Of comfy_api, what a node file needs to describe itself."""

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def imports(path: Path):
    """(level, module, imported names) of every import statement, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (
                node.level,
                node.module or "",
                {alias.asname or alias.name for alias in node.names},
            )


def exported() -> set[str]:
    """Every public name that the core's `__init__.py` imports."""
    core = ROOT / "hallo_live_core" / "__init__.py"
    names = set().union(*(names for _, _, names in imports(core)))
    return {name for name in names if not name.startswith("_")}


@every_file
def test_nodes_see_only_what_the_core_exports(path):
    for level, module, names in imports(path):
        assert not module.startswith("hallo_live_core.") or level == 0
        if level == 2:
            assert module == "hallo_live_core", f"{path.name} reaches into {module}"
            assert names <= exported(), f"{path.name}: {names - exported()}"


@every_file
def test_our_own_packages_are_imported_relatively(path):
    for level, module, _ in imports(path):
        if level == 0:
            assert module.split(".")[0] not in {"hallo_live_core", "training", "tests"}


@every_file
def test_only_the_host_files_call_the_host(path):
    if path.name in HOST_FILES:
        return
    for level, module, names in imports(path):
        top = module.split(".")[0]
        if level == 0:
            assert top not in HOST_MODULES, f"{path.name} imports {module}"
            assert top != "comfy_api" or names <= SCHEMA_NAMES, f"{path.name} imports {names}"


def test_host_names_are_looked_up_late():
    """`from comfy.x import y` would keep what the host rebinds at start-up."""
    for level, module, names in (line for name in HOST_FILES for line in imports(NODES / name)):
        if level == 0 and module.split(".")[0] in {"comfy", "folder_paths"}:
            assert not names or (module, names) == ("comfy.cli_args", {"args"}), module
