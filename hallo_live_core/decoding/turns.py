"""Whose turn it is on a GPU that denoises and decodes at the same time.

A GPU serves its streams by priority. The first latent of a block is what somebody waits for: it
goes before the passes of the next block. The other latents have time until the block before them
has been played: they fill what the passes leave idle. That shortens waits; the sum of the work
stays the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

from ..errors import RequestError
from ..types import LatentBlock

Event = TypeVar("Event")

URGENT, PASSES, PATIENT = -2, -1, 0
"""Priorities of CUDA streams; the lowest number goes first, and no stream comes after 0."""


class Turns(Protocol):
    """In which order a device serves passes and decoders."""

    def passes(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events of a sampler, whose work is queued as passes."""
        ...

    def latent(self, first: bool) -> AbstractContextManager[None]:
        """What is queued inside decodes a latent, perhaps the first of its block."""
        ...


class InOrder:
    """The device does things in the order in which they are asked for."""

    def passes(self, events: Iterator[Event]) -> Iterator[Event]:
        """See `Turns`."""
        return events

    def latent(self, first: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """See `Turns`."""
        return nullcontext()


IN_ORDER = InOrder()


class ByPriority:
    """Three CUDA streams of one device, for one clip after the other: memory belongs to its stream.

    A block's tensors are marked as read by the decoder's streams, so that their memory is not given
    to a later pass too early.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:  # noqa: ANN401
        """cuda: `torch.cuda`, or what stands in for it.

        Raises:
            RequestError: the device has no streams.
        """
        if device.type != "cuda":
            raise RequestError(
                "Decoding beside the passes on one device needs a GPU",
                found=device,
                fix="leave it off, or use cuda",
            )
        self._cuda, self._device = cuda, device
        self._passes = cuda.Stream(device, priority=PASSES)
        self._urgent = cuda.Stream(device, priority=URGENT)
        self._patient = cuda.Stream(device, priority=PATIENT)
        self._clean: deque[Any] = deque()

    def passes(self, events: Iterator[Event]) -> Iterator[Event]:
        """See `Turns`. The caller's own stream sees every event's work as done."""
        ours = self._cuda.current_stream(self._device)
        self._clean.clear()
        while True:
            self._passes.wait_stream(ours)
            with self._cuda.stream(self._passes):
                event = next(events, None)
            ours.wait_stream(self._passes)
            if event is None:
                return
            if isinstance(event, LatentBlock):
                self._hand_over(event, ours)
            yield event

    @contextmanager
    def latent(self, first: bool) -> Iterator[None]:
        """See `Turns`. Blocks are decoded in the order in which they became clean."""
        stream, other = self._urgent, self._patient
        if first:
            stream.wait_event(self._clean.popleft())
        else:
            stream, other = other, stream
        stream.wait_stream(other)
        with self._cuda.stream(stream):
            yield

    def _hand_over(self, block: LatentBlock, ours: Any) -> None:  # noqa: ANN401
        self._clean.append(self._passes.record_event())
        for tensor in (block.video, block.audio, block.audio_ahead):
            for stream in (ours, self._urgent, self._patient):
                tensor.record_stream(stream)
