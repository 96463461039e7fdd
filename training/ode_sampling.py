"""Trajectories of the teacher: the few states that stage 1 learns from (spec 06 §3)."""

from __future__ import annotations

import torch

from hallo_live_core.errors import RequestError
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.functional.solvers import euler_table
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.sampling.teacher import Guidance, TeacherSettings, teacher_states

from .types import Latents

STORED_STATES = (0, 12, 24, 36, -1)
"""Of the 50 states of 49 steps, those that lie nearest the student's steps, and the clean end."""


def sample_trajectory(
    teacher: DualStreamDiT,
    noise: Latents,
    guidance: Guidance,
    settings: TeacherSettings,
    stored: tuple[int, ...] = STORED_STATES,
) -> Latents:
    """Video [b, states, f, c, h, w] and audio [b, states, a, c], noisiest first, clean last.

    stored: which states; negative ones count from the end, -1 is the clean clip.

    Raises:
        RequestError: a state does not exist, or they are not in order.
    """
    last = settings.num_steps
    wanted = [index if index >= 0 else last + 1 + index for index in stored]
    if not wanted or wanted != sorted(set(wanted)) or not 0 <= wanted[0] <= wanted[-1] <= last:
        raise RequestError(
            f"Stored states must rise within 0..{last}", found=", ".join(map(str, stored))
        )
    states = teacher_states(teacher, noise.video, noise.audio, guidance, settings)
    kept = [state for state in states if state.step in wanted]
    return Latents(
        torch.stack([state.video for state in kept], dim=1),
        torch.stack([state.audio for state in kept], dim=1),
    )


def states_near(schedule: NoiseSchedule, num_steps: int, shift: float) -> tuple[int, ...]:
    """The states of an Euler teacher that lie nearest the student's steps, and the clean end.

    For 49 steps and the published schedule these are `STORED_STATES`.

    Raises:
        RequestError: the teacher makes too few steps to tell them apart.
    """
    timesteps = torch.tensor(euler_table(num_steps, shift).timesteps)
    found = [int((timesteps - step).abs().argmin()) for step in schedule.steps]
    if len(set(found)) < len(found):
        raise RequestError(
            f"A teacher of {num_steps} steps does not pass near each of the student's steps",
            found=", ".join(f"{step:g}" for step in schedule.steps),
            fix="give the teacher more steps",
        )
    return (*found, -1)
