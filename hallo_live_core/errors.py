"""Every error a user can cause: one line that says what happened, what was found, what to do."""

from __future__ import annotations

GIGA = 10**9
"""Bytes of a GB, as sizes are told everywhere."""

LONGEST_VALUE = 40
"""Characters of a wrong value that a message repeats."""


class HalloLiveError(Exception):
    """Base of all errors raised on purpose.

    The message is one line, because ComfyUI and most terminals show only the first:
    ``problem Found: found. Fix: fix.``
    """

    def __init__(self, problem: str, *, found: object = None, fix: str = "") -> None:
        parts = [_sentence(problem)]
        if found is not None:
            parts.append(f"Found: {_sentence(str(found))}")
        if fix:
            parts.append(f"Fix: {_sentence(fix)}")
        super().__init__(" ".join(parts))
        self.problem, self.found, self.fix = problem, found, fix


class RequestError(HalloLiveError):
    """A setting of a request cannot work; raised before work begins."""


class PromptError(HalloLiveError):
    """A prompt is empty or its tags do not match; names the position."""


class CheckpointError(HalloLiveError):
    """A weight file is missing, is another model, or does not fit; names file and keys."""


class ShapeError(HalloLiveError):
    """A tensor handed to the core has the wrong shape, width, dtype or device."""


class PositionError(HalloLiveError):
    """A position lies beyond the rotary tables or beyond the cache of a session."""


class MediaError(HalloLiveError):
    """A media file cannot be written or finished."""


class Cancelled(HalloLiveError):  # noqa: N818 - the field's word; nothing went wrong
    """The caller asked to stop; what was made before it stays valid."""

    def __init__(self) -> None:
        super().__init__("The run was cancelled")


def shortened(value: object) -> str:
    """A wrong value for a message, cut where it is too long."""
    try:
        text = str(value)
    except ValueError:  # Python refuses to write out numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


def gigabytes(nbytes: float) -> str:
    """Bytes for a message, with one decimal: 12.3 GB."""
    return f"{nbytes / GIGA:.1f} GB"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?", ":")) else text + "."
