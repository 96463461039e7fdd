"""What a node says of inputs that cannot work, before anything runs."""

from __future__ import annotations

from collections.abc import Callable

from ..hallo_live_core import HalloLiveError

REPEATED = "see above"


class Refusal(str):
    """Why inputs are refused, in full when it is told first, then in two words.

    The host writes it down once for every input that `validate_inputs` takes, and its page shows
    all of that.
    """

    __slots__ = ("_is_told",)

    def __str__(self) -> str:
        if getattr(self, "_is_told", False):
            return REPEATED
        self._is_told = True
        return super().__str__()


def accepted(check: Callable[[], object]) -> bool | str:
    """True if this check passes, else why it does not."""
    try:
        check()
    except HalloLiveError as error:
        return Refusal(error)
    return True
