"""How the timestep shifts, scales and gates tokens (spec 01 §3-4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...functional.precision import widest_float

TIME_BASE = 10_000.0


class ModulationTable(nn.Module):
    """Learned offsets [1, num, dim] that are added to the embedded timestep.

    A leaf module of its own, because hosts that load a model in parts move only leaves.
    """

    def __init__(
        self,
        num: int,
        dim: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.modulation = nn.Parameter(
            torch.randn(1, num, dim, device=device, dtype=dtype) / dim**0.5
        )

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        """time: [b, g, num or 1, dim]. Returns num tensors [b, g, 1, dim]."""
        return (time + self.modulation.to(time)).split(1, dim=2)


class BlockModulation(NamedTuple):
    """The six of one layer, [b, g, 1, dim] each; scales already have their 1 added."""

    shift_1: Tensor
    scale_1: Tensor
    gate_1: Tensor
    shift_2: Tensor
    scale_2: Tensor
    gate_2: Tensor


def block_modulation(table: ModulationTable, projection: Tensor) -> BlockModulation:
    """projection: [b, g, 6, dim], one row per group of tokens."""
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = table(projection)
    return BlockModulation(shift_1, 1 + scale_1, gate_1, shift_2, 1 + scale_2, gate_2)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, times scale, plus shift: [b, l, dim], l split into g groups.

    Where all tokens share one row, the row takes the place of the norm's weights: one kernel.
    """
    width = x.shape[-1:]
    if shift.numel() == x.shape[-1] and shift.dtype == x.dtype:
        return functional.layer_norm(x, width, scale.flatten(), shift.flatten(), eps)
    normed = functional.layer_norm(x, width, eps=eps).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, normed, scale).flatten(1, 2)


def add_gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """x + gate * change: [b, l, dim], l split into the g groups."""
    groups = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, groups), gate, change.unflatten(1, groups)).flatten(1, 2)


def sinusoid(timesteps: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[...] timesteps in 0..1000 to [..., width]: cosines first, computed in float64."""
    wide = widest_float(timesteps.device)
    half = width // 2
    exponents = torch.arange(half, dtype=wide, device=timesteps.device) / -half
    angles = timesteps.to(wide).unsqueeze(-1) * TIME_BASE**exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
