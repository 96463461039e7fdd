"""Prompt tables: CSV or TSV with a column `text_prompt` (spec 06 §2)."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path

from hallo_live_core.errors import PromptError

COLUMN = "text_prompt"
KEY_DIGITS = 16


def read_prompts(path: Path) -> list[str]:
    """The prompts of a table in file order: stripped, without empty ones and repeats.

    Raises:
        PromptError: the file is missing, has no such column, or no prompts.
    """
    path = Path(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter)
            columns = reader.fieldnames or []
            if COLUMN not in columns:
                raise PromptError(
                    f"{path} has no column {COLUMN}",
                    found=", ".join(columns) or "no columns",
                    fix=f"name the column with the prompts {COLUMN}",
                )
            prompts = unique(row[COLUMN] or "" for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(
            f"Prompts cannot be read from {path}", found=error, fix="name a CSV or TSV in UTF-8"
        ) from error
    if not prompts:
        raise PromptError(f"{path} holds no prompts", fix=f"fill the column {COLUMN}")
    return prompts


def unique(prompts: Iterable[str]) -> list[str]:
    """Stripped prompts without empty ones and repeats, the first of each kept."""
    stripped = (prompt.strip() for prompt in prompts)
    return list(dict.fromkeys(prompt for prompt in stripped if prompt))


def prompt_key(prompt: str) -> str:
    """A short name for a prompt that tells prompts apart."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:KEY_DIGITS]
