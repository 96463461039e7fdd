"""A cache that several ranks fill together: each brings the keys and values of its own tokens.

For a transformer whose picture tokens are split over devices (`sampling.split`). Every rank holds
the whole cache, so its attention is the plain one. A rank is a thread; they meet in `gather`, in
the same order, because they run the same layers. The host waits for another rank's tensors to be
made known, never for their contents.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import HalloLiveError
from .kv_cache import Cache, LayerCache, Slide


class RankStopped(HalloLiveError):  # noqa: N818 - an echo: the error is another rank's
    """Another rank has failed, so that this one waits for nothing; its error is the real one."""

    def __init__(self) -> None:
        super().__init__("Another rank of the split transformer has stopped")


class Part(NamedTuple):
    """Keys and values [b, l, n, d] of consecutive tokens, the first of which is token `start`."""

    start: int
    keys: Tensor
    values: Tensor
    written: torch.cuda.Event | None = None

    def put_into(self, whole: Part) -> None:
        """Copy to where these tokens stand in `whole`, which may be on another device."""
        first = self.start - whole.start
        place = slice(first, first + self.keys.shape[1])
        whole.keys[:, place].copy_(self.keys, non_blocking=True)
        whole.values[:, place].copy_(self.values, non_blocking=True)


class Exchange:
    """Mailboxes between `num_ranks` ranks, one for each pair and direction; for one network pass.

    Whoever hands in tensors must not write to them again.
    """

    def __init__(self, num_ranks: int) -> None:
        self._boxes = {
            (source, target): queue.SimpleQueue[Part | None]()
            for source in range(num_ranks)
            for target in range(num_ranks)
            if source != target
        }

    def gather(self, rank: int, own: Part, whole: Part) -> None:
        """Hand `own` to the other ranks, and fill `whole` with it and what they bring.

        Raises:
            RankStopped: another rank called `stop`.
        """
        sent = own._replace(written=_mark(own.keys))
        for (source, _), box in self._boxes.items():
            if source == rank:
                box.put(sent)
        own.put_into(whole)
        for (_, target), box in self._boxes.items():
            if target == rank:
                _receive(box, whole)

    def stop(self, rank: int) -> None:
        """Rank number `rank` will send nothing more: whoever waits for it stops, too."""
        for (source, _), box in self._boxes.items():
            if source == rank:
                box.put(None)


@dataclass(frozen=True, slots=True)
class Seat:
    """A rank's place in an exchange, and the tokens of the block that all ranks fill together."""

    exchange: Exchange
    rank: int
    first_token: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SharedLayer:
    """One layer's past on one rank; `inner` is handed the whole block."""

    inner: LayerCache
    seat: Seat

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`; `start`, `keys` and `values` are the rank's share of the block.

        Keys are rounded to the dtype of the values before they are sent, as a cache rounds them;
        values may be a part of a wider product, and are sent without the rest.

        Raises:
            RankStopped: another rank has failed.
        """
        seat = self.seat
        size = (values.shape[0], seat.num_tokens, *values.shape[2:])
        whole = Part(seat.first_token, values.new_empty(size), values.new_empty(size))
        own = Part(start, keys.to(values.dtype), values.contiguous())
        seat.exchange.gather(seat.rank, own, whole)
        return self.inner.extend(whole.start, whole.keys, whole.values)


@dataclass(frozen=True, slots=True)
class SharedCache:
    """A `SharedLayer` per layer."""

    inner: Cache
    seat: Seat

    def layer(self, index: int) -> SharedLayer:
        """The past of one layer."""
        return SharedLayer(self.inner.layer(index), self.seat)

    def slide(self, slide: Slide) -> None:
        """See `Cache`; a rank's own, whole cache moves up."""
        self.inner.slide(slide)

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


def _receive(box: queue.SimpleQueue[Part | None], whole: Part) -> None:
    """Wait for a part and put it into `whole`; from a GPU by a copy that its owner works beside.

    The copy has a stream at the source. Torch lets it wait for the target's current stream, which
    waits for it; the source's memory is not used again before.
    """
    part = box.get()
    if part is None:
        raise RankStopped
    if part.written is None:
        part.put_into(whole)
        return
    stream = torch.cuda.Stream(part.keys.device)
    with torch.cuda.stream(stream):
        stream.wait_event(part.written)
        part.keys.record_stream(stream)
        part.values.record_stream(stream)
        part.put_into(whole)
