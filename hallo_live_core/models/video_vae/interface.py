"""What every video decoder promises, so that the big one and the light ones can be exchanged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ...errors import ShapeError
from ...state.causal_conv import CausalState
from .latents import Z_DIM, LatentScale


@dataclass(frozen=True, slots=True)
class StreamState:
    """All that one stream through a video network carries from call to call.

    The network computes in the dtype and on the device of this state.
    """

    convolutions: CausalState
    scale: LatentScale

    @property
    def first(self) -> bool:
        """Whether nothing has gone through yet."""
        return self.convolutions.first

    @property
    def device(self) -> torch.device:
        """Where the stream is computed."""
        return self.convolutions.past[0].device

    @property
    def dtype(self) -> torch.dtype:
        """What the stream is computed in."""
        return self.convolutions.past[0].dtype

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes."""
        return self.convolutions.nbytes

    def clone(self) -> StreamState:
        """A copy that later calls do not touch."""
        return replace(self, convolutions=self.convolutions.clone())

    def advanced(self) -> StreamState:
        """The state after a call: the same buffers, no longer at the start."""
        return replace(self, convolutions=self.convolutions.advanced())


WORKSPACE = 8
"""Activations of a call, in units of the largest tensor of the state, which holds two frames: three
tensors of four frames (1.6 GB at 512x992), and a third more for what libraries take."""


class VideoDecoder(Protocol):
    """Normalised latents to pictures, with the past of the stream in an explicit state."""

    def initial_state(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> StreamState:
        """The state before a clip; height and width are those of the latents."""
        ...

    def state_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """Memory of a stream's state, which is known without making one."""
        ...

    def working_nbytes(self, batch: int, height: int, width: int, dtype: torch.dtype) -> int:
        """Memory that a stream takes besides the weights: its state and its activations."""
        ...

    def decode(self, latents: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Decode the next latents of a clip.

        latents: normalised [b, n, 48, h, w]. Returns float video [b, f, 3, 16 h, 16 w] in [-1, 1]
        and the next state. The clip's first latent is one frame, every other one four. The buffers
        of `state` are written in place: go on with the returned one.
        """
        ...


def check_latents(latents: Tensor, state: StreamState) -> None:
    """Refuse latents that are no [b, n >= 1, 48, h, w].

    Raises:
        ShapeError: another number of axes or channels, no latent at all, or another device.
    """
    if latents.ndim != 5 or latents.shape[2] != Z_DIM or latents.shape[1] == 0:
        raise ShapeError(
            f"Video latents must be [batch, latents, {Z_DIM}, height, width]",
            found=tuple(latents.shape),
            fix="ComfyUI's order is [batch, channels, latents, ...]: swap axes 1 and 2",
        )
    if latents.device != state.device:
        raise ShapeError(
            "Latents and the state of the stream are on different devices",
            found=f"{latents.device} and {state.device}",
            fix=f"move the latents to {state.device}",
        )


def group_sizes(count: int, size: int, *, first: bool) -> list[int]:
    """How many go through a network in each call: the `first` of a clip alone, then `size`."""
    alone = [1] if first else []
    whole, rest = divmod(count - len(alone), size)
    return [*alone, *[size] * whole, *([rest] if rest else [])]
