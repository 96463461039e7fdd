"""Tells from tensor names what a weight file is, for error messages that help."""

from __future__ import annotations

import re
from collections.abc import Iterable

TRANSFORMER = "the Hallo-Live (or Ovi) dual-stream transformer"
VIDEO_VAE = "the Wan2.2 video VAE"
TAEHV = "a TAEHV light video decoder"
AUDIO_VAE = "the MMAudio VAE"
VOCODER = "the BigVGAN vocoder"
AUDIO_MERGED = "ComfyUI's merged MMAudio VAE and vocoder"
TEXT_ENCODER = "the umT5 text encoder"
FACE_DETECTOR = "the S3FD face detector"
SYNCNET = "SyncNet v2"
AUDIOBOX = "AudioBox Aesthetics"
VIDEO_REWARD = "VideoReward"

SIGNS = (
    (VIDEO_REWARD, r"(base_model\.model\.)?rm_head\.weight"),
    ("a LoRA, not a whole model", r".*[._]lora_.*"),
    (TRANSFORMER, r"(video|audio)_model\.blocks\.\d+\..*"),
    ("a quantised model, which this loader does not read", r".*\.(comfy_quant|scale_weight)"),
    (AUDIO_MERGED, r"vocoder\.conv_pre\..*"),
    ("a checkpoint of a whole image model", r"model\.diffusion_model\..*"),
    ("a whole image model", r"diffusion_model\..*"),
    (TEXT_ENCODER, r"blocks\.\d+\.pos_embedding\.embedding\.weight"),
    (TEXT_ENCODER, r"encoder\.block\.[1-9]\d*\.layer\.0\.SelfAttention\.relative_attention_bias.*"),
    ("a T5 text encoder other than umT5", r"encoder\.block\.\d+\.layer\..*"),
    (VIDEO_VAE, r"decoder\.upsamples\.\d+\.upsamples\..*"),
    ("the Wan2.1 video VAE", r"decoder\.upsamples\.\d+\.residual\..*"),
    (VOCODER, r"resblocks\.\d+\.convs1\..*"),
    (AUDIO_VAE, r"decoder\.up\.\d+\.block\.\d+\.conv1\.weight"),
    (TAEHV, r"decoder\.\d+\.conv\.\d+\.(weight|bias)"),
    (FACE_DETECTOR, r"L2Norm3_3\.weight"),
    (SYNCNET, r"netcnnlip\.0\.weight"),
    (AUDIOBOX, r"proj_layer\.CE\.0\.weight"),
    ("a single-stream Wan video transformer", r"blocks\.\d+\.self_attn\.q\.weight"),
)
"""What a file is -> a pattern that one of its names matches fully; the first hit counts."""

NAMED = 3
"""Names that a message gives of many."""


def identify(names: Iterable[str]) -> str | None:
    """What these tensor names belong to, None if unknown."""
    names = list(names)
    for model, pattern in SIGNS:
        sign = re.compile(pattern)
        if any(sign.fullmatch(name) for name in names):
            return model
    return None


def describe(names: Iterable[str]) -> str:
    """`identify` in words, with the first names when that fails."""
    names = list(names)
    if model := identify(names):
        return model
    return f"an unknown model with {len(names)} tensors: {some(names)}"


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
