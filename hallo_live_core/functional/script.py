"""What is said when: a list of prompts, each for a while (spec 02 §9 item 3).

A prompt changes at a block's border: from there on the network reads the new one, and what it
remembers of the blocks before stays, unless the session looks at it again.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import HalloLiveError, RequestError, shortened
from ..prompts import check_prompt, estimate_speech_seconds, respeak, speech_of
from ..types import TextContext
from .request import MAX_SECONDS, SECONDS_PER_BLOCK

Said = str | TextContext
"""A prompt, or what an encoder made of one."""

NextSaid = Callable[[int], Said | None]
"""Asked before every block but the first, by number: what is said from there on; None: go on."""

MAX_LINES = 1000
"""Of a script."""

_TIMED = re.compile(r"\s*(\d+(?:\.\d+)?)\s*\|(.*)", re.DOTALL)
"""`4.5 | words`"""

_MISTIMED = re.compile(r"\s*([-+.,]?\d\S*)\s*\|.*", re.DOTALL)
"""What was meant so, and would be said aloud: `2s | words`, `2,5 | words`, `-1 | words`."""


@dataclass(frozen=True, slots=True)
class ScriptLine:
    """A prompt and for how long; None: until the stream ends.

    Seconds are rounded up to whole blocks of one second.
    """

    said: Said
    seconds: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.said, str):
            check_prompt(self.said)
        if self.seconds is None:
            return
        if not (isinstance(self.seconds, numbers.Real) and 0 < self.seconds <= MAX_SECONDS):
            raise RequestError(
                f"A line must last longer than 0 and at most {MAX_SECONDS} seconds",
                found=shortened(self.seconds),
                fix="give its seconds, such as 5, or leave them out in the last line",
            )

    @property
    def num_blocks(self) -> int | None:
        """Whole blocks; None: all that follow."""
        return None if self.seconds is None else math.ceil(self.seconds / SECONDS_PER_BLOCK)


class Script:
    """Lines one after the other; a `NextSaid`.

    Raises:
        RequestError: no line, too many, or one that is not the last and has no end.
    """

    def __init__(self, lines: Sequence[ScriptLine]) -> None:
        if not 1 <= len(lines) <= MAX_LINES:
            raise RequestError(
                f"A script has 1 to {MAX_LINES} lines",
                found=len(lines),
                fix="write lines such as 4 | Hello there.",
            )
        self.lines = tuple(lines)
        self._begins: dict[int, Said] = {}
        block = 0
        for number, line in enumerate(self.lines, 1):
            self._begins[block] = line.said
            if line.num_blocks is None and number < len(self.lines):
                raise RequestError(
                    "Only the last line of a script may last until the end",
                    found=f"line {number} has no seconds",
                    fix="say how many seconds it lasts",
                )
            block += line.num_blocks or 0

    @property
    def first(self) -> Said:
        """What is said at the beginning."""
        return self.lines[0].said

    @property
    def seconds(self) -> float:
        """How long all lines last; 0: the last one has no end."""
        counts = [line.num_blocks for line in self.lines]
        return 0 if None in counts else sum(n or 0 for n in counts) * SECONDS_PER_BLOCK

    def __call__(self, block: int) -> Said | None:
        """What is said from `block` on, if that is where a line begins."""
        return self._begins.get(block)


def script_of_text(text: str, scene: str) -> Script:
    """A script from lines such as `4 | Hello there.`: seconds, and what is said.

    Words are said in `scene`, a prompt; a line with tags is a prompt of its own. Without seconds a
    line takes as long as its words, and the last one goes on until the stream ends. Empty lines
    are left out.

    Raises:
        RequestError: there is no line, or one cannot be used; it is named.
    """
    rows = [(n, row) for n, row in enumerate(text.splitlines(), 1) if row.strip()]
    lines: list[ScriptLine] = []
    for number, row in rows:
        timed = _TIMED.fullmatch(row)
        try:
            if timed is None and (mistimed := _MISTIMED.fullmatch(row)):
                raise RequestError(
                    "What stands before | is no number of seconds",
                    found=shortened(mistimed[1]),
                    fix="write it as 2 | words or 2.5 | words",
                )
            said = respeak(scene, row if timed is None else timed[2])
            seconds = float(timed[1]) if timed else _speaking_seconds(said)
            is_open = timed is None and number == rows[-1][0]
            lines.append(ScriptLine(said, None if is_open else seconds))
        except HalloLiveError as error:
            raise RequestError(f"Line {number} of the script: {error}") from error
    return Script(lines)


def _speaking_seconds(prompt: str) -> float:
    return max(SECONDS_PER_BLOCK, estimate_speech_seconds(speech_of(prompt)))
