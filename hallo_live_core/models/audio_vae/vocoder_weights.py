"""Published weights of BigVGAN -> ready weights, and back (spec 04 §5, §9, §12).

Three things differ between file and module. Weight norm (g, v, in either of PyTorch's name
styles, or fused already) becomes a plain weight. The logarithmic snake parameters alpha and beta
become frequency and gain. The filter, which the file repeats in all activations, is kept once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ...config import VocoderConfig
from ...errors import CheckpointError
from .layers import LayerFactory
from .merged import VOCODER_PREFIX, part, ready_float
from .vae_weights import MEL_BINS_44_KHZ
from .vocoder import ANTI_ALIAS_TAPS, AntiAlias

WeightNormStyle = Literal["old", "new"]
STYLES: dict[WeightNormStyle, tuple[str, str]] = {
    "old": ("weight_g", "weight_v"),
    "new": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
}
"""Suffixes of magnitude g and direction v, as PyTorch's two weight norms name them."""

SNAKE_EPS = 1e-9
ANTI_ALIAS = "anti_alias."
FILTER_NAMES = ("upsample.filter", "downsample.lowpass.filter")
FILTER_TOLERANCE = 2e-3
"""Rounding that a sixteen-bit copy of the filter may have; another filter is farther away."""
FIX = "use best_netG.pt of MMAudio (BigVGAN at 16 kHz), or ComfyUI's merged file made from it"


def config_from_state_dict(tensors: Mapping[str, Tensor]) -> VocoderConfig:
    """Sizes of the vocoder in a published, prepared or merged state dict.

    Dilations are not stored anywhere; they are those of the published model.

    Raises:
        CheckpointError: this is another model.
    """
    shapes = {_plain(k): tuple(v.shape) for k, v in part(tensors, VOCODER_PREFIX).items()}
    try:
        channels, mel_bins, _ = shapes["conv_pre.weight"]
        stages = _count(shapes, r"ups\.(\d+)\.")
        resblocks = _count(shapes, r"resblocks\.(\d+)\.")
        config = VocoderConfig(
            mel_bins=mel_bins,
            channels=channels,
            upsample_kernels=tuple(shapes[f"ups.{i}.0.weight"][2] for i in range(stages)),
            resblock_kernels=tuple(
                shapes[f"resblocks.{j}.convs1.0.weight"][2] for j in range(resblocks // stages)
            ),
        )
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            "This is not the BigVGAN vocoder", found=f"no usable {error}", fix=FIX
        ) from error
    if mel_bins == MEL_BINS_44_KHZ or "conv_post.bias" not in shapes:
        raise CheckpointError(
            "This is BigVGAN v2 at 44 kHz; Hallo-Live speaks at 16 kHz",
            found=f"{mel_bins} mel bins",
            fix=FIX,
        )
    if _count(shapes, r"resblocks\.0\.convs1\.(\d+)\.") != len(config.dilations):
        raise CheckpointError("This BigVGAN has other residual blocks (not AMP type 1)", fix=FIX)
    return config


def to_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fused float32 (or float64) tensors of `BigVGAN`.

    Takes the published generator in either weight-norm style, a fused one or a merged file. A
    state dict that has been through here comes back unchanged.

    Raises:
        CheckpointError: half of a weight-norm pair is missing, or a filter is not the known one.
    """
    tensors = {k: ready_float(v) for k, v in part(tensors, VOCODER_PREFIX).items()}
    if any(name.startswith(ANTI_ALIAS) for name in tensors):
        return tensors
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(FILTER_NAMES):
            _check_filter(name, tensor)
        elif name.endswith(".act.alpha"):
            ready[name.removesuffix("alpha") + "frequency"] = tensor.exp()
        elif name.endswith(".act.beta"):
            ready[name.removesuffix("beta") + "gain"] = 1 / (tensor.exp() + SNAKE_EPS)
        elif (module := _module_of(name, _directions())) is not None:
            ready[f"{module}.weight"] = fuse(_magnitude(tensors, module), tensor)
        elif _module_of(name, _magnitudes()) is None:
            ready[name] = tensor
    dtype = next(iter(tensors.values())).dtype
    filters = AntiAlias(LayerFactory(device="cpu", dtype=dtype)).state_dict()
    return ready | {ANTI_ALIAS + name: tensor for name, tensor in filters.items()}


def to_published(
    tensors: Mapping[str, Tensor], style: WeightNormStyle = "old"
) -> dict[str, Tensor]:
    """The published names and values of prepared tensors, with g = |w| and v = w."""
    magnitude, direction = STYLES[style]
    published: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(ANTI_ALIAS):
            continue
        if name.endswith(".weight"):
            module = name.removesuffix("weight")
            published[module + magnitude] = _length(tensor)
            published[module + direction] = tensor
        elif name.endswith(".act.frequency"):
            activation = name.removesuffix("act.frequency")
            published[activation + "act.alpha"] = tensor.log()
            taps = tensor.new_tensor(ANTI_ALIAS_TAPS).view(1, 1, -1)
            published |= {activation + which: taps for which in FILTER_NAMES}
        elif name.endswith(".act.gain"):
            published[name.removesuffix("gain") + "beta"] = (1 / tensor - SNAKE_EPS).log()
        else:
            published[name] = tensor
    return published


def fuse(magnitude: Tensor, direction: Tensor) -> Tensor:
    """w = g v / |v|, the norm over all axes but the first (spec 04 §5)."""
    return direction * (magnitude / _length(direction))


def _length(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


def _magnitudes() -> tuple[str, ...]:
    return tuple(f".{magnitude}" for magnitude, _ in STYLES.values())


def _directions() -> tuple[str, ...]:
    return tuple(f".{direction}" for _, direction in STYLES.values())


def _module_of(name: str, suffixes: tuple[str, ...]) -> str | None:
    """The name before one of the suffixes, if it ends so."""
    return next((name.removesuffix(s) for s in suffixes if name.endswith(s)), None)


def _magnitude(tensors: Mapping[str, Tensor], module: str) -> Tensor:
    for suffix in _magnitudes():
        if module + suffix in tensors:
            return tensors[module + suffix]
    raise CheckpointError(
        "A weight of the vocoder has a direction but no magnitude", found=module, fix=FIX
    )


def _check_filter(name: str, taps: Tensor) -> None:
    known = taps.new_tensor(ANTI_ALIAS_TAPS)
    if taps.numel() != known.numel() or (taps.flatten() - known).abs().max() > FILTER_TOLERANCE:
        raise CheckpointError(
            "The activations of this vocoder resample with another filter", found=name, fix=FIX
        )


def _plain(name: str) -> str:
    """The name that a weight has once it is fused."""
    module = _module_of(name, _directions())
    return name if module is None else f"{module}.weight"


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """How many numbers the group of `pattern` takes in the names."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})
