"""Weight files -> ready modules, one function per network.

Each reads a file and hands its tensors to the function of the same name in `build`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..models.audio_vae.audio_decoder import AudioDecoder
from ..models.dit.fusion import DualStreamDiT
from ..models.text_encoder import tokenizer as tokenizers
from ..models.text_encoder.tokenizer import Tokenizer
from ..models.text_encoder.umt5 import TextEncoder
from ..models.video_vae.decoder import WanVideoDecoder
from ..models.video_vae.encoder import WanVideoEncoder
from ..models.video_vae.taehv import TAEHV
from . import build
from .config_json import config_from_metadata
from .files import read_bytes, read_file
from .lora import LoraFiles, merge_into


def load_transformer(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    ema: bool = True,
    critic: bool = False,
    loras: LoraFiles = (),
) -> DualStreamDiT:
    """The transformer in any published or converted file (spec 01 §9); `dtype` None keeps it.

    ema, critic: which network of a training checkpoint, see `files.read_file`.
    loras: files and strengths of changes to merge into it.

    Raises:
        CheckpointError: a file is missing, damaged or another model.
    """
    file = read_file(path, ema=ema, critic=critic)
    module = build.transformer_from_state_dict(
        file.tensors,
        file.name,
        dtype=dtype,
        device=device,
        config=config_from_metadata(file.metadata, file.name),
    )
    merge_into(module, loras)
    return module


def load_video_decoder(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> WanVideoDecoder | TAEHV:
    """The decoder in a file, Wan2.2 or light, told apart by its tensors; `dtype` None keeps it.

    Raises:
        CheckpointError: the file is missing, damaged or another model.
    """
    file = read_file(path)
    return build.video_decoder_from_state_dict(file.tensors, file.name, dtype=dtype, device=device)


def load_taehv(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TAEHV:
    """The light decoder; a Wan2.2 VAE is refused.

    Raises:
        CheckpointError: the file is missing, damaged or another model.
    """
    file = read_file(path)
    return build.taehv_from_state_dict(file.tensors, file.name, dtype=dtype, device=device)


def load_video_encoder(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> WanVideoEncoder:
    """The encoder half of the Wan2.2 VAE.

    Raises:
        CheckpointError: the file is missing, damaged or another model.
    """
    file = read_file(path)
    return build.video_encoder_from_state_dict(file.tensors, file.name, dtype=dtype, device=device)


def load_audio_decoder(
    vae_path: Path,
    vocoder_path: Path | None = None,
    *,
    device: torch.device | str = "cpu",
) -> AudioDecoder:
    """VAE and vocoder in float32, from two files or from ComfyUI's merged one (spec 04 §9).

    Raises:
        CheckpointError: a file is missing, damaged or another model.
    """
    vae = read_file(vae_path)
    if vocoder_path is None:
        return build.audio_decoder_from_state_dicts(vae.tensors, None, vae.name, device=device)
    vocoder = read_file(vocoder_path)
    sources = f"{vae.name} with {vocoder.name}"
    return build.audio_decoder_from_state_dicts(
        vae.tensors, vocoder.tensors, sources, device=device
    )


def load_text_encoder(
    weights: Path,
    tokenizer: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TextEncoder:
    """umT5 with its tokenizer (`tokenizer.json` or `spiece.model`); `dtype` None keeps bf16.

    Raises:
        CheckpointError: a file is missing, damaged or another model.
        HalloLiveError: a package it needs is not installed.
    """
    tokenize = load_tokenizer(tokenizer)
    file = read_file(weights)
    return build.text_encoder_from_state_dict(
        file.tensors, file.name, tokenize, dtype=dtype, device=device
    )


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer from `tokenizer.json` or `spiece.model`, known by its ending.

    Raises:
        CheckpointError: the file is missing or no tokenizer.
        HalloLiveError: the package it needs is not installed.
    """
    content = read_bytes(path)
    if Path(path).suffix == ".json":
        return tokenizers.from_tokenizer_json(content)
    return tokenizers.from_sentencepiece(content)
