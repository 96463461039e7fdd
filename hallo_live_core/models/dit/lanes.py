"""Audio beside video: between two meetings the streams of a layer do not need each other.

The audio's 30 to 150 rows leave most of a GPU idle, and the video's thousands do not. On a second
CUDA stream the small kernels run in the gaps of the large ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

from ...errors import RequestError


class Lanes(Protocol):
    """Two sequences of work."""

    def beside(self) -> AbstractContextManager[None]:
        """What is queued inside may run beside what is queued after, until `meet`."""
        ...

    def meet(self) -> None:
        """What is queued from here on sees both."""
        ...


class InTurn:
    """One after the other."""

    def beside(self) -> AbstractContextManager[None]:
        """See `Lanes`."""
        return nullcontext()

    def meet(self) -> None:
        """See `Lanes`."""


IN_TURN = InTurn()


class SideStream:
    """The second sequence on a CUDA stream of its own, as urgent as the caller's.

    Each sequence waits for the other where they part and where they meet, and a layer holds what
    it hands from one to the other until they have met, so the allocator hands no memory on early.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:  # noqa: ANN401
        """cuda: `torch.cuda`, or what stands in for it.

        Raises:
            RequestError: the device has no streams.
        """
        if device.type != "cuda":
            raise RequestError(
                "Audio beside video needs a GPU", found=device, fix="leave it off, or use cuda"
            )
        self._cuda, self._device = cuda, device
        self._sides: dict[int, Any] = {}

    @contextmanager
    def beside(self) -> Iterator[None]:
        """See `Lanes`."""
        ours = self._cuda.current_stream(self._device)
        side = self._beside(ours)
        side.wait_stream(ours)
        with self._cuda.stream(side):
            yield

    def meet(self) -> None:
        """See `Lanes`."""
        ours = self._cuda.current_stream(self._device)
        ours.wait_stream(self._beside(ours))

    def _beside(self, ours: Any) -> Any:  # noqa: ANN401 - streams of the given CUDA
        """The stream beside ours; passes that go before decoders (`decoding.turns`) do so whole."""
        priority: int = ours.priority
        if priority not in self._sides:
            self._sides[priority] = self._cuda.Stream(self._device, priority=priority)
        return self._sides[priority]
