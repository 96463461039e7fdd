"""VideoReward's published tensors -> ours: names of transformers, LoRA merged (spec 08 §4.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...functional.precision import at_least_float32
from ..key_table import count, inverted, renamed
from .frames import PAIR, PATCH
from .network import EPS, ROPE_THETA, VideoAlignConfig

MODEL = "VideoReward"
MODEL_TYPE = "qwen2_vl"

PREFIX = "base_model.model"
LAYER, OUR_LAYER = f"{PREFIX}.model.layers.#", "language_model.layers.#"

TABLE = (
    (f"{PREFIX}.visual.**", "visual.**"),
    (f"{LAYER}.*.*_proj.base_layer.*", f"{OUR_LAYER}.*.*_proj.*"),
    (f"{PREFIX}.model.**", "language_model.**"),
    (f"{PREFIX}.rm_head.weight", "rm_head.weight"),
)
"""Published name and ours, which is that of transformers 5."""

LORA = re.compile(r"(.*)\.lora_([AB])\.default\.weight")
UNUSED = f"{PREFIX}.lm_head.weight"
HEAD = "rm_head.weight"

LORA_ALPHA = 128.0
"""Of the published file, whose adapters have rank 64; B @ A counts alpha / rank times."""

HEAD_DIM, VISION_HEAD_DIM = 128, 80
"""Of Qwen2-VL; tensors do not tell how they are split into heads."""


def to_module(
    tensors: Mapping[str, Tensor], *, lora_alpha: float = LORA_ALPHA
) -> dict[str, Tensor]:
    """Merged tensors under our names, in their stored dtype; already converted ones as they are.

    Every linear layer of the language model becomes W + (lora_alpha / rank) * B @ A,
    computed in float32.

    Raises:
        CheckpointError: a tensor does not belong to the model, or half of an adapter is missing.
    """
    if HEAD in tensors:
        return dict(tensors)
    plain = {k: v for k, v in tensors.items() if k != UNUSED and not LORA.fullmatch(k)}
    adapters: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := LORA.fullmatch(name):
            adapters.setdefault(match[1], {})[match[2]] = tensor
    for layer, halves in adapters.items():
        target = f"{layer}.base_layer.weight"
        if halves.keys() != {"A", "B"} or target not in plain:
            raise CheckpointError(f"{MODEL} has half an adapter", found=layer)
        plain[target] = _merged(plain[target], halves["A"], halves["B"], lora_alpha)
    return renamed(plain, TABLE, MODEL)


def to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names for merged tensors under ours, without adapters; no tensor is copied."""
    return renamed(tensors, inverted(TABLE), MODEL)


def _merged(weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    precise = at_least_float32(weight.dtype)
    delta = up.to(precise) @ down.to(precise)
    return torch.add(weight.to(precise), delta, alpha=alpha / len(down)).to(weight.dtype)


def config_from_state_dict(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any] | None = None
) -> VideoAlignConfig:
    """Sizes of the model whose published or converted tensors these are.

    `settings` is the content of Qwen's `config.json`; only other sizes than the published ones
    need it, for how they are split into heads. The file of another model is ignored.

    Raises:
        CheckpointError: this is another model.
    """
    names = {k: k for k in tensors if k != UNUSED and not LORA.fullmatch(k)}
    if HEAD not in names:
        names = renamed(names, TABLE, MODEL)
    shapes = {ours: tuple(tensors[theirs].shape) for ours, theirs in names.items()}
    settings = settings if settings and settings.get("model_type") == MODEL_TYPE else {}
    text = {**settings, **settings.get("text_config", {})}
    try:
        vocab_size, dim = shapes["language_model.embed_tokens.weight"]
        queries, _ = shapes["language_model.layers.0.self_attn.q_proj.weight"]
        keys, _ = shapes["language_model.layers.0.self_attn.k_proj.weight"]
        vision_dim, _, *patch = shapes["visual.patch_embed.proj.weight"]
        num_heads = text.get("num_attention_heads", queries // HEAD_DIM)
        vision_heads = settings.get("vision_config", {}).get(
            "num_heads", vision_dim // VISION_HEAD_DIM
        )
        config = VideoAlignConfig(
            vocab_size=vocab_size,
            dim=dim,
            ffn_dim=shapes["language_model.layers.0.mlp.gate_proj.weight"][0],
            num_layers=count(OUR_LAYER, shapes),
            num_heads=num_heads,
            num_kv_heads=keys * num_heads // queries,
            rope_theta=text.get("rope_theta", ROPE_THETA),
            eps=text.get("rms_norm_eps", EPS),
            vision_dim=vision_dim,
            vision_ffn_dim=shapes["visual.blocks.0.mlp.fc1.weight"][0],
            vision_layers=count("visual.blocks.#", shapes),
            vision_heads=vision_heads,
        )
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"This is not {MODEL}", found=f"no usable {error}") from error
    if min(config.num_heads, config.num_kv_heads, config.vision_heads) < 1:
        raise CheckpointError(
            f"This {MODEL} has other heads than the published one",
            found=f"{queries} wide queries",
            fix=f"put the config.json of its {MODEL_TYPE} beside it",
        )
    if patch != [PAIR, PATCH, PATCH] or shapes.get(HEAD) != (1, dim):
        raise CheckpointError(f"This is not {MODEL}", found=f"patches {patch}")
    return config


def settings_of(config: VideoAlignConfig) -> dict[str, Any]:
    """What tensors do not tell, as Qwen's `config.json` would."""
    return {
        "model_type": MODEL_TYPE,
        "num_attention_heads": config.num_heads,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.eps,
        "vision_config": {"num_heads": config.vision_heads},
    }
