"""Where the reference computes in float64, and what stands in for it where float64 is absent."""

from __future__ import annotations

import torch


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's devices, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a half-precision value is worked on: float32; wider ones stay."""
    return torch.promote_types(dtype, torch.float32)
