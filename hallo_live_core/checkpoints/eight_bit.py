"""The transformer with its matrices in 8 bits, for use without ComfyUI.

A file in full width is rounded while it is loaded, one matrix at a time and on the device it goes
to, with a scale for every row. A file in scaled fp8 is taken as it is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..models.dit import weights as transformer_weights
from ..models.dit.fusion import DualStreamDiT
from ..models.dit.scaled_linear import (
    FORMAT,
    SCALED_OPS,
    ScaledLinear,
    multiplies_in_8_bits,
    rounded_rows,
)
from . import identify, quantise
from .assemble import check_fit, reading
from .build import META
from .config_json import config_from_metadata
from .files import read_file
from .lora import LoraFiles, Steps, changed, load_steps


def load_transformer_in_8_bits(
    path: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    ema: bool = True,
    loras: LoraFiles = (),
) -> DualStreamDiT:
    """The transformer in any published or converted file; all but the matrices in `dtype`.

    loras: files and strengths of changes, merged before anything is rounded.

    Raises:
        CheckpointError: a file is missing, damaged or another model, or quantised in a way that is
            not known.
    """
    file = read_file(path, ema=ema)
    config = config_from_metadata(file.metadata, file.name)
    tensors, source = file.tensors, file.name
    with reading(source, identify.TRANSFORMER, tensors):
        quantise.unify(tensors, source)
        plain = quantise.without_extras(tensors)
        config = config or transformer_weights.config_from_state_dict(plain)
        check_fit(DualStreamDiT(config, device=META), transformer_weights.to_module(plain), source)
        stored = transformer_weights.to_module(tensors)
    steps = load_steps(transformer_weights.to_module(plain), loras)
    tensors.clear()
    plain.clear()
    ready: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for name in [name for name in stored if not _is_extra(name)]:
        layer = name.removesuffix(quantise.WEIGHT)
        scale = stored.pop(layer + quantise.SCALE, None)
        weight = stored.pop(name).to(device)
        if is_matrix(name, weight):
            ready[name], rows[layer] = _row_scaled(weight, scale, steps.get(name, ()))
        else:
            wide = weight if scale is None else weight.to(torch.float32) * scale.to(device)
            ready[name] = (changed(wide, steps[name]) if name in steps else wide).to(dtype)
    module = DualStreamDiT(config, ops=SCALED_OPS, device=META)
    module.load_state_dict(ready, strict=True, assign=True)
    fast = multiplies_in_8_bits(torch.device(device), dtype)
    for layer, scale in rows.items():
        linear = cast("ScaledLinear", module.get_submodule(layer))
        linear.weight_scale, linear.in_8_bits = scale, fast
    return module.eval().requires_grad_(False)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether 8 bits suit this tensor of `DualStreamDiT`: the matrices inside the layers."""
    return name.startswith("blocks.") and quantise.fits_8_bits(name, weight)


def transformer_nbytes(
    config: TransformerConfig, dtype: torch.dtype, *, in_8_bits: bool = False
) -> int:
    """Bytes of the transformer's weights, without loading any; all layers are alike."""
    module = DualStreamDiT(replace(config, num_layers=1), device=META, dtype=dtype)
    total = 0
    for name, weight in module.named_parameters():
        times = config.num_layers if name.startswith("blocks.") else 1
        narrow = weight.numel() * FORMAT.itemsize + len(weight) * torch.float32.itemsize
        total += times * (narrow if in_8_bits and is_matrix(name, weight) else weight.nbytes)
    return total


def _row_scaled(weight: Tensor, scale: Tensor | None, steps: Steps) -> tuple[Tensor, Tensor]:
    """8-bit values [out, in] and their scales [out, 1]."""
    rows = torch.ones(len(weight), 1, device=weight.device)
    if scale is not None:
        rows = rows * scale.to(weight.device)
    if weight.dtype == FORMAT and not steps:
        return weight, rows
    is_narrow = weight.dtype in quantise.FORMATS.values()
    wide = weight.to(torch.float32) * rows if is_narrow else weight
    return rounded_rows(changed(wide, steps) if steps else wide)


def _is_extra(name: str) -> bool:
    return name.endswith((quantise.SCALE, quantise.QUANT, quantise.INPUT))
