"""Writes what the phases read: a network to start from, clips, prompts and the tiny models."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

from hallo_live_core.checkpoints.config_json import config_to_metadata
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.config import TransformerConfig
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published

from ..data.ode_pairs import AUDIO, VIDEO, ClipSize
from ..data.prompts import COLUMN
from ..data.shards import ShardWriter
from .world import make_clips

QUIET = 0.1
"""Share of the usual size at which an untrained network's heads and last linear layers begin."""

QUIET_PARTS = ("head.head", ".o.weight", "ffn.2.", "w2", "time_projection")
"""What such layers have in their names."""

GATES = (2, 5)
"""Rows of a layer's modulation that are gates; they begin open."""


def write_network(path: Path, config: TransformerConfig, *, seed: int) -> Path:
    """An untrained transformer that learns fast, as a file with its sizes in the metadata.

    Its layers begin by changing almost nothing, so that what came in reaches the head.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: _untrained(name, like, generator)
        for name, like in DualStreamDiT(config, device="meta").state_dict().items()
    }
    write_safetensors(path, to_published(tensors), metadata=config_to_metadata(config))
    return path


def _untrained(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bias"):
        return torch.zeros(like.shape)
    if like.ndim == 1:
        return torch.ones(like.shape)
    noise = torch.randn(like.shape, generator=generator)
    if "modulation" not in name:
        scale = QUIET if any(part in name for part in QUIET_PARTS) else 1.0
        return scale * noise / math.sqrt(like[0].numel())
    tensor = QUIET * noise / math.sqrt(like.shape[-1])
    if like.shape[1] > max(GATES):
        tensor[:, GATES] += 1
    return tensor


def write_prompts(path: Path, prompts: list[str]) -> Path:
    """A table of prompts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMN])
        writer.writerows([prompt] for prompt in prompts)
    return path


def write_clips(
    folder: Path, prompts: list[str], size: ClipSize, *, seed: int, lead: int = 0
) -> None:
    """Clips of the world, one per entry of `prompts`."""
    clips = make_clips(prompts, size, seed, lead=lead)
    with ShardWriter(folder, samples_per_shard=len(prompts)) as writer:
        for i, prompt in enumerate(prompts):
            tensors = {VIDEO: clips.video[i], AUDIO: clips.audio[i]}
            writer.add(f"{seed}-{i:06d}", tensors, {"prompt": prompt})
