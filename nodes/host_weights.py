"""Calls to ComfyUI about stored weights: layers for 8-bit ones, patches upon them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import comfy.weight_adapter
import torch

from ..hallo_live_core import LowRank, rows_of, split_fused
from .host import COMPUTE_DTYPES, Numbers

MIXED = {"mixed_ops": True}
"""What the host's own loader says of a file with a format beside every quantised layer."""


def quantised_numbers(weights: Mapping[str, torch.Tensor], device: torch.device) -> Numbers:
    """As `host.transformer_numbers`, for a file whose layers bring their own formats."""
    dtype = comfy.model_management.unet_dtype(
        device,
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=COMPUTE_DTYPES,
    )
    compute = comfy.model_management.unet_manual_cast(dtype, device, COMPUTE_DTYPES) or dtype
    ops = comfy.ops.pick_operations(
        None, compute, load_device=device, model_config=SimpleNamespace(quant_config=MIXED)
    )
    return Numbers(compute, compute, ops)


def weight_shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what patches may change; fused projections by their parts."""
    weights = split_fused(patcher.model.state_dict())
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def with_lora(patcher: Any, lora: Mapping[str, LowRank], strength: float) -> Any:
    """The same model with these changes upon its weights while it is loaded.

    The weights are shared with `patcher`, and come back when the host unloads the changed one.
    """
    changed = patcher.clone()
    adapter, weights = comfy.weight_adapter.LoRAAdapter, patcher.model.state_dict()
    patches = {
        _target(name, weights): adapter(
            set(), (change.up, change.down, change.alpha, None, None, None)
        )
        for name, change in lora.items()
    }
    changed.add_patches(patches, strength)
    return changed


def _target(name: str, weights: Mapping[str, torch.Tensor]) -> Any:
    """What the host calls a weight: its name, or with it the axis, first row and rows of a part."""
    place = rows_of(name, weights)
    return name if place is None else (place[0], (0, place[1], place[2]))
