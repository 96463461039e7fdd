"""What people want to hear next in a stream that is running: "say this"."""

from __future__ import annotations

import math
import threading
from collections import deque

from ..errors import HalloLiveError
from ..functional.request import SECONDS_PER_BLOCK
from ..functional.script import NextSaid, Said
from ..prompts import estimate_speech_seconds, respeak, speech_of

MAX_WAITING = 16
"""Lines that may wait for their turn."""


class TooManyLinesError(HalloLiveError):
    """Enough lines wait for their turn."""


class Lines:
    """Lines from any thread, taken at the blocks' borders; a `NextSaid`.

    A line is held for as many blocks as its words take; then comes the next one that waits. Where
    none waits, `script` goes on, if there is one, and else the prompt stays as it is.

    prompt: of the stream; lines of plain words are said in its scene (`prompts.respeak`).
    """

    def __init__(self, prompt: str, script: NextSaid | None = None) -> None:
        self._prompt, self._script = prompt, script
        self._waiting: deque[str] = deque()
        self._lock = threading.Lock()
        self._free_from = 0

    def say(self, words: str) -> str:
        """Put a line into the queue: plain words, or a whole prompt with tags; returns the prompt.

        Raises:
            PromptError: its tags do not match, or it has no words.
            TooManyLinesError: enough lines wait.
        """
        prompt = respeak(self._prompt, words)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise TooManyLinesError(
                    "Too many lines are waiting to be said",
                    found=len(self._waiting),
                    fix="wait until one has been said",
                )
            self._waiting.append(prompt)
        return prompt

    @property
    def num_waiting(self) -> int:
        """Lines whose turn has not come."""
        return len(self._waiting)

    def __call__(self, block: int) -> Said | None:
        """What is said from `block` on; None: go on."""
        written = None if self._script is None else self._script(block)
        if block < self._free_from:
            return written
        with self._lock:
            if not self._waiting:
                return written
            prompt = self._waiting.popleft()
        seconds = estimate_speech_seconds(speech_of(prompt))
        self._free_from = block + max(1, math.ceil(seconds / SECONDS_PER_BLOCK))
        return prompt
