"""Say what keeps a tag from being published in ComfyUI's registry.

    python tools/check_release.py v0.1.0

The registry takes the version from pyproject.toml, once and for ever; so it must be the tag's, the
changelog must tell of it, and the registry must know whose pack this is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def complaints(tag: str, project: str, changelog: str) -> list[str]:
    """What is wrong, a sentence each; empty if the tag can be published.

    project, changelog: the texts of pyproject.toml and CHANGELOG.md.
    """
    found = []
    version = _value(project, "version")
    if tag != f"v{version}":
        found.append(f"The tag is {tag!r}, but pyproject.toml says version {version!r}.")
    heading = re.search(rf"^## \[{re.escape(version)}\] - (.+)$", changelog, re.MULTILINE)
    if heading is None:
        found.append(f"CHANGELOG.md has no section [{version}].")
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading[1]):
        found.append(f"The section [{version}] of CHANGELOG.md has no date but {heading[1]!r}.")
    for name in ("PublisherId", "Repository"):
        if not _value(project, name):
            found.append(f"pyproject.toml has no {name}: see docs/releasing.md.")
    return found


def _value(project: str, name: str) -> str:
    found = re.search(rf'^{name} = "(.+)"$', project, re.MULTILINE)
    return "" if found is None else found[1]


def main() -> None:
    """Check the tag named on the command line."""
    texts = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md")
    )
    if found := complaints(sys.argv[1], *texts):
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
