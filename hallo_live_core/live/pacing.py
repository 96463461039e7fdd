"""How a run keeps up with the clock on the wall: decisions from timestamps, without a clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

STALL_SECONDS = 20.0
"""A viewer who takes no byte for so long is dropped."""

SESSION_SECONDS = 600.0
"""A stream is forgotten so long after its end."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a run has made, and when. Times are readings of one monotonic clock, in seconds.

    started: the run began; first, last: the first and the newest chunk came; made: seconds of clip.
    """

    started: float
    first: float | None = None
    last: float | None = None
    made: float = 0.0

    def after(self, made: float, now: float) -> Pace:
        """A chunk has come; the clip is `made` seconds long now."""
        return replace(self, first=now if self.first is None else self.first, last=now, made=made)

    @property
    def first_after(self) -> float | None:
        """Seconds from the start of the run to the first chunk."""
        return None if self.first is None else self.first - self.started

    @property
    def speed(self) -> float:
        """Seconds of clip made per second of waiting; 1 is real time."""
        elapsed = 0.0 if self.last is None else self.last - self.started
        return self.made / elapsed if elapsed > 0 else 0.0

    def seconds_behind(self, now: float) -> float:
        """How long a viewer who began with the first chunk has had to wait since; 0 if never."""
        return 0.0 if self.first is None else max(0.0, now - self.first - self.made)


def has_expired(ended: float | None, now: float, *, kept_seconds: float = SESSION_SECONDS) -> bool:
    """Whether a stream that ended at `ended` (None: it has not) may be forgotten."""
    return ended is not None and now - ended >= kept_seconds
