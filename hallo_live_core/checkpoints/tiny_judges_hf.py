"""Tiny, untrained files of the judges of sound and picture, in the published layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import HalloLiveError
from ..rewards.audiobox import weights as audio_weights
from ..rewards.audiobox.network import AudioBox, AudioBoxConfig, HeadConfig
from ..rewards.videoalign import weights as video_weights
from ..rewards.videoalign.judge import AXES
from ..rewards.videoalign.network import VideoAlign, VideoAlignConfig
from ..rewards.videoalign.prompt import (
    CHAT_TOKENS,
    PLACEHOLDER,
    REWARD_TOKENS,
    SPECIAL,
    load_template,
)
from .build import META
from .catalog import AUDIOBOX, VIDEO_REWARD, VIDEO_REWARD_TOKENIZER
from .rewards_hf import MODEL_CONFIG, QWEN_CONFIG
from .safetensors_writer import write_safetensors
from .tiny import save, write_bytes
from .tiny_tokenizer import PROMPTS

SOUND = AudioBoxConfig(
    dim=32,
    ffn_dim=64,
    num_layers=2,
    num_heads=4,
    conv_dims=(16,) * 7,
    position_kernel=16,
    position_groups=4,
    heads=HeadConfig(dim=32, num_states=3, widths=(32, 32, 32, 32, 1)),
)
PICTURE = VideoAlignConfig(
    vocab_size=1024,
    dim=64,
    ffn_dim=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    vision_dim=32,
    vision_ffn_dim=64,
    vision_layers=2,
    vision_heads=2,
)

LORA_RANK, LORA_ALPHA = 4, 8
"""Of the tiny adapters."""

ADAPTER = 0.1
"""Size of what the adapters add, of the size of the weights."""


def write_tiny_audio_judge(directory: Path, generator: torch.Generator) -> None:
    """Write AudioBox' `model.safetensors` into its folder below `directory`.

    Raises:
        CheckpointError: a file cannot be written.
        HalloLiveError: transformers is not installed.
    """
    tensors = _filled(AudioBox(SOUND, device=META), generator)
    published = audio_weights.to_published(tensors)
    write_safetensors(Path(directory) / AUDIOBOX.names[0], published, metadata={"format": "pt"})


def write_tiny_video_judge(directory: Path, generator: torch.Generator) -> None:
    """Write VideoReward's checkpoint, with adapters, tokenizer and settings, below `directory`.

    Raises:
        CheckpointError: a file cannot be written.
        HalloLiveError: transformers or tokenizers is not installed.
    """
    weights = Path(directory) / VIDEO_REWARD.names[0]
    tensors = _filled(VideoAlign(PICTURE, device=META), generator)
    published = _with_adapters(video_weights.to_published(tensors), generator)
    save(weights, {name: tensor.bfloat16() for name, tensor in published.items()})
    content = {
        MODEL_CONFIG: {
            "data_config": {"eval_dim": list(AXES)},
            "peft_lora_config": {"lora_r": LORA_RANK, "lora_alpha": LORA_ALPHA},
        },
        QWEN_CONFIG: video_weights.settings_of(PICTURE),
    }
    for name, entries in content.items():
        write_bytes(weights.parents[1] / name, json.dumps(entries, indent=1).encode())
    write_bytes(Path(directory) / VIDEO_REWARD_TOKENIZER.names[0], train_tokenizer())


def train_tokenizer() -> bytes:
    """A `tokenizer.json` like Qwen's, learned from the template and a few prompts in a moment.

    Raises:
        HalloLiveError: the package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise HalloLiveError(
            "The tiny judge needs the package tokenizers",
            found=str(error),
            fix='pip install "hallo-live[rewards]"',
        ) from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*CHAT_TOKENS, *REWARD_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=PICTURE.vocab_size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = SPECIAL.split(load_template().whole.replace(PLACEHOLDER, ""))
    tokenizer.train_from_iterator([*texts, *PROMPTS], trainer)
    tokenizer.add_special_tokens(special)
    return tokenizer.to_str().encode()


def _filled(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights that keep the size of what passes through; norms that do nothing."""
    return {name: _weight(name, t.shape, generator) for name, t in module.state_dict().items()}


def _weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    noise = torch.randn(shape, generator=generator)
    if name.endswith("original0"):  # the lengths of a weight norm
        return noise.abs()
    return noise if "embed_tokens" in name else noise / math.sqrt(noise[0].numel())


def _with_adapters(published: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    tensors = dict(published)
    for name, weight in published.items():
        if not name.endswith(".base_layer.weight"):
            continue
        layer = name.removesuffix(".base_layer.weight")
        out_dim, in_dim = weight.shape
        down = torch.randn(LORA_RANK, in_dim, generator=generator) / math.sqrt(in_dim)
        up = torch.randn(out_dim, LORA_RANK, generator=generator) / math.sqrt(LORA_RANK)
        tensors[f"{layer}.lora_A.default.weight"] = down
        tensors[f"{layer}.lora_B.default.weight"] = ADAPTER * up
    embedding = published[f"{video_weights.PREFIX}.model.embed_tokens.weight"]
    return tensors | {video_weights.UNUSED: embedding.clone()}
