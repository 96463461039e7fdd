"""Published weights of the MMAudio VAE -> ready weights (spec 04 §1, §3, §9).

The file holds raw weights. They are normalised here, once, and the learned output gain goes into
the output convolution: its absence is how a state dict says that it has been through here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...config import AudioVAEConfig
from ...errors import CheckpointError
from .autoencoder import UNIT_EPS
from .merged import VAE_PREFIX, is_merged, is_weight_normed, part, ready_float

GAIN = "learnable_gain"
MEL_BINS_44_KHZ = 128
"""By this the 44 kHz networks of MMAudio are told apart."""
NORM_TOLERANCE = 1e-2
"""How far from one the length of a normalised weight row may lie (sixteen-bit copies)."""
FIX = "use v1-16.pth of MMAudio (16 kHz), or ComfyUI's merged file made from it"


def config_from_state_dict(tensors: Mapping[str, Tensor]) -> AudioVAEConfig:
    """Sizes of the VAE in a published, prepared or merged state dict; either half is enough.

    Raises:
        CheckpointError: this is another model.
    """
    shapes = {k: tuple(v.shape) for k, v in part(tensors, VAE_PREFIX).items()}
    try:
        mel_bins = shapes["data_mean"][1]
        if "decoder.conv_in.weight" in shapes:
            widths = _widths(shapes, "decoder.up")
            latent_dim = shapes["decoder.conv_in.weight"][1]
            num_blocks = _count(shapes, "decoder.up.0.block") - 1
            hidden_dim = widths[0]
        else:
            widths = _widths(shapes, "encoder.down")
            latent_dim = shapes["encoder.conv_out.weight"][0] // 2
            num_blocks = _count(shapes, "encoder.down.0.block")
            hidden_dim = shapes["encoder.conv_in.weight"][0]
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            "This is not the audio VAE", found=f"no usable {error}", fix=FIX
        ) from error
    if mel_bins == MEL_BINS_44_KHZ:
        raise CheckpointError(
            "This is the audio VAE of MMAudio at 44 kHz; Hallo-Live speaks at 16 kHz",
            found=f"{mel_bins} mel bins, latents of {latent_dim}",
            fix=FIX,
        )
    return AudioVAEConfig(
        latent_dim=latent_dim,
        mel_bins=mel_bins,
        hidden_dim=hidden_dim,
        multipliers=tuple(width // hidden_dim for width in widths),
        num_res_blocks=num_blocks,
    )


def to_module(
    tensors: Mapping[str, Tensor], *, encoder: bool = False, decoder: bool = True
) -> dict[str, Tensor]:
    """Normalised float32 (or float64) tensors of `MMAudioVAE`, for the wanted halves.

    Takes the published file or a merged one, whose weights are normalised already if those of its
    vocoder are fused. A state dict that has been through here comes back unchanged.

    Raises:
        CheckpointError: a wanted half is not in the file, or the weights are not in the state
            that the file's form promises (raw or normalised).
    """
    normalised = is_merged(tensors) and not is_weight_normed(tensors)
    tensors = part(tensors, VAE_PREFIX)
    unwanted = tuple(
        f"{half}." for half, wanted in (("encoder", encoder), ("decoder", decoder)) if not wanted
    )
    ready = {k: ready_float(v) for k, v in tensors.items() if not k.startswith(unwanted)}
    for half, wanted in (("encoder", encoder), ("decoder", decoder)):
        if wanted and f"{half}.conv_out.weight" not in ready:
            raise CheckpointError(f"The {half} is not in this audio VAE", fix=FIX)
        if f"{half}.{GAIN}" in ready:
            _prepare(ready, f"{half}.", normalised=normalised)
    return ready


def normalise(weight: Tensor) -> Tensor:
    """Give each output channel of a convolution weight [out, in, k] unit length (spec 04 §3)."""
    fan_in = weight[0].numel()
    length = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
    return weight / (length * fan_in**-0.5 + UNIT_EPS) * fan_in**-0.5


def _prepare(ready: dict[str, Tensor], prefix: str, *, normalised: bool) -> None:
    """Normalise one half in place, unless it is, and fold its gain away."""
    names = [k for k in ready if k.startswith(prefix) and k.endswith(".weight")]
    lengths = torch.cat([ready[name].flatten(1).norm(dim=1) for name in names])
    if normalised and (lengths > 1 + NORM_TOLERANCE).any():
        raise CheckpointError(
            "A merged audio file with a fused vocoder must hold a normalised VAE",
            found=f"weight rows as long as {float(lengths.max()):.2f} instead of 1",
            fix="repackage the file from the published ones",
        )
    if not normalised and (lengths - 1).abs().max() < NORM_TOLERANCE:
        raise CheckpointError(
            "The weights of this audio VAE are normalised already; doing it twice spoils them",
            fix=FIX,
        )
    if not normalised:
        for name in names:
            ready[name] = normalise(ready[name])
    output = f"{prefix}conv_out.weight"
    ready[output] = ready[output] * (1 + ready.pop(prefix + GAIN))


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered entries there are below `prefix`."""
    return len({k[len(prefix) + 1 :].split(".")[0] for k in shapes if k.startswith(f"{prefix}.")})


def _widths(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> list[int]:
    """Widths of the levels, in the order of their numbers."""
    return [
        shapes[f"{prefix}.{level}.block.0.conv2.weight"][0]
        for level in range(_count(shapes, prefix))
    ]
