"""ComfyUI's repackaged MMAudio file: VAE, vocoder and mel front end in one (spec 04 §9)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...functional.precision import at_least_float32

VAE_PREFIX = "vae."
VOCODER_PREFIX = "vocoder."
WEIGHT_NORM_SUFFIXES = (".weight_g", ".parametrizations.weight.original0")
"""Names of the magnitude of a weight-normed weight, in both of PyTorch's styles."""


def ready_float(tensor: Tensor) -> Tensor:
    """In float32, in which weights are fused and used; float64 stays."""
    return tensor.to(at_least_float32(tensor.dtype))


def is_merged(tensors: Mapping[str, Tensor]) -> bool:
    """Whether one file holds both the VAE and the vocoder, under their prefixes."""
    return all(
        any(name.startswith(prefix) for name in tensors) for prefix in (VAE_PREFIX, VOCODER_PREFIX)
    )


def is_weight_normed(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights still come as magnitude and direction; repackaging fuses them."""
    return any(name.endswith(WEIGHT_NORM_SUFFIXES) for name in tensors)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix` of a merged file, without it; all tensors of any other file."""
    if not is_merged(tensors):
        return dict(tensors)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
