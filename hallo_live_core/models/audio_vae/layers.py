"""How the networks of this package make their layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class ConvOps(Protocol):
    """Where layers come from: `torch.nn`, or a host's namespace that casts and offloads weights."""

    Conv1d: type[nn.Conv1d]
    ConvTranspose1d: type[nn.ConvTranspose1d]


@dataclass(frozen=True, slots=True)
class LayerFactory:
    """Makes layers on one device in one dtype."""

    ops: ConvOps = nn
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def conv(
        self, in_dim: int, out_dim: int, kernel: int, *, dilation: int = 1, bias: bool = True
    ) -> nn.Conv1d:
        """A convolution that keeps the length, zeros beyond both ends; odd kernels only."""
        return self.ops.Conv1d(
            in_dim,
            out_dim,
            kernel,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            bias=bias,
            device=self.device,
            dtype=self.dtype,
        )

    def upsampling_conv(self, in_dim: int, out_dim: int, kernel: int) -> nn.ConvTranspose1d:
        """A transposed convolution that multiplies the length by kernel / 2 exactly."""
        stride = kernel // 2
        return self.ops.ConvTranspose1d(
            in_dim,
            out_dim,
            kernel,
            stride,
            padding=(kernel - stride) // 2,
            device=self.device,
            dtype=self.dtype,
        )

    def full(self, shape: tuple[int, ...], value: float) -> Tensor:
        """A tensor of one value."""
        return torch.full(shape, value, device=self.device, dtype=self.dtype)

    def constant(self, values: list[list[list[float]]]) -> Tensor:
        """A tensor of known values, [a, b, c]."""
        return torch.tensor(values, device=self.device, dtype=self.dtype)
