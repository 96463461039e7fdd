"""Self-rollout of a batch whose samples leave the loop at different steps.

A pass of the network has one timestep, so samples that leave every block at the same steps are made
together, and the others after them. Nothing of a sample depends on who else is in its group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import TextContext

from .draws import GroupedDraw, RolloutDraw
from .rollout import (
    BeforeBackward,
    Rollout,
    RolloutSettings,
    RolloutShape,
    roll_out,
    roll_out_for_gradient,
)
from .types import Latents

Samples = tuple[int, ...]


def roll_out_groups(
    student: DualStreamDiT,
    text: TextContext,
    shape: RolloutShape,
    draw: RolloutDraw | GroupedDraw,
) -> Latents:
    """`rollout.roll_out`, group by group where the draw has groups."""
    if isinstance(draw, RolloutDraw):
        return roll_out(student, text, shape, draw)
    clips = [
        roll_out(student, _text(text, samples), _shape(shape, samples), own)
        for samples, own in draw.groups
    ]
    return _in_order([samples for samples, _ in draw.groups], clips)


def roll_out_groups_for_gradient(
    student: DualStreamDiT,
    text: TextContext,
    shape: RolloutShape,
    draw: RolloutDraw | GroupedDraw,
    settings: RolloutSettings,
) -> Rollout:
    """`rollout.roll_out_for_gradient`, group by group where the draw has groups."""
    if isinstance(draw, RolloutDraw):
        return roll_out_for_gradient(student, text, shape, draw, settings)
    made = [
        (
            samples,
            roll_out_for_gradient(
                student, _text(text, samples), _shape(shape, samples), own, settings
            ),
        )
        for samples, own in draw.groups
    ]
    return GroupedRollout(made)


class GroupedRollout:
    """Clips of several rollouts as one batch."""

    def __init__(self, groups: Sequence[tuple[Samples, Rollout]]) -> None:
        self._groups = groups
        self.latents = _in_order([s for s, _ in groups], [made.latents for _, made in groups])

    def backward(
        self, gradient: Latents, *, scale: float = 1.0, before: BeforeBackward | None = None
    ) -> None:
        """See `Rollout`: every group gets the gradient of its samples."""
        for i, (samples, made) in enumerate(self._groups):
            told = _announcer(before, is_last_group=i == len(self._groups) - 1)
            own = Latents(*(g[list(samples)] for g in gradient))
            made.backward(own, scale=scale, before=told)


def _announcer(
    before: BeforeBackward | None, *, is_last_group: bool
) -> Callable[[bool], None] | None:
    """Only the last piece of the last group is the last."""
    if before is None:
        return None
    return lambda is_last: before(is_last and is_last_group)


def _in_order(groups: Sequence[Samples], clips: Sequence[Latents]) -> Latents:
    """Groups put together, their samples back in their places."""
    places = torch.tensor([sample for samples in groups for sample in samples]).argsort()
    return Latents(*(torch.cat(parts)[places] for parts in zip(*clips, strict=True)))


def _text(text: TextContext, samples: Samples) -> TextContext:
    return TextContext(text.video[list(samples)], text.audio[list(samples)])


def _shape(shape: RolloutShape, samples: Samples) -> RolloutShape:
    return replace(shape, clip=replace(shape.clip, batch=len(samples)))
