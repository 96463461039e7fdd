"""Convolutions over time that continue where the last call ended (spec 03 §5).

A causal network remembers, for each of its convolutions, the last input frames. That memory is a
value, `CausalState`, which the caller holds; `PastFrames` walks through it during one call, in the
order in which the network runs. Nothing is kept on a module, so one module serves many streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ShapeError

TIME = 2
"""The time axis of [b, c, t, h, w]."""

PastShape = tuple[int, int, int, int, int]
"""Batch, channels, remembered frames, height, width of one convolution's past."""

Fill = Callable[[Tensor, Tensor], object]
"""`fill(x, out)` writes what becomes of `x` into `out`; both [b, c, t, h, w]."""


@dataclass(frozen=True, slots=True)
class CausalState:
    """The last input frames of every causal convolution, in network order.

    past: one [b, c, k, h, w] per convolution, zeros at the start of a clip. scratch: flat memory in
    which every convolution's window is laid out in turn. first: nothing has gone through yet.
    memory_format: the layout of the pasts and of the windows made from them.

    The tensors are large (1.7 GiB of pasts, 0.7 GiB of scratch at 512 x 992 in 16 bit) and have
    fixed addresses: a call writes them in place, so a state that was handed to a network is used
    up. `clone` keeps a copy.
    """

    past: tuple[Tensor, ...]
    scratch: Tensor
    first: bool = True
    memory_format: torch.memory_format = torch.contiguous_format

    @classmethod
    def zeros(
        cls,
        shapes: Iterable[PastShape],
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        window_elements: int = 0,
    ) -> CausalState:
        """The state before the first frame of a clip: a past of zeros is exactly no past.

        window_elements: of the largest window that has its place in the scratch; larger ones are
        allocated anew each time.
        """
        past = tuple(
            torch.empty(shape, device=device, dtype=dtype, memory_format=memory_format).zero_()
            for shape in shapes
        )
        scratch = torch.empty(window_elements, device=device, dtype=dtype)
        return cls(past=past, scratch=scratch, memory_format=memory_format)

    @property
    def nbytes(self) -> int:
        """Memory of all pasts in bytes; the scratch counts as workspace."""
        return sum(tensor.nbytes for tensor in self.past)

    def clone(self) -> CausalState:
        """A copy that later calls do not touch; one stream becomes two."""
        past = tuple(tensor.clone() for tensor in self.past)
        return replace(self, past=past, scratch=torch.empty_like(self.scratch))

    def advanced(self) -> CausalState:
        """The same buffers, no longer at the start of a clip."""
        return replace(self, first=False)


class PastFrames:
    """Hands every convolution its own past, in network order, during one call.

    A window is good until the next one is asked for: they may share the state's scratch.
    """

    def __init__(self, state: CausalState) -> None:
        self.first = state.first
        self._past = state.past
        self._scratch = state.scratch
        self.memory_format = state.memory_format
        self._next = 0

    def extend(self, x: Tensor, fill: Fill = lambda x, out: out.copy_(x)) -> Tensor:
        """The convolution's input: its past, then `x`; remembers the last frames of both.

        `fill` may transform on the way (norm, activation, cast), so that its result is written to
        the window only once. [b, c, t, h, w] -> [b, c, k + t, h, w] in the dtype of the state.
        """
        past = self._take()
        kept = past.shape[TIME]
        shape = (*past.shape[:TIME], kept + x.shape[TIME], *past.shape[TIME + 1 :])
        if x.shape[:TIME] != shape[:TIME] or x.shape[TIME + 1 :] != shape[TIME + 1 :]:
            raise ShapeError(
                "The state of the stream does not fit its input",
                found=f"state {tuple(past.shape)}, input {tuple(x.shape)}",
                fix="start a new stream for another batch or picture size",
            )
        window = self._window(shape)
        window[:, :, :kept] = past
        fill(x, window[:, :, kept:])
        past.copy_(window[:, :, -kept:])
        return window

    def remember(self, x: Tensor) -> None:
        """Keep the last frames of `x` without using the past: for layers the first call skips."""
        past = self._take()
        past.copy_(x[:, :, -past.shape[TIME] :])

    def skip(self) -> None:
        """Leave the next past as it is: for layers whose history begins only with the next call."""
        self._take()

    def _window(self, shape: tuple[int, ...]) -> Tensor:
        """Room for an input of this shape, in the layout of the state."""
        count, scratch = math.prod(shape), self._scratch
        if count > scratch.numel():
            return torch.empty(
                shape, device=scratch.device, dtype=scratch.dtype, memory_format=self.memory_format
            )
        flat = scratch[:count]
        if self.memory_format == torch.contiguous_format:
            return flat.view(shape)
        batch, channels, *rest = shape
        return flat.view(batch, *rest, channels).movedim(-1, 1)

    def _take(self) -> Tensor:
        past = self._past[self._next]
        self._next += 1
        return past
