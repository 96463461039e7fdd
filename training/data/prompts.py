"""Prompts of a table, each once, and their short names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hallo_live_core.errors import PromptError
from hallo_live_core.prompt_table import COLUMN, read_prompt_table

KEY_DIGITS = 16


def read_prompts(path: Path) -> list[str]:
    """The prompts of a table in file order: stripped, without empty ones and repeats.

    Raises:
        PromptError: the file is missing, has no such column, or no prompts.
    """
    prompts = unique(read_prompt_table(path))
    if not prompts:
        raise PromptError(f"{path} has no prompts", fix=f"fill the column {COLUMN}")
    return prompts


def unique(prompts: Iterable[str]) -> list[str]:
    """Stripped prompts without empty ones and repeats, the first of each kept."""
    stripped = (prompt.strip() for prompt in prompts)
    return list(dict.fromkeys(prompt for prompt in stripped if prompt))


def prompt_key(prompt: str) -> str:
    """A short name for a prompt that tells prompts apart."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:KEY_DIGITS]
