"""What the file of a clip says of itself: its prompt, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping

OURS = "Hallo-Live "
"""How the comment begins in clips whose title is their prompt."""


def label(prompt: str, settings: str) -> dict[str, str]:
    """The metadata of a clip; settings: as `name=value`, with spaces between."""
    return {"title": prompt, "comment": OURS + settings}


def prompt_of(metadata: Mapping[str, str]) -> str:
    """The prompt that `label` stored; empty for clips of other origin."""
    ours = metadata.get("comment", "").startswith(OURS)
    return metadata.get("title", "") if ours else ""
