"""The teacher's sampling loop: classifier-free guidance per stream, two solvers (spec 02 §7)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..config import SIZE_STEP
from ..errors import RequestError
from ..functional.first_frame import start_with
from ..functional.solvers import EulerSolver, UniPCSolver, euler_table, unipc_table
from ..models.dit import DualStreamDiT, TeacherPass
from ..state.session import Text
from ..types import TextContext

LEAST_AREA = 720 * 720
"""Smaller requests are scaled up to this many pixels before snapping."""


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """Defaults are those of the published data for training (spec 02 §7).

    skip_layer: left out of both streams in the negative pass; None leaves none out.
    """

    num_steps: int = 49
    solver: Literal["euler", "unipc"] = "euler"
    shift: float = 5.0
    video_guidance: float = 4.0
    audio_guidance: float = 3.0
    skip_layer: int | None = 11

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise RequestError("The teacher needs at least one step", found=self.num_steps)


class TeacherState(NamedTuple):
    """Latents after `step` steps: video [b, f, c, h, w], audio [b, a, c]."""

    step: int
    video: Tensor
    audio: Tensor


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a clip is pushed towards, and away from.

    first_frame: [b, 1, c, h, w] clean latent that the picture starts with (image to video).
    """

    positive: TextContext
    negative: TextContext
    first_frame: Tensor | None = None


def teacher_states(
    model: DualStreamDiT,
    video_noise: Tensor,
    audio_noise: Tensor,
    guidance: Guidance,
    settings: TeacherSettings,
) -> Iterator[TeacherState]:
    """Yield the latents before every step, and the finished ones last."""
    table = _TABLES[settings.solver](settings.num_steps, settings.shift)
    solve_video, solve_audio = (_SOLVERS[settings.solver](table) for _ in range(2))
    positive, negative = _embed(model, guidance)
    state = TeacherState(0, start_with(guidance.first_frame, video_noise), audio_noise)
    for step, timestep in enumerate(table.timesteps):
        yield state
        video_flow, audio_flow = guided_flow(
            model, state, timestep, (positive, negative), settings, guidance.first_frame is not None
        )
        video = solve_video.step(step, state.video, video_flow)
        state = TeacherState(
            step + 1,
            start_with(guidance.first_frame, video),
            solve_audio.step(step, state.audio, audio_flow),
        )
    yield state


def sample_teacher(
    model: DualStreamDiT,
    video_noise: Tensor,
    audio_noise: Tensor,
    guidance: Guidance,
    settings: TeacherSettings,
) -> TeacherState:
    """Only the finished latents; see `teacher_states`."""
    states = teacher_states(model, video_noise, audio_noise, guidance, settings)
    return deque(states, maxlen=1).pop()


@torch.no_grad()
def guided_flow(
    model: DualStreamDiT,
    state: TeacherState,
    timestep: float,
    texts: tuple[Text, Text],
    settings: TeacherSettings,
    first_frame_clean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Flow v_neg + g (v_pos - v_neg) of both streams; texts: (positive, negative)."""
    batch, device = state.video.shape[0], state.video.device
    told = torch.full((batch,), timestep, dtype=torch.float32, device=device)
    towards, away = (
        model(
            state.video,
            state.audio,
            TeacherPass(text, told, first_frame_clean=first_frame_clean, skip_layer=skipped),
        )
        for text, skipped in zip(texts, (None, settings.skip_layer), strict=True)
    )
    return (
        away[0] + settings.video_guidance * (towards[0] - away[0]),
        away[1] + settings.audio_guidance * (towards[1] - away[1]),
    )


def snap_size(height: int, width: int) -> tuple[int, int]:
    """The pixel size that the teacher is run at: 512 x 960 becomes 512 x 992.

    Scaled to at least 720 x 720 pixels of area, then to multiples of 32. One latent is 16 pixels.
    """
    scale = math.sqrt(max(height * width, LEAST_AREA) / (height * width))
    sides = (round(side * scale) for side in (height, width))
    snapped = [max(SIZE_STEP, SIZE_STEP * round(side / SIZE_STEP)) for side in sides]
    return snapped[0], snapped[1]


_TABLES = {"euler": euler_table, "unipc": unipc_table}
_SOLVERS = {"euler": EulerSolver, "unipc": UniPCSolver}


@torch.no_grad()
def _embed(model: DualStreamDiT, guidance: Guidance) -> tuple[Text, Text]:
    """Both prompts inside the network; two clips of keys would be large, so layers make theirs."""
    return (
        model.embed_text(guidance.positive, keys=False),
        model.embed_text(guidance.negative, keys=False),
    )
