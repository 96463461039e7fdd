"""A training world of a few kilobytes for tests: a network, clips, embeddings, recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from training.data.embeddings import AUDIO_NEGATIVE, TEXT, VIDEO_NEGATIVE
from training.data.ode_pairs import AUDIO, VIDEO, ClipSize, pair_key
from training.data.prompts import prompt_key
from training.data.shards import ShardWriter
from training.toy.files import write_clips, write_network
from training.toy.world import TEXT_DIM, make_clips, toy_config, toy_prompts

SIZE = ClipSize(video_latents=2, audio_latents=10, height=2, width=4)
BLOCKS = {"video_latents": 1, "audio_latents": 5}
PROMPTS = toy_prompts()[:6]
CONFIG = toy_config(dim=16, num_layers=1)
STEPS = 4
"""Of the student; a trajectory has a state more."""


def write_world(root: Path) -> Path:
    write_network(root / "network.safetensors", CONFIG, seed=1)
    write_network(root / "larger.safetensors", toy_config(dim=16, num_layers=2), seed=1)
    write_clips(root / "clips", PROMPTS, SIZE, seed=1)
    with ShardWriter(root / "text") as writer:
        for i, prompt in enumerate([VIDEO_NEGATIVE, AUDIO_NEGATIVE, *PROMPTS]):
            rows = torch.randn(2 + i, TEXT_DIM, generator=torch.Generator().manual_seed(i))
            writer.add(prompt_key(prompt), {TEXT: rows.bfloat16()}, {"prompt": prompt})
    write_pairs(root / "pairs")
    return root


def write_pairs(folder: Path, steps: int = STEPS) -> None:
    clips = make_clips(PROMPTS, SIZE, seed=2)
    shares = torch.linspace(1, 0, steps + 1)
    with ShardWriter(folder, samples_per_shard=3) as writer:
        for i, prompt in enumerate(PROMPTS):
            tensors = {
                name: torch.stack([(1 - s) * clean + s * torch.ones_like(clean) for s in shares])
                for name, clean in ((VIDEO, clips.video[i]), (AUDIO, clips.audio[i]))
            }
            writer.add(pair_key(prompt, i), tensors, {"prompt": prompt, "seed": i})


def recipe_values(root: Path, phase: str, **groups: Any) -> dict[str, Any]:
    """A complete recipe as plain values; keyword arguments replace or extend groups."""
    values: dict[str, Any] = {
        "phase": phase,
        "run": {
            "folder": str(root / "run"),
            "max_steps": 4,
            "global_batch": 4,
            "micro_batch": 1,
            "save_every": 2,
            "keep": 2,
            "cpu": True,
        },
        "data": {
            "text": str(root / "text"),
            "clips": str(root / "clips"),
            "pairs": str(root / "pairs"),
        },
        "model": {
            "student": str(root / "network.safetensors"),
            "teacher": str(root / "network.safetensors"),
        },
        "clip": {"video_latents": 2, "audio_latents": 10, "height": 2, "width": 4},
        "blocks": BLOCKS,
        "train": {"partial": False},
        "optimizer": {"lr": 1e-2},
        "critic_optimizer": {"lr": 1e-2},
        "ema": {"start_step": 1},
        "generator_every": 2,
    }
    for name, group in groups.items():
        values[name] = values.get(name, {}) | group if isinstance(group, dict) else group
    return values


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path
