"""Calls to ComfyUI about stored weights: layers for 8-bit ones, patches upon them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import comfy.model_management
import comfy.ops
import comfy.utils
import torch

from .host import COMPUTE_DTYPES, Numbers

MIXED = {"mixed_ops": True}
"""What the host's own loader says of a file with a format beside every quantised layer."""


def quantised_numbers(weights: Mapping[str, torch.Tensor]) -> Numbers:
    """As `host.transformer_numbers`, for a file whose layers bring their own formats."""
    device = comfy.model_management.get_torch_device()
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
