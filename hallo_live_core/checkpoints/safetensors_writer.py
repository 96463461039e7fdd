"""Writes a safetensors file tensor by tensor, so that one tensor at a time is in memory."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, gigabytes
from ..paths import appearing

ALIGNMENT = 8
"""The header is padded with spaces to a multiple of this; the format demands it."""

CODES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}

Encoder = tuple[torch.dtype, Callable[[Tensor], Tensor]]
"""How a tensor is stored, and the function that brings it there."""


def write_safetensors(
    target: Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
    encoders: Mapping[str, Encoder] | None = None,
) -> None:
    """Write `tensors`, floating ones as `dtype` if given, sorted by name.

    encoders: for tensors stored in another way, what they become, and the function that makes it
    when their turn comes; shapes stay. The file appears under its name only when complete.

    Raises:
        CheckpointError: the disk is too full, the name is a link, or the file cannot be written.
    """
    names = sorted(tensors)
    encoders = encoders or {}
    stored = {
        name: encoders[name][0] if name in encoders else _stored_dtype(tensors[name], dtype)
        for name in names
    }
    header = _header({name: (tensors[name], stored[name]) for name in names}, metadata)
    total = len(header) + sum(tensors[name].numel() * stored[name].itemsize for name in names)
    with appearing(target, CheckpointError) as file:
        _check_space(target, total)
        file.write(header)
        for name in names:
            encode = encoders[name][1] if name in encoders else _as_it_is
            file.write(_bytes(encode(tensors[name]).to(stored[name])))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _stored_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    stored = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    if stored not in CODES:
        raise CheckpointError(f"Tensors of type {stored} cannot be written")
    return stored


def _header(
    tensors: Mapping[str, tuple[Tensor, torch.dtype]], metadata: Mapping[str, str]
) -> bytes:
    """Length and JSON table of names, types, shapes and byte ranges."""
    table: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, (tensor, dtype) in tensors.items():
        end = offset + tensor.numel() * dtype.itemsize
        table[name] = {
            "dtype": CODES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _check_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise CheckpointError(
            f"There is no room for {target.name}",
            found=f"{gigabytes(free)} free, {gigabytes(needed)} needed",
            fix="free some space or write to another disk",
        )
