"""The rollout as spec 02 §3 says it, block by block; see `transformer` beside it.

The clean-context pass is a whole call, of which only the caches are kept; after the last block
there is none, as in the product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.reference.transformer import Pair, ReferenceTransformer
from hallo_live_core.functional.blocks import Block, ClipPlan
from hallo_live_core.functional.noise import NoiseSource, audio_window
from hallo_live_core.functional.schedule import NoiseSchedule


@torch.inference_mode()
def rollout(
    model: ReferenceTransformer,
    text: Pair,
    plan: ClipPlan,
    schedule: NoiseSchedule,
    noise: NoiseSource,
) -> tuple[list[Tensor], list[Tensor]]:
    """Clean video [b, f, c, h, w] and audio [b, a, c] of every block."""
    past, videos, audios = model.empty_past(), [], []
    for block in plan.blocks:
        video, window = noise.initial_video(block), audio_window(noise, plan, block)
        history = [*audios] or [window[:, :0]]
        for step, t in enumerate(schedule.steps):
            audio = torch.cat([*history, window], dim=1)
            times = _times(block, audio, video, t, schedule.context)
            flows = model(video, audio, times, text, past, block.first_video)
            clean_video = _clean(video, flows[0], times[0], schedule)
            clean_audio = _clean(audio, flows[1], times[1], schedule)
            if t != schedule.steps[-1]:
                sigma = schedule.sigma(schedule.steps[step + 1])
                fresh = noise.fresh(block, step)
                video = _noisy(clean_video, fresh[0], sigma)
                window = _noisy(clean_audio[:, block.first_audio :], fresh[1], sigma)
        videos.append(clean_video)
        audios.append(clean_audio[:, block.first_audio : block.end_audio])
        if not block.is_last:
            calm = tuple(
                torch.full(x.shape[:2], schedule.context, device=x.device)
                for x in (clean_video, clean_audio)
            )
            model(clean_video, clean_audio, calm, text, past, block.first_video, remember=True)
    return videos, audios


def _times(block: Block, audio: Tensor, video: Tensor, t: float, context: float) -> Pair:
    audio_times = torch.full(audio.shape[:2], t, device=audio.device)
    audio_times[:, : block.first_audio] = context
    return torch.full(video.shape[:2], t, device=video.device), audio_times


def _clean(noisy: Tensor, flow: Tensor, times: Tensor, schedule: NoiseSchedule) -> Tensor:
    """noisy - sigma * flow in float64, a sigma for every latent, looked up in the table."""
    table = schedule.sigmas.double().to(noisy.device)
    distance = (1000 * table - times.double().flatten()[:, None]).abs()
    sigma = table[distance.argmin(dim=1)].reshape(*times.shape, *[1] * (noisy.ndim - 2))
    return (noisy.double() - sigma * flow.double()).to(flow.dtype)


def _noisy(clean: Tensor, fresh: Tensor, sigma: float) -> Tensor:
    wide = torch.promote_types(fresh.dtype, torch.float32)
    return ((1 - sigma) * clean.to(wide) + sigma * fresh.to(wide)).to(fresh.dtype)
