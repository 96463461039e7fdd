"""A cache of keys and values in 8 bits: half the memory, and a little of the past's precision.

Every head of every token has a scale of its own, so that one loud head does not cost the others
their precision. What a layer reads is widened into a buffer that all layers share; the newest block
is seen there as it came, and only blocks before it in 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .kv_cache import ATTENTION_WINDOW, Slide, check_capacity

FORMAT = torch.float8_e4m3fn
"""Of the two 8-bit formats the finer one; the scales make up for its range."""

SCALE = torch.float32
SMALLEST = 1e-12
"""A head below this is stored as zero."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """Values in 8 bits [..., n, d] and the scale of every head [..., n, 1]."""

    values: Tensor
    scale: Tensor

    @classmethod
    def allocate(cls, shape: Sequence[int], device: torch.device) -> Scaled:
        """Room for a tensor of this shape, not cleared."""
        return cls(
            torch.empty(*shape, device=device, dtype=FORMAT),
            torch.empty(*shape[:-1], 1, device=device, dtype=SCALE),
        )

    def __getitem__(self, index: object) -> Scaled:
        return Scaled(self.values[index], self.scale[index])  # pyright: ignore[reportArgumentType]

    def write(self, x: Tensor) -> None:
        """Round [..., n, d] to 8 bits, each head to the full range of the format."""
        wide = x.to(SCALE)
        largest = wide.abs().amax(dim=-1, keepdim=True).clamp_min_(SMALLEST)
        self.scale.copy_(largest / torch.finfo(FORMAT).max)
        self.values.copy_(wide / self.scale)

    def copy_(self, other: Scaled) -> None:
        """Take over another's values and scales as they are."""
        self.values.copy_(other.values)
        self.scale.copy_(other.scale)

    def read_into(self, out: Tensor) -> None:
        """Write the values, in the dtype of `out`."""
        out.copy_(self.values).mul_(self.scale)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes


@dataclass(frozen=True, slots=True)
class Fp8Layer:
    """One layer's slice of an `Fp8KVCache`; `wide` [b, capacity, n, d] is for reading."""

    stored: tuple[Scaled, Scaled]
    wide: tuple[Tensor, Tensor]
    window: int

    def extend(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `LayerCache`; what is returned is valid until the next layer asks.

        Raises:
            PositionError: the block does not fit behind `start`.
        """
        end = start + keys.shape[1]
        check_capacity(start, end, self.wide[0].shape[1])
        first = max(0, end - self.window)
        kept = slice(min(first, start), start)
        for stored, wide, new in zip(self.stored, self.wide, (keys, values), strict=True):
            stored[:, start:end].write(new)
            stored[:, kept].read_into(wide[:, kept])
            wide[:, start:end].copy_(new)
        return self.wide[0][:, first:end], self.wide[1][:, first:end]


@dataclass(frozen=True, slots=True)
class Fp8KVCache:
    """Buffers of one kind of attention for all layers, [layers, b, capacity, n, d], never moved."""

    stored: tuple[Scaled, Scaled]
    wide: tuple[Tensor, Tensor]
    window: int = ATTENTION_WINDOW

    @classmethod
    def allocate(
        cls,
        shape: Sequence[int],
        *,
        device: torch.device,
        dtype: torch.dtype,
        window: int = ATTENTION_WINDOW,
    ) -> Fp8KVCache:
        """Buffers for [layers, b, capacity, n, d], and for one layer of it in `dtype`."""
        keys, values = (Scaled.allocate(shape, device) for _ in range(2))
        wide_keys, wide_values = (
            torch.empty(*shape[1:], device=device, dtype=dtype) for _ in range(2)
        )
        return cls((keys, values), (wide_keys, wide_values), window)

    def layer(self, index: int) -> Fp8Layer:
        """The past of one layer."""
        return Fp8Layer((self.stored[0][index], self.stored[1][index]), self.wide, self.window)

    def slide(self, slide: Slide) -> None:
        """See `Cache`. Keys are rounded to 8 bits again at every move, values stay as they are."""
        stored_keys, stored_values = self.stored
        wide = self.wide[0][:, : slide.step]
        for layer in range(len(stored_keys.values)):
            keys, values = stored_keys[layer], stored_values[layer]
            for here, after in slide.moves(keys.values.shape[1]):
                keys[:, after].read_into(wide)
                keys[:, here].write(slide.earlier(wide))
                values[:, here].copy_(values[:, after])

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(part.nbytes for part in (*self.stored, *self.wide))


def fp8_cache_nbytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes that `Fp8KVCache.allocate` will take, [layers, b, capacity, n, d]."""
    layers, batch, capacity, heads, width = shape
    tokens = batch * capacity * heads
    return 2 * (layers * tokens * (width * FORMAT.itemsize + SCALE.itemsize)) + (
        2 * tokens * width * dtype.itemsize
    )
