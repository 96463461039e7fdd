"""Names of the published umT5 encoder, and of `transformers`, which are ours (spec 05 §5)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ...config import TextEncoderConfig
from ...errors import CheckpointError

NAMES = (
    ("token_embedding", "shared"),
    ("norm", "encoder.final_layer_norm"),
    ("blocks.#.norm1", "encoder.block.#.layer.0.layer_norm"),
    ("blocks.#.norm2", "encoder.block.#.layer.1.layer_norm"),
    ("blocks.#.attn.q", "encoder.block.#.layer.0.SelfAttention.q"),
    ("blocks.#.attn.k", "encoder.block.#.layer.0.SelfAttention.k"),
    ("blocks.#.attn.v", "encoder.block.#.layer.0.SelfAttention.v"),
    ("blocks.#.attn.o", "encoder.block.#.layer.0.SelfAttention.o"),
    (
        "blocks.#.pos_embedding.embedding",
        "encoder.block.#.layer.0.SelfAttention.relative_attention_bias",
    ),
    ("blocks.#.ffn.gate.0", "encoder.block.#.layer.1.DenseReluDense.wi_0"),
    ("blocks.#.ffn.fc1", "encoder.block.#.layer.1.DenseReluDense.wi_1"),
    ("blocks.#.ffn.fc2", "encoder.block.#.layer.1.DenseReluDense.wo"),
)
"""Published name and name in `transformers.UMT5EncoderModel`; # is the number of a block.

All end in ``.weight``, and nothing is transposed.
"""

TO_MODULE = dict(NAMES)
TO_PUBLISHED = {ours: published for published, ours in NAMES}

EMBEDDING = "shared.weight"
TIED_EMBEDDING = "encoder.embed_tokens.weight"
"""One tensor under two names."""

BUNDLED_TOKENIZER = "spiece_model"
"""ComfyUI's umT5 files carry the SentencePiece model as a byte tensor of this name (spec 05 §6)."""


FIX = "use models_t5_umt5-xxl-enc-bf16.pth of Wan-AI/Wan2.2-TI2V-5B, or ComfyUI's umT5 in bf16"


def rename(name: str, table: Mapping[str, str] = TO_MODULE) -> str:
    """Our name of one published tensor, or the other way round.

    Raises:
        CheckpointError: the encoder has no such tensor.
    """
    number = re.search(r"\d+", name)
    pattern = name if number is None else re.sub(r"\d+", "#", name, count=1)
    new = table.get(pattern.removesuffix(".weight"))
    if new is None or not name.endswith(".weight"):
        raise CheckpointError("The umT5 encoder has no such tensor", found=name, fix=FIX)
    return f"{new if number is None else new.replace('#', number[0])}.weight"


def to_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names, the embedding under both of its names; no tensor is copied.

    Files that use the names of `transformers` already (ComfyUI's) come out the same.
    """
    if EMBEDDING in tensors:
        renamed = {k: v for k, v in tensors.items() if k != BUNDLED_TOKENIZER}
    else:
        renamed = {rename(k): v for k, v in tensors.items()}
    return renamed | {TIED_EMBEDDING: renamed[EMBEDDING]} if EMBEDDING in renamed else renamed


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names for tensors under ours; no tensor is copied."""
    return {rename(k, TO_PUBLISHED): v for k, v in tensors.items() if k != TIED_EMBEDDING}


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
        raise CheckpointError(
            "This is not a umT5 encoder", found=f"no usable {error}", fix=FIX
        ) from error
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
