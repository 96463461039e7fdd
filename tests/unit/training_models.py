"""Tiny students, prompts and draws of training, shared by tests."""

from __future__ import annotations

import torch

from hallo_live_core.config import BlockSizes, ScheduleConfig
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import ClipShape
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import TextContext
from training.distillation import DistillationSettings, Networks, StepDraw, draw_step
from training.draws import DrawnNoise, Draws, RolloutDraw
from training.rollout import RolloutShape
from training.types import Latents, Prompts

from .dit_models import BLOCKS, CPU, normal, tiny_dit, tiny_text

WIDE = torch.float64


def learner() -> DualStreamDiT:
    return tiny_dit(dtype=WIDE).requires_grad_(True)


def shape(
    blocks: int = 3, batch: int = 1, lookahead: int = 0, steps: tuple[int, ...] = (1000, 500)
) -> RolloutShape:
    plan = ClipPlan(BlockSizes(BLOCKS.video_latents, BLOCKS.audio_latents, lookahead), blocks)
    clip = ClipShape(plan, (3, 4, 6), 4, batch=batch)
    return RolloutShape(clip, NoiseSchedule(ScheduleConfig(steps=steps)), WIDE)


def rollout_draw(of: RolloutShape, *exits: int, first: int = 0) -> RolloutDraw:
    """Noise of samples first, first + 1, ...; the last exit holds for the blocks that follow."""
    draws = Draws(3, 0, tuple(range(first, first + of.clip.batch)))
    noise = DrawnNoise(of.clip, draws, device=CPU, dtype=of.dtype)
    rest = (exits[-1],) * (of.clip.plan.num_blocks - len(exits))
    return RolloutDraw(noise, (*exits, *rest))


def text(batch: int = 1) -> TextContext:
    return tiny_text(batch, dtype=WIDE)


def prompts(batch: int = 1) -> Prompts:
    """Every sample has another prompt; the negative ones are alike for all."""
    away = TextContext(
        normal(1, 2, 6, seed=31, dtype=WIDE).expand(batch, -1, -1),
        normal(1, 2, 6, seed=32, dtype=WIDE).expand(batch, -1, -1),
    )
    return Prompts(text(batch), away)


def part(of: Prompts, sample: slice) -> Prompts:
    return Prompts(*(TextContext(t.video[sample], t.audio[sample]) for t in of))


def networks() -> Networks:
    """Three networks that disagree."""
    found = Networks(learner(), learner(), learner().requires_grad_(False))
    with torch.no_grad():
        for factor, network in zip((0.9, 1.1), (found.critic, found.teacher), strict=True):
            for parameter in network.parameters():
                parameter.mul_(factor)
    return found


def step_draw(
    of: RolloutShape, settings: DistillationSettings, samples: tuple[int, ...], batch: int = 0
) -> StepDraw:
    return draw_step(
        Draws(3, batch, samples), of, settings, device=CPU, decoupled=settings.dmd.decoupled
    )


def like(clips: Latents, seed: int) -> Latents:
    return Latents(*(normal(*x.shape, seed=seed + i, dtype=WIDE) for i, x in enumerate(clips)))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict, expected: dict, tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )
