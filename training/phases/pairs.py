"""`make-ode-pairs`: the teacher samples, five states of every trajectory are kept (spec 06 §3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hallo_live_core.functional.noise import ClipShape, CorrelatedNoise, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.sampling.teacher import Guidance

from ..data.embeddings import TextStore
from ..data.ode_pairs import AUDIO, VIDEO, pair_key
from ..data.prompts import prompt_key, read_prompts
from ..data.shards import ShardWriter, finished_keys
from ..ode_sampling import sample_trajectory, states_near
from ..parallel import Processes
from ..recipe import Recipe
from ..types import Latents
from .batches import LatentJudge, clip_shape, open_text, to_device
from .networks import load_frozen

KEY_BASE = 16


def make_pairs(recipe: Recipe, processes: Processes, judge: LatentJudge | None = None) -> int:
    """Write the trajectories that are missing in `data.pairs`; returns how many this process wrote.

    judge: scores where they end; each trajectory's info then has its `scores`.
    Prompts are those of `data.prompts`, without it all that have an embedding. Every process takes
    its share of what is missing, so a run that was cut goes on where it was, on any number.
    """
    teacher = load_frozen(recipe.model.teacher, processes)
    text_dim = teacher.config.video.text_dim
    prompts = read_prompts(Path(recipe.data.prompts)) if recipe.data.prompts else None
    text = open_text(recipe, text_dim, prompts)
    folder = Path(recipe.data.pairs)
    repeats = range(recipe.pairs.repeats)
    jobs = [(p, seed_of(p, recipe) + r) for p in prompts or text.prompts for r in repeats]
    done = finished_keys(folder)
    processes.wait()
    missing = [job for job in jobs if pair_key(*job) not in done]
    mine = _share(missing, processes)
    with ShardWriter(
        folder, worker=processes.rank, samples_per_shard=recipe.data.samples_per_shard
    ) as writer:
        starts = range(0, len(mine), recipe.run.micro_batch)
        for start in tqdm(starts, "make-ode-pairs", disable=not processes.is_main, leave=False):
            batch = mine[start : start + recipe.run.micro_batch]
            states = trajectories(teacher, text, batch, recipe, processes)
            scores = _scores(judge, states, batch, processes)
            for i, (prompt, seed) in enumerate(batch):
                tensors = {VIDEO: states.video[i], AUDIO: states.audio[i]}
                info = {"prompt": prompt, "seed": seed, **scores[i]}
                writer.add(pair_key(prompt, seed), tensors, info)
    return len(mine)


def _scores(
    judge: LatentJudge | None,
    states: Latents,
    jobs: Sequence[tuple[str, int]],
    processes: Processes,
) -> list[dict[str, Any]]:
    """What judges say of each clip; None where one could not tell, nothing without a judge."""
    if judge is None:
        return [{} for _ in jobs]
    clips = Latents(*(x[:, -1].to(processes.device, processes.dtype) for x in states))
    found = judge.score(clips, [prompt for prompt, _ in jobs])
    values = {name: column.tolist() for name, column in found.items()}
    return [
        {"scores": {n: v[i] if math.isfinite(v[i]) else None for n, v in values.items()}}
        for i in range(len(jobs))
    ]


@torch.no_grad()
def trajectories(
    teacher: DualStreamDiT,
    text: TextStore,
    jobs: list[tuple[str, int]],
    recipe: Recipe,
    processes: Processes,
) -> Latents:
    """States of a batch of (prompt, seed): bf16 [b, state, f, c, h, w] and [b, state, a, c]."""
    shape = clip_shape(recipe, teacher, 1)
    noise = initial_noise([seed for _, seed in jobs], shape, recipe, processes)
    guidance = Guidance(
        to_device(text.context([prompt for prompt, _ in jobs]), processes),
        to_device(text.negative(len(jobs)), processes),
    )
    settings = recipe.sampling
    stored = states_near(NoiseSchedule(recipe.schedule), settings.num_steps, settings.shift)
    states = sample_trajectory(teacher, noise, guidance, settings, stored)
    return Latents(*(x.bfloat16().cpu() for x in states))


def initial_noise(
    seeds: list[int], shape: ClipShape, recipe: Recipe, processes: Processes
) -> Latents:
    """Noise of whole clips, each from its own seed."""
    source = CorrelatedNoise if recipe.pairs.correlated_noise else SeededNoise

    def clip(seed: int) -> tuple[Tensor, Tensor]:
        noise = source(shape, seed, device=processes.device, dtype=processes.dtype)
        blocks = shape.plan.blocks
        return (
            torch.cat([noise.initial_video(block) for block in blocks], dim=1),
            torch.cat([noise.initial_audio(block) for block in blocks], dim=1),
        )

    video, audio = (torch.cat(parts) for parts in zip(*map(clip, seeds), strict=True))
    return Latents(video, audio)


def seed_of(prompt: str, recipe: Recipe) -> int:
    """The seed of a prompt's trajectory: its own unless one for all is asked for."""
    if recipe.pairs.one_seed:
        return recipe.run.seed
    return recipe.run.seed + int(prompt_key(prompt)[:8], KEY_BASE)


def _share(jobs: list[tuple[str, int]], processes: Processes) -> list[tuple[str, int]]:
    """Every n-th job. With sharded weights all processes must make equally many calls."""
    mine = jobs[processes.rank :: processes.count]
    if processes.sharded and len(jobs) % processes.count:
        fullest = -(-len(jobs) // processes.count)
        mine = mine + jobs[: fullest - len(mine)]
    return mine
