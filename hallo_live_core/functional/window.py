"""How much of a stream is remembered: a clip of a few places whose last place is used for ever.

The first blocks take the places 0, 1, 2, ... as in a clip of that length. Once all are taken, every
further block stands at the last place, and before it begins, what lies behind the first `sink`
places moves up by one place; the oldest of that is forgotten. So the network meets no position that
a clip of `blocks` blocks does not have, and attention, which knows distances only, sees what it
would see if positions went on counting and the sink were carried along (spec 02 §4, §9).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RequestError


@dataclass(frozen=True, slots=True)
class Window:
    """`blocks` places, the block in work included; of them `sink` keep the first blocks."""

    blocks: int = 5
    sink: int = 1

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise RequestError("A window has at least one block", found=self.blocks, fix="use 5")
        if not 0 <= self.sink < self.blocks:
            raise RequestError(
                "The blocks that always stay leave no room in the window for the current one",
                found=f"{self.sink} of {self.blocks}",
                fix=f"let at most {self.blocks - 1} stay",
            )

    def place(self, block: int) -> int:
        """Where block number `block` stands when it is made."""
        return min(block, self.blocks - 1)

    def seen(self, block: int) -> tuple[int, ...]:
        """The blocks that block number `block` sees, oldest first, itself last."""
        if block < self.blocks:
            return tuple(range(block + 1))
        newest = block - (self.blocks - self.sink) + 1
        return (*range(self.sink), *range(newest, block + 1))
