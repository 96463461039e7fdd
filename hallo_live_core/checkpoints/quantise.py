"""8-bit weights: ComfyUI's layouts of them, back to full width, and from full width to 8 bits.

The current layout has three tensors per linear layer: ``<layer>.weight`` in 8 bits,
``<layer>.weight_scale`` (one float32; weight times scale is the value) and ``<layer>.comfy_quant``
(JSON bytes that name the format). Older files have ``<layer>.scale_weight`` and one mark
``scaled_fp8``; others name the formats in their header. A file of 8-bit weights without any of
these is plain storage, with scale 1, and needs nothing from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, shortened
from .identify import some

FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
"""The formats that are read, by ComfyUI's names."""

WRITTEN = "float8_e4m3fn"
"""The format that is written: of the two the finer one."""

WEIGHT, SCALE, QUANT, INPUT = ".weight", ".weight_scale", ".comfy_quant", ".input_scale"
OLD_SCALE, OLD_INPUT, OLD_MARK = ".scale_weight", ".scale_input", "scaled_fp8"
FULL_PRECISION_MARK = 2
"""Elements of the old mark in files that must be multiplied in full precision."""

DECLARED = "_quantization_metadata"
"""Entry of a header that names the formats instead."""

MULTIPLE = 16
"""8-bit matrix products need sides that are multiples of this."""

MATRIX_AXES = 2
AUDIO = "audio_model."


def is_quantised(names: Iterable[str]) -> bool:
    """Whether these are the names of a file with scaled 8-bit weights, in any layout."""
    return any(name == OLD_MARK or name.endswith((QUANT, OLD_SCALE)) for name in names)


def add_declared(tensors: dict[str, Tensor], metadata: Mapping[str, str], source: str) -> None:
    """Put the formats that a header names beside their layers, in place.

    Raises:
        CheckpointError: the entry cannot be understood.
    """
    if DECLARED not in metadata:
        return
    try:
        layers = json.loads(metadata[DECLARED])["layers"]
        for layer, entry in layers.items():
            tensors.setdefault(layer + QUANT, _as_bytes(entry))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"The header of {source} cannot be understood",
            found=f"{DECLARED}: {error}",
            fix="use a file in bf16, or in scaled fp8 as `hallo-live convert --fp8` writes it",
        ) from error


def unify(tensors: dict[str, Tensor], source: str) -> tuple[str, ...]:
    """Bring scaled 8-bit weights into the current layout, in place; returns their layers' names.

    Raises:
        CheckpointError: a layer is incomplete, or in a format that is not known.
    """
    if not is_quantised(tensors):
        return ()
    _rename_old(tensors)
    layers = tuple(name.removesuffix(QUANT) for name in tensors if name.endswith(QUANT))
    known = set(layers)
    problems = [f"{layer} {problem}" for layer in layers if (problem := _problem(tensors, layer))]
    for name, tensor in tensors.items():
        layer = name.rpartition(".")[0]
        if name.endswith((SCALE, INPUT)) and layer not in known:
            problems.append(f"{name} without a format")
        elif tensor.dtype in FORMATS.values() and layer not in known:
            problems.append(f"{name} in 8 bits without a scale")
    if problems:
        raise CheckpointError(
            f"{source} is quantised in part, or in a way that is not supported",
            found=some(problems),
            fix="use a file in bf16, or in scaled fp8 as `hallo-live convert --fp8` writes it",
        )
    for layer in layers:
        tensors[layer + SCALE] = tensors[layer + SCALE].reshape(()).float()
    return layers


def dequantise(
    tensors: dict[str, Tensor],
    layers: Iterable[str],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> None:
    """Replace unified layers by their values, in place and one after the other."""
    for layer in layers:
        scale = tensors.pop(layer + SCALE).to(device)
        tensors.pop(layer + QUANT)
        tensors.pop(layer + INPUT, None)
        weight = tensors.pop(layer + WEIGHT).to(device)
        tensors[layer + WEIGHT] = (weight.to(torch.float32) * scale).to(dtype)


def without_extras(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the network has without quantisation."""
    return {k: v for k, v in tensors.items() if not k.endswith((SCALE, QUANT, INPUT))}


def quantisable(tensors: Mapping[str, Tensor], *, keep_audio: bool = False) -> tuple[str, ...]:
    """The layers that 8 bits suit, by published names: the matrices inside the blocks.

    All else keeps its width: modulation, norms, biases, embeddings, time, heads; with
    `keep_audio` the whole audio stream.
    """
    return tuple(
        name.removesuffix(WEIGHT)
        for name, tensor in sorted(tensors.items())
        if ".blocks." in name
        and fits_8_bits(name, tensor)
        and not (keep_audio and name.startswith(AUDIO))
    )


def fits_8_bits(name: str, tensor: Tensor) -> bool:
    """Whether this is the weight of a linear layer with sides that 8-bit products can have."""
    is_matrix = name.endswith(WEIGHT) and tensor.ndim == MATRIX_AXES
    return is_matrix and not any(side % MULTIPLE for side in tensor.shape)


def scale_of(weight: Tensor) -> Tensor:
    """The float32 scalar that brings the largest element to the end of the format's range."""
    largest = weight.abs().amax().to(torch.float32)
    if not torch.isfinite(largest):
        raise CheckpointError("A weight is not finite", fix="use an undamaged file")
    scale = largest / torch.finfo(FORMATS[WRITTEN]).max
    return scale if scale > 0 else torch.ones_like(scale)


def to_8_bits(weight: Tensor, scale: Tensor) -> Tensor:
    """weight / scale in the written format."""
    end = torch.finfo(FORMATS[WRITTEN]).max
    return (weight.to(torch.float32) / scale).clamp(-end, end).to(FORMATS[WRITTEN])


def relative_error(weight: Tensor, scale: Tensor) -> float:
    """How far 8 bits lead away: norm of the difference over the norm of the weight."""
    value = weight.to(torch.float32)
    back = to_8_bits(weight, scale).to(torch.float32) * scale
    norm = value.norm().item()
    return (back - value).norm().item() / norm if norm else 0.0


def layer_mark() -> Tensor:
    """What stands beside a layer in the written format."""
    return _as_bytes({"format": WRITTEN})


def _rename_old(tensors: dict[str, Tensor]) -> None:
    mark = tensors.pop(OLD_MARK, None)
    in_full = {"full_precision_matrix_mult": True}
    extra = in_full if mark is not None and mark.numel() == FULL_PRECISION_MARK else {}
    for name in [name for name in tensors if name.endswith(OLD_SCALE)]:
        layer = name.removesuffix(OLD_SCALE)
        tensors[layer + SCALE] = tensors.pop(name)
        weight = tensors.get(layer + WEIGHT)
        stored = None if weight is None else weight.dtype
        found = next((name for name, dtype in FORMATS.items() if dtype == stored), str(stored))
        tensors[layer + QUANT] = _as_bytes({"format": found} | extra)
        given = tensors.pop(layer + OLD_INPUT, None)
        if given is not None and not (given.numel() == 1 and given.item() == 1):
            tensors[layer + INPUT] = given


def _problem(tensors: Mapping[str, Tensor], layer: str) -> str | None:
    """Why a layer with a format cannot be used."""
    weight, scale = tensors.get(layer + WEIGHT), tensors.get(layer + SCALE)
    if weight is None:
        return "has no weight"
    found = _format(tensors[layer + QUANT])
    if found not in FORMATS:
        return f"is in the format {found}"
    if weight.dtype != FORMATS[found] or weight.ndim != MATRIX_AXES:
        return f"is {weight.dtype} with {weight.ndim} axes, not a matrix of {found}"
    if scale is None:
        return "has no scale"
    if scale.numel() != 1 or not 0 <= scale.to(torch.float64).item() < math.inf:
        return "has a scale that is no positive number"
    return None


def _format(mark: Tensor) -> str:
    try:
        return shortened(json.loads(mark.numpy().tobytes())["format"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "that cannot be read"


def _as_bytes(entry: object) -> Tensor:
    return torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
