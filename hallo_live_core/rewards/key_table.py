"""Renames published tensors by a short table that can be read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ..errors import CheckpointError

Value = TypeVar("Value")

Table = Iterable[tuple[str, str]]
"""Rows of a published name and ours, with the same placeholders in the same order: # stands for a
number, * for a word, ** for any rest. The first row that matches a whole name counts."""

PLACEHOLDERS = {"**": "(.+)", "*": r"(\w+?)", "#": r"(\d+)"}
PLACEHOLDER = re.compile(r"\*\*|\*|#")


def rename(name: str, table: Table, model: str) -> str:
    """Our name of one published tensor of `model`.

    Raises:
        CheckpointError: the model has no such tensor.
    """
    for published, ours in table:
        if match := re.fullmatch(_pattern(published), name):
            return _filled(ours, match.groups())
    raise CheckpointError(f"{model} has no such tensor", found=name)


def renamed(tensors: Mapping[str, Value], table: Table, model: str) -> dict[str, Value]:
    """The same tensors (or what else stands under their names) under ours; none is copied.

    Raises:
        CheckpointError: the model has no such tensor, or two names become one.
    """
    table = tuple(table)
    ours: dict[str, Value] = {}
    for name, tensor in tensors.items():
        new = rename(name, table, model)
        if new in ours:
            raise CheckpointError(f"Two tensors of the file are both {new} of {model}", found=name)
        ours[new] = tensor
    return ours


def inverted(table: Table) -> Table:
    """The table that leads back to the published names."""
    return tuple((ours, published) for published, ours in table)


def count(row: str, names: Iterable[str]) -> int:
    """How many different numbers stand for the # of `row`, the start of a name."""
    pattern = re.compile(_pattern(row))
    return len({match[1] for name in names if (match := pattern.match(name))})


def _filled(row: str, found: Iterable[str]) -> str:
    values = iter(found)
    return PLACEHOLDER.sub(lambda _: next(values), row)


def _pattern(row: str) -> str:
    parts = re.split(r"(\*\*|\*|#)", row)
    return "".join(PLACEHOLDERS.get(part) or re.escape(part) for part in parts)
