"""Prompt tables: CSV, or TSV by the file's name, with a column `text_prompt` (spec 06 §2)."""

from __future__ import annotations

import csv
from pathlib import Path

from .errors import PromptError

COLUMN = "text_prompt"


def read_prompt_table(file: Path) -> list[str]:
    """The cells of the prompt column in file order, as they stand; an empty cell is "".

    Raises:
        PromptError: the file cannot be read, or has no such column, or no rows.
    """
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter)
            columns = reader.fieldnames or []
            if COLUMN not in columns:
                raise PromptError(
                    f"{file} has no column {COLUMN}",
                    found=", ".join(columns) or "no columns",
                    fix=f"name the column with the prompts {COLUMN}",
                )
            prompts = [row[COLUMN] or "" for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(
            f"Cannot read prompts from {file}", found=error, fix="name a CSV or TSV file in UTF-8"
        ) from error
    if not prompts:
        raise PromptError(f"{file} has no prompts", fix="write one into every line below the head")
    return prompts
