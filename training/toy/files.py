"""Writes what the phases read: a network to start from, clips, prompts and the tiny models."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch

from hallo_live_core.checkpoints.config_json import config_to_metadata
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.config import TransformerConfig
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published

from ..data.ode_pairs import AUDIO, VIDEO, ClipSize
from ..data.prompts import COLUMN
from ..data.shards import ShardWriter
from .world import make_clips

HEAD_SCALE = 0.1
"""Untrained heads answer quietly."""


def write_network(path: Path, config: TransformerConfig, *, seed: int) -> Path:
    """An untrained transformer that can learn, as a file with its sizes in the metadata."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, like in DualStreamDiT(config, device="meta").state_dict().items():
        if name.endswith("bias"):
            tensors[name] = torch.zeros(like.shape)
        elif like.ndim == 1:
            tensors[name] = torch.ones(like.shape)
        else:
            noise = torch.randn(like.shape, generator=generator)
            scale = HEAD_SCALE if "head.head" in name else 1.0
            fan_in = like.shape[-1] if "modulation" in name else like[0].numel()
            tensors[name] = scale * noise / math.sqrt(fan_in)
    write_safetensors(path, to_published(tensors), metadata=config_to_metadata(config))
    return path


def write_prompts(path: Path, prompts: list[str]) -> Path:
    """A table of prompts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMN])
        writer.writerows([prompt] for prompt in prompts)
    return path


def write_clips(
    folder: Path, prompts: list[str], size: ClipSize, *, seed: int, lead: float = 0.0
) -> None:
    """Clips of the world, one per entry of `prompts`."""
    clips = make_clips(prompts, size, seed, lead=lead)
    with ShardWriter(folder, samples_per_shard=len(prompts)) as writer:
        for i, prompt in enumerate(prompts):
            tensors = {VIDEO: clips.video[i], AUDIO: clips.audio[i]}
            writer.add(f"{seed}-{i:06d}", tensors, {"prompt": prompt})
