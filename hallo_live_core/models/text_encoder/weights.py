"""Names of the published umT5 encoder, and of `transformers`, which are ours (spec 05 §5)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ...config import TextEncoderConfig
from ...errors import CheckpointError

RENAMES = (
    (r"token_embedding\.weight", r"shared.weight"),
    (r"norm\.weight", r"encoder.final_layer_norm.weight"),
    (r"blocks\.(\d+)\.norm1\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
    (r"blocks\.(\d+)\.norm2\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"blocks\.(\d+)\.attn\.([qkvo])\.weight", r"encoder.block.\1.layer.0.SelfAttention.\2.weight"),
    (
        r"blocks\.(\d+)\.pos_embedding\.embedding\.weight",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (
        r"blocks\.(\d+)\.ffn\.gate\.0\.weight",
        r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight",
    ),
    (r"blocks\.(\d+)\.ffn\.fc1\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
    (r"blocks\.(\d+)\.ffn\.fc2\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
)
"""Published name (a full match) -> name in `transformers.UMT5EncoderModel`. Nothing transposes."""

EMBEDDING = "shared.weight"
TIED_EMBEDDING = "encoder.embed_tokens.weight"
"""One tensor under two names."""

BUNDLED_TOKENIZER = "spiece_model"
"""ComfyUI's umT5 files carry the SentencePiece model as a byte tensor of this name (spec 05 §6)."""


def rename(name: str) -> str:
    """Our name of one published tensor.

    Raises:
        CheckpointError: the published encoder has no such tensor.
    """
    for pattern, ours in RENAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    raise CheckpointError("The umT5 encoder has no such tensor", found=name)


def to_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names, the embedding under both of its names; no tensor is copied.

    Files that use the names of `transformers` already (ComfyUI's) come out the same.
    """
    if EMBEDDING in tensors:
        renamed = {k: v for k, v in tensors.items() if k != BUNDLED_TOKENIZER}
    else:
        renamed = {rename(k): v for k, v in tensors.items()}
    return renamed | {TIED_EMBEDDING: renamed[EMBEDDING]} if EMBEDDING in renamed else renamed


def config_from_state_dict(tensors: Mapping[str, Tensor]) -> TextEncoderConfig:
    """Sizes of the encoder whose published (or `transformers`) tensors these are.

    Raises:
        CheckpointError: this is another model.
    """
    shapes = {k: tuple(v.shape) for k, v in to_module(tensors).items()}
    block = "encoder.block.0.layer."
    try:
        vocab_size, dim = shapes[EMBEDDING]
        attention_dim, _ = shapes[block + "0.SelfAttention.q.weight"]
        num_buckets, num_heads = shapes[block + "0.SelfAttention.relative_attention_bias.weight"]
        ffn_dim, _ = shapes[block + "1.DenseReluDense.wi_0.weight"]
    except (KeyError, ValueError) as error:
        raise CheckpointError("This is not a umT5 encoder", found=f"no usable {error}") from error
    blocks = {match[1] for k in shapes if (match := re.match(r"encoder\.block\.(\d+)\.", k))}
    return TextEncoderConfig(
        vocab_size=vocab_size,
        dim=dim,
        attention_dim=attention_dim,
        ffn_dim=ffn_dim,
        num_layers=len(blocks),
        num_heads=num_heads,
        num_buckets=num_buckets,
    )
