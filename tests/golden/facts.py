"""What a golden file says of itself, and which of it a check has looked at."""

from __future__ import annotations

import re
from typing import Any

FOR_PEOPLE = re.compile(r"tensors|cases|tolerance|versions|float32_vs_float64|state_after_\w+")
"""Names of entries that measure, or that a check reads piece by piece."""


class Facts(dict[str, Any]):
    """The JSON of a golden file; it remembers what was read, so that nothing is passed over."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__({k: Facts(v) if isinstance(v, dict) else v for k, v in content.items()})
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, which then counts as seen."""
        self.seen.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        """All entries, which then count as seen."""
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        """All entries, which then count as seen."""
        return [self[name] for name in self]

    def passed_over(self) -> list[str]:
        """Sizes and switches that no check has looked at; texts are notes."""
        missed: list[str] = []
        for name, entry in super().items():
            if FOR_PEOPLE.fullmatch(name) or isinstance(entry, str):
                continue
            if isinstance(entry, Facts) and name in self.seen:
                missed += [f"{name}.{inner}" for inner in entry.passed_over()]
            elif name not in self.seen:
                missed.append(name)
        return missed
