"""From the tensors of a video decoder's file to its sizes and to the weights of our modules.

Our modules have the published parameter names (spec 03 §11, §13), so little is left to do but to
tell the files apart: several VAEs of the Wan family look alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ...config import VideoVAEConfig
from ...errors import CheckpointError
from .latents import Z_DIM
from .taehv import TIME_GROWTH, TAEHVConfig

StateDict = Mapping[str, Tensor]

Part = Literal["decoder", "encoder"]

_PARTS: dict[Part, tuple[str, str]] = {
    "decoder": ("decoder.", "conv2."),
    "encoder": ("encoder.", "conv1."),
}

_FIX = "use Wan2.2_VAE.pth of Wan-AI/Wan2.2-TI2V-5B, its safetensors form, or taew2_2"


def config_from_state_dict(state_dict: StateDict) -> VideoVAEConfig:
    """Sizes of a Wan2.2 video VAE from the names and shapes of its weights.

    A file with the decoder alone is enough; the encoder's width is then that of the published one.

    Raises:
        CheckpointError: the weights are those of another model.
    """
    _check_wan(state_dict)
    levels = _count(state_dict, "decoder.upsamples.{}.upsamples.0.residual.2.weight")
    blocks = _count(state_dict, "decoder.upsamples.0.upsamples.{}.residual.2.weight")
    widths = [
        state_dict[f"decoder.upsamples.{i}.upsamples.0.residual.2.weight"].shape[0]
        for i in reversed(range(levels))
    ]
    encoder_conv = state_dict.get("encoder.conv1.weight")
    encoder_dim = VideoVAEConfig().encoder_dim if encoder_conv is None else encoder_conv.shape[0]
    first_level = state_dict.get("encoder.downsamples.0.downsamples.0.residual.2.weight")
    first_multiplier = 1 if first_level is None else first_level.shape[0] // encoder_dim
    decoder_dim = widths[0] // first_multiplier
    return VideoVAEConfig(
        z_dim=state_dict["conv2.weight"].shape[0],
        encoder_dim=encoder_dim,
        decoder_dim=decoder_dim,
        multipliers=tuple(width // decoder_dim for width in widths),
        num_res_blocks=blocks - 1,
        temporal_downsample=tuple(
            f"decoder.upsamples.{i}.upsamples.{blocks}.time_conv.weight" in state_dict
            for i in reversed(range(levels - 1))
        ),
    )


def to_module(state_dict: StateDict, part: Part = "decoder") -> dict[str, Tensor]:
    """The weights of `WanVideoDecoder` or of `WanVideoEncoder`; names stay as published.

    Raises:
        CheckpointError: another model, or a file without that part.
    """
    _check_wan(state_dict)
    weights = {k: v for k, v in state_dict.items() if k.startswith(_PARTS[part])}
    if not weights:
        raise CheckpointError(f"The video VAE file has no {part}", fix=_FIX)
    return weights


def taehv_config_from_state_dict(
    state_dict: StateDict, *, normalised_latents: bool = True
) -> TAEHVConfig:
    """Sizes of a light decoder; False for `lighttaew2_2`, which no tensor tells from `taew2_2`.

    Raises:
        CheckpointError: the weights are those of another model.
    """
    if not _is_taehv(state_dict):
        _check_wan(state_dict)
        raise CheckpointError(
            "These are the weights of the big video VAE, not of a light one",
            fix="use taew2_2, taew2_2_super or lighttaew2_2",
        )
    wide = _is_wide(state_dict)
    firsts = ("decoder.0", "decoder.8.conv.3", "decoder.15.conv.3") if wide else _BASE_FIRSTS
    widths = [state_dict[f"{name}.weight"].shape[0] for name in firsts]
    last = state_dict["decoder.22.weight"].shape[1]
    return TAEHVConfig(
        widths=(widths[0], widths[1], widths[2], last),
        wide_kernels=wide,
        normalised_latents=normalised_latents,
    )


def taehv_to_module(state_dict: StateDict) -> dict[str, Tensor]:
    """The weights of `TAEHV`: the decoder alone, surplus rows of growing layers cut off.

    Files made for a decoder that grows time more often have more rows; the last ones count.

    Raises:
        CheckpointError: the weights are those of another model.
    """
    taehv_config_from_state_dict(state_dict)
    weights = {k: v for k, v in state_dict.items() if k.startswith("decoder.")}
    growing = sorted(filter(_GROWS.match, weights), key=lambda name: int(name.split(".")[1]))
    for name, growth in zip(growing, TIME_GROWTH, strict=True):
        weight = weights[name]
        weights[name] = weight[-weight.shape[1] * growth :]
    return weights


_BASE_FIRSTS = ("decoder.1", "decoder.8", "decoder.14")
_GROWS = re.compile(r"decoder\.\d+\.conv\.weight$")


def _is_wide(state_dict: StateDict) -> bool:
    return "decoder.1.conv.0.weight" in state_dict


def _is_taehv(state_dict: StateDict) -> bool:
    """Whether this is a light decoder; refuses those for other latents."""
    if "decoder.22.weight" not in state_dict:
        return False
    first = "decoder.0.weight" if _is_wide(state_dict) else "decoder.1.weight"
    if first not in state_dict or state_dict[first].shape[1] != Z_DIM:
        channels = state_dict[first].shape[1] if first in state_dict else "unknown"
        raise CheckpointError(
            "This light decoder is made for other latents",
            found=f"{channels} channels, needed {Z_DIM}",
            fix="use taew2_2, taew2_2_super or lighttaew2_2",
        )
    return True


def _check_wan(state_dict: StateDict) -> None:
    """Refuse everything but a Wan2.2 video VAE under its published names.

    Raises:
        CheckpointError: says which model the weights seem to be.
    """
    if "decoder.conv_in.weight" in state_dict or "post_quant_conv.weight" in state_dict:
        problem, found = "This video VAE has the layout of diffusers", "decoder.conv_in or similar"
    elif "decoder.upsamples.0.residual.2.weight" in state_dict:
        problem, found = "This is the VAE of Wan 2.1, which has other latents", "16 channels"
    elif "decoder.upsamples.0.upsamples.0.residual.2.weight" not in state_dict:
        names = ", ".join(list(state_dict)[:3]) or "no tensors"
        problem, found = "This is no Wan2.2 video VAE", names
    elif "conv2.weight" not in state_dict or state_dict["conv2.weight"].shape[0] != Z_DIM:
        shape = "none" if "conv2.weight" not in state_dict else state_dict["conv2.weight"].shape
        problem, found = f"This video VAE's latents do not have {Z_DIM} channels", f"conv2 {shape}"
    else:
        return
    raise CheckpointError(problem, found=found, fix=_FIX)


def _count(state_dict: StateDict, pattern: str) -> int:
    """How many names `pattern.format(0)`, `pattern.format(1)`, ... there are."""
    number = 0
    while pattern.format(number) in state_dict:
        number += 1
    return number
