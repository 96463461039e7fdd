"""Stage 2, one micro-batch: what the generator learns and what the critic learns (spec 06 §5-8).

Both functions go backward themselves and leave gradients on the parameters; clearing, clipping and
stepping are `steps.update`. All that is random is handed in (`draws`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hallo_live_core.errors import RequestError
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.rewards.combine import LossScales

from .draws import (
    DrawnNoise,
    Draws,
    GroupedDraw,
    RolloutDraw,
    ScoreDraw,
    draw_exits,
    draw_scores,
    join_scores,
)
from .grouped_rollout import roll_out_groups, roll_out_groups_for_gradient
from .losses.critic import critic_loss
from .losses.dmd import DMDSettings, ask_scores, dmd_loss, stream_gradients
from .rollout import BeforeBackward, RolloutSettings, RolloutShape
from .schedules import (
    ScoreTimeSettings,
    exit_interval,
    exit_steps,
    guidance_range,
    score_range,
    score_timesteps,
    time_shares,
)
from .types import Latents, Prompts, StreamWeights

Weigh = Callable[[Latents], LossScales]
"""From clips of this micro-batch to the factors of their losses; no gradient goes through."""


class Networks(NamedTuple):
    """The student and the two that judge it; the teacher is frozen."""

    student: DualStreamDiT
    critic: DualStreamDiT
    teacher: DualStreamDiT


@dataclass(frozen=True, slots=True)
class DistillationSettings:
    """All settings of stage 2 that change a loss."""

    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    dmd: DMDSettings = field(default_factory=DMDSettings)
    score_times: ScoreTimeSettings = field(default_factory=ScoreTimeSettings)
    weights: StreamWeights = field(default_factory=StreamWeights)

    def __post_init__(self) -> None:
        if self.dmd.decoupled and not self.rollout.same_step_across_blocks:
            raise RequestError(
                "The decoupled loss needs one exit step for all blocks",
                fix="set same_step_across_blocks to true, or decoupled to false",
            )


def check_score_times(settings: DistillationSettings, schedule: NoiseSchedule) -> None:
    """Refuse score times that some exit step would leave none of.

    Raises:
        RequestError: so it is, and a run would stop when it first draws that step.
    """
    rollout, times = settings.rollout, settings.score_times
    last = len(exit_steps(schedule)) - 1
    for exit_step in range(last if rollout.last_step_only else 0, last + 1):
        shared = rollout.same_step_across_blocks
        interval = exit_interval(schedule, exit_step) if shared else None
        score_range(times, interval)
        if settings.dmd.decoupled:
            guidance_range(times, interval)


class StepDraw(NamedTuple):
    """All that is random in one micro-batch of either network."""

    rollout: RolloutDraw | GroupedDraw
    scores: ScoreDraw


def draw_step(
    draws: Draws,
    shape: RolloutShape,
    settings: DistillationSettings,
    *,
    device: torch.device,
    decoupled: bool = False,
) -> StepDraw:
    """Draw for the samples of `draws`; decoupled: also the second score time of that loss.

    Raises:
        RequestError: the limits of the score times leave none.
    """
    if settings.rollout.exit_steps == "per_sample":
        return _draw_each(draws, shape, settings, device, decoupled)
    exits, scores = _draw_one(draws, shape, settings, decoupled)
    noise = DrawnNoise(shape.clip, draws, device=device, dtype=shape.dtype)
    return StepDraw(RolloutDraw(noise, exits), scores)


def _draw_each(
    draws: Draws,
    shape: RolloutShape,
    settings: DistillationSettings,
    device: torch.device,
    decoupled: bool,
) -> StepDraw:
    """Exits of every sample, score times that fit them, and groups of samples with equal exits."""
    alone = [Draws(draws.seed, draws.batch, (sample,)) for sample in draws.samples]
    drawn = [_draw_one(one, shape, settings, decoupled) for one in alone]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, (exits, _) in enumerate(drawn):
        groups.setdefault(exits, []).append(place)
    made = []
    for exits, places in groups.items():
        clip = replace(shape.clip, batch=len(places))
        own = Draws(draws.seed, draws.batch, tuple(draws.samples[place] for place in places))
        noise = DrawnNoise(clip, own, device=device, dtype=shape.dtype)
        made.append((tuple(places), RolloutDraw(noise, exits)))
    return StepDraw(GroupedDraw(tuple(made)), join_scores([scores for _, scores in drawn]))


def _draw_one(
    draws: Draws, shape: RolloutShape, settings: DistillationSettings, decoupled: bool
) -> tuple[tuple[int, ...], ScoreDraw]:
    """One tuple of exits for the samples of `draws`, and the scores that go with it."""
    clip, schedule, rollout = shape.clip, shape.schedule, settings.rollout
    exits = draw_exits(
        draws,
        clip.plan.num_blocks,
        len(exit_steps(schedule)),
        same_step=rollout.same_step_across_blocks,
        last_step_only=rollout.last_step_only,
        of_first_sample=rollout.exit_steps == "per_sample",
    )
    interval = exit_interval(schedule, exits[0]) if rollout.same_step_across_blocks else None
    scores = draw_scores(
        draws,
        clip,
        score_range(settings.score_times, interval),
        guidance_range(settings.score_times, interval) if decoupled else None,
    )
    return exits, scores


def generator_backward(
    networks: Networks,
    prompts: Prompts,
    shape: RolloutShape,
    draw: StepDraw,
    settings: DistillationSettings,
    *,
    weigh: Weigh | None = None,
    scale: float = 1.0,
    before: BeforeBackward | None = None,
) -> dict[str, Tensor]:
    """Make clips, ask the scores, send the gradient to the student. Returns metrics.

    scale: share of this micro-batch in its update. before: see `BeforeBackward`.
    """
    rollout = roll_out_groups_for_gradient(
        networks.student, prompts.positive, shape, draw.rollout, settings.rollout
    )
    clips = rollout.latents
    scores = ask_scores(
        networks.teacher,
        networks.critic,
        clips,
        prompts,
        draw.scores,
        schedule=shape.schedule,
        times=settings.score_times,
    )
    gradients = stream_gradients(clips, scores, settings.dmd)
    loss = dmd_loss(gradients, settings.weights, None if weigh is None else weigh(clips))
    rollout.backward(loss.gradient, scale=scale, before=before)
    timesteps = score_timesteps(draw.scores.raw, settings.score_times)
    return loss.metrics | time_shares(timesteps, settings.score_times)


def critic_backward(
    networks: Networks,
    prompts: Prompts,
    shape: RolloutShape,
    draw: StepDraw,
    settings: DistillationSettings,
    *,
    weigh: Weigh | None = None,
    scale: float = 1.0,
    before: BeforeBackward | None = None,
) -> dict[str, Tensor]:
    """Make clips without a graph, let the critic learn their flow. Returns metrics."""
    clips = roll_out_groups(networks.student, prompts.positive, shape, draw.rollout)
    loss = critic_loss(
        networks.critic,
        clips,
        prompts.positive,
        draw.scores,
        schedule=shape.schedule,
        times=settings.score_times,
        weights=settings.weights,
        scales=None if weigh is None else weigh(clips),
    )
    if before is not None:
        before(True)
    (scale * loss.total).backward()
    return loss.metrics
