"""What ComfyUI's registry gets: the pack and nothing else, one version, and a check before it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tools.check_release import complaints

ROOT = Path(__file__).parents[2]
PACKED = {
    "CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "docs", "hallo_live_core", "locales",
    "nodes", "pyproject.toml", "requirements.txt", "subgraphs", "tools", "web", "workflows",
}  # fmt: skip
MAX_BYTES = 2_000_000
MAX_FILE_BYTES = 150_000

PROJECT = 'version = "1.2.3"\n[project.urls]\nRepository = "https://x"\nPublisherId = "me"\n'
CHANGELOG = "## [1.2.3] - 2026-11-22\n"


def git(*command: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no clone")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def packed() -> set[str]:
    """Files of the registry's archive: those of git, less what .comfyignore names."""
    ignored = git("--ignored", "--exclude-from=.comfyignore")
    return git("--exclude-standard") - ignored - {".comfyignore"}


def test_the_archive_holds_the_pack_and_nothing_else(packed):
    assert {name.split("/")[0] for name in packed} == PACKED
    assert {name for name in packed if name.startswith("tools/")} == {"tools/comfy_client.py"}
    docs = {name.split("/")[1] for name in packed if name.startswith("docs/")}
    assert docs == {"images", "users"}, "what users read, with its pictures"


def test_the_archive_is_small(packed):
    sizes = {name: (ROOT / name).stat().st_size for name in packed}
    assert sum(sizes.values()) < MAX_BYTES
    assert max(sizes.values()) < MAX_FILE_BYTES, max(sizes, key=lambda name: sizes[name])


def test_the_archive_holds_neither_links_nor_bytecode(packed):
    assert not [name for name in packed if (ROOT / name).is_symlink() or name.endswith(".pyc")]


def test_what_is_left_out_exists():
    lines = (ROOT / ".comfyignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    for rule in rules:
        assert any(ROOT.glob(rule.lstrip("!/"))), f"{rule} in .comfyignore names nothing"


def test_the_version_has_one_home(packed):
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for name in packed:
        if name.endswith((".py", ".js", ".mjs", ".md")) and name != "CHANGELOG.md":
            text = (ROOT / name).read_text(encoding="utf-8")
            assert f'"{version[1]}"' not in text, f"{name} repeats the version"


@pytest.mark.parametrize(
    ("tag", "project", "changelog", "words"),
    [
        ("v1.2.4", PROJECT, CHANGELOG, "'1.2.3'"),
        ("1.2.3", PROJECT, CHANGELOG, "'1.2.3'"),
        ("v1.2.3", PROJECT, "## [1.2.3] - unreleased\n", "no date"),
        ("v1.2.3", PROJECT, "## [1.2.2] - 2026-01-01\n", "no section"),
        ("v1.2.3", PROJECT.replace("PublisherId", "x"), CHANGELOG, "no PublisherId"),
        ("v1.2.3", PROJECT.replace("Repository", "x"), CHANGELOG, "no Repository"),
    ],
)
def test_a_tag_that_does_not_fit_is_not_published(tag, project, changelog, words):
    (found,) = complaints(tag, project, changelog)
    assert words in found


def test_a_tag_that_fits_is_published():
    assert complaints("v1.2.3", PROJECT, CHANGELOG) == []


def test_publishing_checks_the_tag_before_it_hands_the_pack_over():
    text = (ROOT / ".github/workflows/publish.yml").read_text()
    assert 'tags: ["v*"]' in text
    check, publish = (
        text.index(words) for words in ("run: make release TAG=", "Comfy-Org/publish-node-action@")
    )
    assert check < publish
    assert re.findall(r"\brun: (\S+)", text) == ["make"]
