"""Names and shapes of published transformer weights (spec 01 §9), both ways, without files.

Published: Ovi's `model.safetensors`, names such as `video_model.blocks.3.self_attn.q.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ...config import HEAD_DIM, TEXT_LENGTH, StreamConfig, TransformerConfig
from ...errors import CheckpointError, HalloLiveError

TO_MODULE: tuple[tuple[str, str], ...] = (
    (r"^(video|audio)_model\.blocks\.(\d+)\.(.+)$", r"blocks.\2.\1.\3"),
    (r"^(video|audio)_model\.head\.modulation$", r"\1.head.modulation.modulation"),
    (r"^(video|audio)_model\.(.+)$", r"\1.\2"),
)
TO_PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"^blocks\.(\d+)\.(video|audio)\.(.+)$", r"\2_model.blocks.\1.\3"),
    (r"^(video|audio)\.head\.modulation\.modulation$", r"\1_model.head.modulation"),
    (r"^(video|audio)\.(.+)$", r"\1_model.\2"),
)

FUSED: dict[str, tuple[str, ...]] = {
    "self_attn.qkv": ("self_attn.q", "self_attn.k", "self_attn.v"),
    "self_attn.norm_qk": ("self_attn.norm_q", "self_attn.norm_k"),
    "cross_attn.kv_fusion": ("cross_attn.k_fusion", "cross_attn.v_fusion"),
}
"""Layers that `fused.fuse_projections` makes, and the published ones that stand in their rows."""


def to_module(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to those of `DualStreamDiT`; names that are ours already stay.

    Raises:
        CheckpointError: a name is neither, or both kinds are mixed.
    """
    if weights and all(_renamed(name, TO_PUBLISHED) for name in weights):
        return dict(weights)
    return _rename_all(weights, TO_MODULE)


def to_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of `DualStreamDiT` to the published ones; fused layers come apart, as views.

    Raises:
        CheckpointError: a name is not one of ours.
    """
    return _rename_all(split_fused(weights), TO_PUBLISHED)


def split_fused(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `DualStreamDiT` as if its projections had never been fused, as views."""
    parts: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        names = _parts(name)
        parts.update(
            zip(names, tensor.chunk(len(names)), strict=True) if names else [(name, tensor)]
        )
    return parts


def rows_of(name: str, weights: Mapping[str, Tensor]) -> tuple[str, int, int] | None:
    """Where a weight of ours stands: in which tensor of `weights`, from which row on, how many.

    None for one that is there under its own name, or not at all.
    """
    layer, _, kind = name.rpartition(".")
    for fused, parts in FUSED.items():
        for i, part in enumerate(parts):
            whole = f"{layer.removesuffix(part)}{fused}.{kind}"
            if layer.endswith(f".{part}") and whole in weights:
                rows = len(weights[whole]) // len(parts)
                return whole, i * rows, rows
    return None


def module_name(name: str) -> str | None:
    """The name that `DualStreamDiT` has for a tensor of either kind of name; None if it is neither.

    Whether the network has such a tensor is another question.
    """
    if _renamed(name, TO_PUBLISHED) is not None:
        return name
    return _renamed(name, TO_MODULE)


def config_from_state_dict(
    weights: Mapping[str, Tensor],
    *,
    num_heads: tuple[int, int] | None = None,
    text_len: int = TEXT_LENGTH,
) -> TransformerConfig:
    """Sizes of the transformer that these weights belong to, under either kind of names.

    num_heads: of (video, audio), where heads are not 128 wide; files do not say.

    Raises:
        CheckpointError: the weights are of another model.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in to_module(weights).items()}
    heads = num_heads or (None, None)
    try:
        return TransformerConfig(
            video=_stream_config(shapes, "video", heads[0], text_len),
            audio=_stream_config(shapes, "audio", heads[1], text_len),
            num_layers=_num_layers(shapes),
        )
    except KeyError as error:
        raise CheckpointError(
            "These weights are not a dual-stream transformer", found=f"no tensor {error}"
        ) from None
    except (HalloLiveError, ValueError) as error:
        raise CheckpointError(
            "These weights do not make a dual-stream transformer", found=error
        ) from None


def _stream_config(
    shapes: Mapping[str, tuple[int, ...]], stream: str, num_heads: int | None, text_len: int
) -> StreamConfig:
    first = "weight" if stream == "video" else "0.weight"
    dim, in_channels, *patch = shapes[f"{stream}.patch_embedding.{first}"]
    return StreamConfig(
        in_channels=in_channels,
        dim=dim,
        ffn_dim=shapes[f"blocks.0.{stream}.ffn.0.weight"][0],
        num_heads=num_heads or max(1, dim // HEAD_DIM),
        patch=tuple(patch) if stream == "video" else (1,),
        freq_dim=shapes[f"{stream}.time_embedding.0.weight"][1],
        text_dim=shapes[f"{stream}.text_embedding.0.weight"][1],
        text_len=text_len,
    )


def _parts(name: str) -> tuple[str, ...]:
    """The names of the tensors that stand in a fused one; none for any other."""
    layer, _, kind = name.rpartition(".")
    for fused, parts in FUSED.items():
        if layer.endswith(f".{fused}"):
            start = layer.removesuffix(fused)
            return tuple(f"{start}{part}.{kind}" for part in parts)
    return ()


def _num_layers(names: Iterable[str]) -> int:
    found = (re.match(r"blocks\.(\d+)\.", name) for name in names)
    return 1 + max(int(match[1]) for match in found if match)


def _rename_all(
    weights: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]
) -> dict[str, Tensor]:
    renamed = {name: _renamed(name, rules) for name in weights}
    unknown = [name for name, new in renamed.items() if new is None]
    if unknown:
        raise CheckpointError(
            "These weights are not a dual-stream transformer",
            found=f"{len(unknown)} unknown names such as {unknown[0]}",
            fix="choose the transformer file, for example hallolive_dit.pt",
        )
    return {new: weights[name] for name, new in renamed.items() if new is not None}


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return None
