"""A cache that several ranks fill together: each brings the keys and values of its own tokens.

For a transformer whose picture tokens are split over devices (`sampling.split`). Every rank holds
the whole cache, so its attention is the plain one. A rank is a thread; they meet in `gather`, in
the same order, because they run the same layers. On CUDA nobody waits on the host for the copy.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import HalloLiveError
from .kv_cache import Cache, LayerCache


class RankStopped(HalloLiveError):  # noqa: N818 - an echo: the error is another rank's
    """Another rank has failed, so that this one waits for nothing; its error is the real one."""

    def __init__(self) -> None:
        super().__init__("Another rank of the split transformer has stopped")


class Part(NamedTuple):
    """Keys and values [b, l, n, d] of a rank's tokens, the first of which is token `start`."""

    start: int
    keys: Tensor
    values: Tensor
    written: torch.cuda.Event | None = None


class Exchange:
    """Mailboxes between ranks, one for each pair and direction; for one pass of the network.

    devices: one per rank.
    """

    def __init__(self, devices: tuple[torch.device, ...]) -> None:
        self.devices = devices
        ranks = range(len(devices))
        self._boxes = {
            (source, target): queue.SimpleQueue[Part | None]()
            for source in ranks
            for target in ranks
            if source != target
        }

    def gather(self, rank: int, own: Part) -> Iterator[Part]:
        """Hand `own` to the other ranks; yield the parts of all ranks in order, as they come.

        Whoever hands in tensors must not write to them again. What is yielded is on the rank's
        device, to be read by the stream that is current there.

        Raises:
            RankStopped: another rank called `stop`.
        """
        sent = own._replace(written=_mark(own.keys))
        for box in self._outgoing(rank):
            box.put(sent)
        for source in range(len(self.devices)):
            yield own if source == rank else self._receive(source, rank)

    def stop(self, rank: int) -> None:
        """Rank number `rank` will send nothing more: whoever waits for it stops, too."""
        for box in self._outgoing(rank):
            box.put(None)

    def _outgoing(self, rank: int) -> list[queue.SimpleQueue[Part | None]]:
        return [box for (source, _), box in self._boxes.items() if source == rank]

    def _receive(self, source: int, target: int) -> Part:
        part = self._boxes[source, target].get()
        if part is None:
            raise RankStopped
        device = self.devices[target]
        if part.written is None:
            return part._replace(keys=part.keys.to(device), values=part.values.to(device))
        stream = torch.cuda.Stream(part.keys.device)
        with torch.cuda.stream(stream):
            stream.wait_event(part.written)
            return part._replace(
                keys=_peer_copy(part.keys, device, stream),
                values=_peer_copy(part.values, device, stream),
            )


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """One layer's past on one rank: `inner` is filled with the parts of all ranks."""

    inner: LayerCache
    exchange: Exchange
    rank: int

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`; `start`, `keys` and `values` are the rank's share of the block.

        Rounds before sending, as a cache rounds when it is written.

        Raises:
            RankStopped: another rank has failed.
        """
        own = Part(start, keys.to(values.dtype), values)
        seen = (keys, values)
        for part in self.exchange.gather(self.rank, own):
            seen = self.inner.extend(part.start, part.keys, part.values)
        return seen


@dataclass(frozen=True, slots=True)
class SharedCache:
    """A `SharedLayer` per layer."""

    inner: Cache
    exchange: Exchange
    rank: int

    def layer(self, index: int) -> SharedLayer:
        """The past of one layer."""
        return SharedLayer(self.inner.layer(index), self.exchange, self.rank)

    @property
    def nbytes(self) -> int:
        """Bytes held on this rank."""
        return self.inner.nbytes


def _mark(tensor: Tensor) -> torch.cuda.Event | None:
    """The moment at which everything queued so far on the tensor's device is done."""
    if not tensor.is_cuda:
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))
    return event


def _peer_copy(tensor: Tensor, device: torch.device, stream: torch.cuda.Stream) -> Tensor:
    """From GPU to GPU on `stream`, one of the source's own, so that the source works on meanwhile.

    Torch lets the copy wait for the target's current stream, and that one for the copy. The
    source's memory is not used again before.
    """
    tensor.record_stream(stream)
    return tensor.to(device, non_blocking=True)
