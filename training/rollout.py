"""Self-rollout: the student makes clips as its users will, block by block (spec 06 §6).

The loop is the sampler's own. Each block leaves it at its exit step, which alone builds a graph,
and later blocks see the clean past. What they let through to earlier blocks is `history_gradient`.

With the past detached, blocks are independent given their inputs. So nothing needs a graph while
the clip is made: the gradient that arrives at the clip is known from the scores, and then one block
at a time repeats its exit step and goes backward. One block's graph is in memory, not the clip's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hallo_live_core.errors import RequestError
from hallo_live_core.functional.blocks import Block
from hallo_live_core.functional.noise import ClipShape
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.functional.window import Window
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.sampling.denoiser import Clean, Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.kv_cache import HistoryGradient
from hallo_live_core.state.session import SessionShape, SessionState
from hallo_live_core.types import TextContext

from .draws import RolloutDraw
from .schedules import exit_steps
from .types import Latents

BeforeBackward = Callable[[bool], None]
"""Called before every piece of a backward pass with whether it is the last, so that sharded
gradients can be exchanged once."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How the student makes clips in training.

    same_step_across_blocks: one exit for all blocks. exit_steps: the same for all samples of an
    update, or drawn for every sample. last_step_only: no early exits.
    recompute: with the past detached, keep one block's graph at a time. window_blocks, sink_blocks:
    what a clip remembers while it is made (`functional.window`); 0 blocks: everything.
    """

    history_gradient: HistoryGradient = "detached"
    same_step_across_blocks: bool = True
    exit_steps: Literal["shared", "per_sample"] = "shared"
    last_step_only: bool = False
    recompute: bool = True
    window_blocks: int = 0
    sink_blocks: int = 1

    @property
    def window(self) -> Window | None:
        """What is remembered, if not everything.

        Raises:
            RequestError: no place is left for the block in work.
        """
        return Window(self.window_blocks, self.sink_blocks) if self.window_blocks else None


@dataclass(frozen=True, slots=True)
class RolloutShape:
    """What is made: the clip, the student's schedule, and the dtype that it computes in."""

    clip: ClipShape
    schedule: NoiseSchedule
    dtype: torch.dtype = torch.float32

    @property
    def session(self) -> SessionShape:
        """The size of the session that makes it."""
        _, height, width = self.clip.video
        return SessionShape(self.clip.plan, height, width, batch=self.clip.batch)


class Rollout(Protocol):
    """A clip of the student that can be sent a gradient, once."""

    latents: Latents
    """The clip, without its graph."""

    def backward(
        self, gradient: Latents, *, scale: float = 1.0, before: BeforeBackward | None = None
    ) -> None:
        """Add to the student's gradients what `scale * gradient` at the clip means for it."""
        ...


@torch.no_grad()
def roll_out(
    student: DualStreamDiT, text: TextContext, shape: RolloutShape, draw: RolloutDraw
) -> Latents:
    """Make clips; no graph is built, here or later.

    Raises:
        RequestError: the exit steps do not fit the clip or the schedule.
    """
    denoiser = Denoiser(student, _open(student, text, shape), shape.schedule)
    return _make(denoiser, draw)


def roll_out_for_gradient(
    student: DualStreamDiT,
    text: TextContext,
    shape: RolloutShape,
    draw: RolloutDraw,
    settings: RolloutSettings,
) -> Rollout:
    """Make clips to which a gradient can be sent.

    Raises:
        RequestError: the exit steps do not fit the clip or the schedule.
    """
    state = _open(student, text, shape, settings.history_gradient)
    if settings.recompute and settings.history_gradient == "detached":
        recorder = RecordingDenoiser(student, state, shape.schedule)
        with torch.no_grad():
            return BlockwiseRollout(_make(recorder, draw), recorder)
    return JointRollout(_make(Denoiser(student, state, shape.schedule, gradient=True), draw))


class JointRollout:
    """A clip with the graph of all its blocks."""

    def __init__(self, clips: Latents) -> None:
        self.latents, self._graph = clips.detach(), clips

    def backward(
        self, gradient: Latents, *, scale: float = 1.0, before: BeforeBackward | None = None
    ) -> None:
        """See `Rollout`."""
        if before is not None:
            before(True)
        _send(self._graph, gradient, scale)


class ExitInput(NamedTuple):
    """What a block's exit step was given; see `Denoiser.clean`. past: what was remembered then."""

    past: SessionState
    block: Block
    video: Tensor
    window: Tensor
    timestep: float


class RecordingDenoiser(Denoiser):
    """Remembers the input of every block's latest pass: in the end, of its exit step."""

    def __init__(self, model: DualStreamDiT, state: SessionState, schedule: NoiseSchedule) -> None:
        super().__init__(model, state, schedule)
        self.inputs: dict[int, ExitInput] = {}

    def clean(
        self,
        block: Block,
        video: Tensor,
        window: Tensor,
        timestep: float,
        *,
        gradient: bool = False,
    ) -> Clean:
        """See `Denoiser`."""
        past = self.state.as_it_is() if self.state.plan.slides else self.state
        self.inputs[block.index] = ExitInput(past, block, video, window, timestep)
        return super().clean(block, video, window, timestep, gradient=gradient)


class BlockwiseRollout:
    """A clip without a graph, and all that is needed to build that of one block after another."""

    def __init__(self, clips: Latents, denoiser: RecordingDenoiser) -> None:
        self.latents, self._denoiser = clips, denoiser

    def backward(
        self, gradient: Latents, *, scale: float = 1.0, before: BeforeBackward | None = None
    ) -> None:
        """See `Rollout`."""
        model, schedule = self._denoiser.model, self._denoiser.schedule
        for past, block, video, window, timestep in self._denoiser.inputs.values():
            if before is not None:
                before(block.is_last)
            denoiser, place = Denoiser(model, past, schedule), past.plan.place(block)
            clean = denoiser.clean(block, video, window, timestep, gradient=True)
            picture = slice(block.first_video, block.end_video)
            sound = slice(block.first_audio, block.end_audio)
            _send(
                Latents(clean.video, clean.audio[:, place.first_audio : place.end_audio]),
                Latents(gradient.video[:, picture], gradient.audio[:, sound]),
                scale,
            )


def _open(
    student: DualStreamDiT,
    text: TextContext,
    shape: RolloutShape,
    history_gradient: HistoryGradient = "detached",
) -> SessionState:
    return open_session(
        student,
        text,
        shape.session,
        shape.schedule,
        dtype=shape.dtype,
        gradient=True,
        history_gradient=history_gradient,
    )


def _make(denoiser: Denoiser, draw: RolloutDraw) -> Latents:
    """The sampler's loop, left early by every block."""
    num_blocks, num_steps = denoiser.state.plan.num_blocks, len(exit_steps(denoiser.schedule))
    if len(draw.exits) != num_blocks or not all(0 <= e < num_steps for e in draw.exits):
        raise RequestError(
            f"A rollout needs {num_blocks} exit steps of 0..{num_steps - 1}", found=draw.exits
        )
    blocks = list(stream_blocks(denoiser, draw.noise, exits=draw.exits))
    return Latents(
        torch.cat([block.video for block in blocks], dim=1),
        torch.cat([block.audio for block in blocks], dim=1),
    )


def _send(clips: Latents, gradient: Latents, scale: float) -> None:
    """Backward from clips that carry a graph."""
    arriving = [scale * g.to(x) for x, g in zip(clips, gradient, strict=True)]
    torch.autograd.backward(list(clips), arriving)
