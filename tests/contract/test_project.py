"""What the files around the code promise: dependencies, links, citations, tables, commands."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hallo_live_core.checkpoints.catalog import CATALOG, JUDGES, ModelFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACK = ("hallo_live_core", "nodes")
CODE = (*PACK, "training", "tests", "tools")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "training" / "README.md"]
)
COMES_WITH_COMFYUI = {"torch", "numpy", "einops", "safetensors", "tqdm", "PIL"}
COMFYUI_ITSELF = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server"}
ON_DEMAND = {"hallo_live_core/models/video_vae/norm_triton.py": {"triton"}}
"""Files that only functions import, once they know that the package is there."""
MAX_LINES = 400
MAX_GOLDEN_BYTES = 5e6


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def entries(path: Path) -> list[str]:
    """Lines of a file that are neither empty nor comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def imports_at_load(tree: ast.Module) -> Iterator[str]:
    """Top-level names of the packages that a module imports when it is imported itself."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def test_inside_comfyui_nothing_has_to_be_installed():
    assert entries(ROOT / "requirements.txt") == PROJECT["dependencies"] == []


def test_what_the_pack_imports_at_load_comes_with_comfyui():
    known = COMES_WITH_COMFYUI | COMFYUI_ITSELF | set(sys.stdlib_module_names)
    for path in python_files(*PACK):
        known_here = known | ON_DEMAND.get(name(path), set())
        foreign = set(imports_at_load(ast.parse(path.read_text()))) - known_here
        assert not foreign, f"{name(path)} imports {foreign} at load: import it in the function"


def test_nothing_in_the_pack_knows_torchaudio():
    for path in python_files(*PACK):
        assert "torchaudio" not in path.read_text(), name(path)


@pytest.mark.parametrize("file", [*CATALOG, *JUDGES], ids=lambda file: file.key)
def test_the_readme_tells_of_each_file_what_the_catalog_knows(file: ModelFile):
    rows = re.findall(
        rf"^\| `{re.escape(file.names[0])}`.*$", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) == 1
    facts = [f"]({file.url})", file.licence, file.sha256, file.size and f"{file.size:,}"]
    assert all(fact in rows[0] for fact in facts if fact)


def test_the_readme_says_that_the_sound_is_not_for_commercial_use():
    restricted = [file for file in CATALOG if file.non_commercial]
    assert restricted
    assert "non-commercial" in (ROOT / "README.md").read_text().lower()


def test_every_other_package_sits_in_an_extra():
    assert {"standalone", "train", "rewards", "dev"} <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    missing = [
        target
        for target in targets
        if not re.match(r"https?:|#", target)
        and not (page.parent / target.split("#")[0]).resolve().exists()
    ]
    assert not missing


def headings(page: Path) -> set[str]:
    """What links may name behind `#`: headings, lower case, with dashes for spaces."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_headings_lead_to_one(page: Path):
    links = re.findall(r"\]\(([^)\s:#]*)#([^)\s]+)\)", page.read_text())
    places = [((page.parent / file if file else page), heading) for file, heading in links]
    missing = [heading for target, heading in places if heading not in headings(target)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page: Path):
    """Paths in backticks, below the root or (`models/...`) below the core."""
    below_root = r"`((?:hallo_live_core|nodes|tests|tools|benchmarks|docs|workflows)/[^`*\s]*)`"
    below_core = r"`((?:models|sampling|decoding|state|functional|checkpoints)/[^`*<\s]*)`"
    text = page.read_text()
    named = [ROOT / path for path in re.findall(below_root, text)]
    named += [ROOT / "hallo_live_core" / path for path in re.findall(below_core, text)]
    assert [path for path in named if not path.exists()] == []


@pytest.mark.parametrize("path", python_files(*CODE), ids=name)
def test_cited_sections_exist(path: Path):
    """ "spec 01 §4" or "spec 03 §7, 04 §8" in a docstring can be looked up."""
    for text, section in re.findall(r"\b(0\d) §(\d+(?:\.\d+)?)", path.read_text()):
        pages = list((ROOT / "docs/spec").glob(f"{text}-*.md"))
        assert pages, f"there is no spec {text}"
        heading = rf"^#+ {re.escape(section)}\.? "
        assert re.search(heading, pages[0].read_text(), re.M), f"spec {text} has no §{section}"


@pytest.mark.parametrize("path", python_files(*CODE), ids=name)
def test_files_are_short(path: Path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_no_page_and_no_module_names_a_path_of_one_machine():
    private = re.compile(r"(?<![\w.~/:-])/(?:home|root|Users|work|mnt|srv)/")
    for path in [*PAGES, *python_files(*CODE), ROOT / "Makefile", ROOT / ".ci/run"]:
        assert not private.search(path.read_text()), name(path)


def test_automation_only_calls_make():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    commands = re.findall(r"\brun: (.+)", workflow) + re.findall(r"\bentry: (.+)", hooks)
    assert commands
    assert all(command.startswith("make ") for command in commands)


def test_every_make_target_that_is_mentioned_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for page in [*PAGES, ROOT / ".ci/run", ROOT / ".github/workflows/ci.yml"]:
        mentioned = set(
            re.findall(r"^\s*(?:- run: )?make ([a-z]+)|`make ([a-z]+)`", page.read_text(), re.M)
        )
        assert {a or b for a, b in mentioned} <= targets, name(page)


def test_the_changelog_speaks_of_this_version():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_one_that_is_named():
    assert PROJECT["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )


def test_the_reference_tensors_in_the_repository_stay_small():
    files = (ROOT / "tests" / "golden" / "data").rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) <= MAX_GOLDEN_BYTES
