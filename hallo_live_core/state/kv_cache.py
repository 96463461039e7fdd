"""Keys and values that a stream has settled, rotation already applied (spec 02 §4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import PositionError
from ..functional.rope import rotate

ATTENTION_WINDOW = 32_760
"""Newest tokens that one cached attention can see; older tokens fall out of sight (spec 02 §4)."""


HistoryGradient = Literal["detached", "straight_through"]
"""What a block in training lets through to the blocks before it (spec 06 §6.4).

detached: nothing, the past is constant. straight_through: values of the clean past, gradient into
the keys and values of the pass that made its output; what the published weights were trained with.
"""


@dataclass(frozen=True, slots=True)
class Slide:
    """How a full cache makes room for a block: what lies behind the sink moves up by one block.

    sink, step: tokens of what stays, and of a block. turn: [1, d/2, 2], what makes a key one block
    earlier (`functional.rope.earlier_in_time`).
    """

    sink: int
    step: int
    turn: Tensor

    def moves(self, capacity: int) -> Iterator[tuple[slice, slice]]:
        """(to, from) of every block that moves in a buffer of `capacity` tokens, in order."""
        for start in range(self.sink, capacity - self.step, self.step):
            after = start + self.step
            yield slice(start, after), slice(after, after + self.step)

    def earlier(self, keys: Tensor) -> Tensor:
        """Keys [b, l, n, d] as they are one place earlier, not yet rounded."""
        return rotate(keys, self.turn)


class LayerCache(Protocol):
    """The past of one attention in one layer."""

    def extend(self, start: int, keys: Tensor, values: Tensor, /) -> tuple[Tensor, Tensor]:
        """Put a block's [b, l, n, d] at token `start`; return all that it may see, itself last.

        The block that stands there already is replaced, so a noisy block may come any number of
        times, and what its clean pass puts there last is what later blocks see.
        """
        ...


@dataclass(frozen=True, slots=True)
class BufferedLayer:
    """One layer's slice of a `KVCache`: [b, capacity, n, d] each, written in place."""

    keys: Tensor
    values: Tensor
    window: int

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`. Rounds to the cache's dtype while writing.

        Raises:
            PositionError: the block does not fit behind `start`.
        """
        end = start + keys.shape[1]
        check_capacity(start, end, self.keys.shape[1])
        self.keys[:, start:end].copy_(keys)
        self.values[:, start:end].copy_(values)
        first = max(0, end - self.window)
        return self.keys[:, first:end], self.values[:, first:end]


@dataclass(frozen=True, slots=True)
class KVCache:
    """Buffers of one kind of attention for all layers, [layers, b, capacity, n, d], never moved."""

    keys: Tensor
    values: Tensor
    window: int = ATTENTION_WINDOW

    @classmethod
    def allocate(
        cls,
        shape: Sequence[int],
        *,
        device: torch.device,
        dtype: torch.dtype,
        window: int = ATTENTION_WINDOW,
    ) -> KVCache:
        """Buffers of shape [layers, b, capacity, n, d]; not cleared, since reads follow writes."""
        empty = [torch.empty(*shape, device=device, dtype=dtype) for _ in range(2)]
        return cls(empty[0], empty[1], window)

    def layer(self, index: int) -> BufferedLayer:
        """The past of one layer."""
        return BufferedLayer(self.keys[index], self.values[index], self.window)

    def slide(self, slide: Slide) -> None:
        """Move up in place, so that memory and addresses stay; keys are rounded once more.

        A block moves at most `places - sink - 1` times before it is forgotten, so nothing adds up.
        """
        for keys, values in zip(self.keys, self.values, strict=True):
            for here, after in slide.moves(self.keys.shape[2]):
                keys[:, here].copy_(slide.earlier(keys[:, after]))
                values[:, here].copy_(values[:, after])

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(slots=True)
class ConcatLayer:
    """The same past for training: nothing is written in place, so gradients stay intact.

    `blocks` is what was put here without gradient (steps before the exit step, and the clean pass):
    the values that later blocks see. `exits` is what came with gradient, kept where gradients go
    `straight_through`; else the past is constant and a block with gradient leaves no trace.
    """

    window: int = ATTENTION_WINDOW
    history_gradient: HistoryGradient = "detached"
    blocks: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict[int, tuple[Tensor, Tensor]]
    )
    exits: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict[int, tuple[Tensor, Tensor]]
    )

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`."""
        current = (keys.to(values.dtype), values)
        if not torch.is_grad_enabled():
            self.blocks[start] = current
        elif self.history_gradient == "straight_through":
            self.exits[start] = current
        past = [self._settled(position) for position in sorted(self.blocks) if position < start]
        seen = [*past, current]
        return (
            torch.cat([k for k, _ in seen], dim=1)[:, -self.window :],
            torch.cat([v for _, v in seen], dim=1)[:, -self.window :],
        )

    def slide(self, slide: Slide) -> None:
        """Move up; new tensors, through which gradients go."""
        self.blocks, self.exits = _slid(self.blocks, slide), _slid(self.exits, slide)

    def _settled(self, start: int) -> tuple[Tensor, Tensor]:
        keys, values = self.blocks[start]
        if start not in self.exits or not torch.is_grad_enabled():
            return keys, values
        exit_keys, exit_values = self.exits[start]
        return _straight_through(keys, exit_keys), _straight_through(values, exit_values)


class ConcatCache:
    """A `ConcatLayer` per layer: the cache of a self-rollout with gradient (spec 06 §6.4)."""

    def __init__(
        self,
        num_layers: int,
        window: int = ATTENTION_WINDOW,
        history_gradient: HistoryGradient = "detached",
    ) -> None:
        self.layers = [ConcatLayer(window, history_gradient) for _ in range(num_layers)]

    def layer(self, index: int) -> ConcatLayer:
        """The past of one layer."""
        return self.layers[index]

    def as_it_is(self) -> ConcatCache:
        """The same pieces in a cache of their own; what comes later does not change it."""
        same = ConcatCache(0)
        same.layers = [
            replace(layer, blocks=dict(layer.blocks), exits=dict(layer.exits))
            for layer in self.layers
        ]
        return same

    def slide(self, slide: Slide) -> None:
        """See `Cache`."""
        for layer in self.layers:
            layer.slide(slide)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept blocks."""
        kept = [
            pair
            for layer in self.layers
            for pair in (*layer.blocks.values(), *layer.exits.values())
        ]
        return sum(k.nbytes + v.nbytes for k, v in kept)


class Cache(Protocol):
    """What a session needs of a cache."""

    def layer(self, index: int, /) -> LayerCache:
        """The past of one layer."""
        ...

    def slide(self, slide: Slide, /) -> None:
        """Forget the oldest block behind the sink and free the last place."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


def check_capacity(start: int, end: int, capacity: int) -> None:
    """Refuse a block of tokens `start` to `end` that is not in the cache's buffers.

    Raises:
        PositionError: it ends behind them.
    """
    if end > capacity:
        raise PositionError(
            "The key-value cache is full",
            found=f"tokens {start} to {end}, capacity {capacity}",
            fix="open the session for a longer clip",
        )


def _slid(
    blocks: dict[int, tuple[Tensor, Tensor]], slide: Slide
) -> dict[int, tuple[Tensor, Tensor]]:
    """Blocks by first token, one place earlier, the sink excepted."""
    stay = {start: pair for start, pair in blocks.items() if start < slide.sink}
    moved = {
        start - slide.step: (slide.earlier(keys).to(keys.dtype), values)
        for start, (keys, values) in blocks.items()
        if start >= slide.sink + slide.step
    }
    return stay | moved


def _straight_through(value: Tensor, carrier: Tensor) -> Tensor:
    """`value` exactly, with the gradient of `carrier`."""
    return value + (carrier - carrier.detach())
