"""Stage 1: from any state of the teacher's trajectory straight to its end (spec 06 §4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hallo_live_core.config import BlockSizes
from hallo_live_core.errors import ShapeError
from hallo_live_core.functional.precision import at_least_float32
from hallo_live_core.functional.schedule import NoiseSchedule, clean_from_flow
from hallo_live_core.models.dit import DualStreamDiT, MaskedPass
from hallo_live_core.types import TextContext

from ..types import Latents, Loss, StreamWeights


class NoisyClips(NamedTuple):
    """What the student is given: latents, and the timestep of each, [b, f] and [b, a]."""

    latents: Latents
    times: Latents


def noisy_clips(
    trajectory: Latents, states: Tensor, blocks: BlockSizes, schedule: NoiseSchedule
) -> NoisyClips:
    """Take every block from the state of the trajectory that was drawn for it.

    Picture and sound of a block share the state; blocks of a clip differ.

    Args:
        trajectory: [b, s, f, c, h, w] and [b, s, a, c], noisiest first, clean last.
        states: int64 [b, blocks], never the clean state.
        blocks: sizes of a block.
        schedule: state k is at the schedule's step k.

    Raises:
        ShapeError: the trajectory and the schedule differ in their number of steps.
    """
    num_states, num_steps = trajectory.video.shape[1], len(schedule.steps)
    if trajectory.audio.shape[1] != num_states or num_states != num_steps + 1:
        raise ShapeError(
            f"A trajectory needs {num_steps + 1} states, one per step and the clean end",
            found=f"{num_states} of picture, {trajectory.audio.shape[1]} of sound",
        )
    steps = torch.tensor(schedule.steps, device=states.device)
    sizes = (blocks.video_latents, blocks.audio_latents)
    index = [states.repeat_interleave(size, dim=1) for size in sizes]
    return NoisyClips(
        Latents(*(_gather(x, i) for x, i in zip(trajectory, index, strict=True))),
        Latents(*(steps[i] for i in index)),
    )


def predict(
    student: DualStreamDiT,
    noisy: NoisyClips,
    text: TextContext,
    blocks: BlockSizes,
    *,
    zero_padding: bool = False,
) -> Latents:
    """Flow of both streams from the masked pass over the whole clip."""
    how = MaskedPass(text, *noisy.times, blocks, zero_padding)
    return Latents(*student(*noisy.latents, how))


def clean_prediction(noisy: NoisyClips, flow: Latents, schedule: NoiseSchedule) -> Latents:
    """The clean clips that the flow means, each latent with its own sigma."""
    streams = zip(noisy.latents, flow, noisy.times, strict=True)
    return Latents(*(clean_from_flow(x, v, schedule.sigmas_at(t)) for x, v, t in streams))


def ode_loss(
    student: DualStreamDiT,
    trajectory: Latents,
    states: Tensor,
    text: TextContext,
    *,
    blocks: BlockSizes,
    schedule: NoiseSchedule,
    weights: StreamWeights,
    zero_padding: bool = False,
) -> Loss:
    """Mean squared error of the predicted clean clips, weighted over the streams.

    zero_padding: let the zero keys be seen that the reference shows at the end of a clip.

    Metrics: the loss of each stream; per sample [b] the video error `video_errors` and the mean
    timestep `times`, from which errors can be sorted by noise.
    """
    noisy = noisy_clips(trajectory, states, blocks, schedule)
    flow = predict(student, noisy, text, blocks, zero_padding=zero_padding)
    clean = clean_prediction(noisy, flow, schedule)
    target = Latents(trajectory.video[:, -1], trajectory.audio[:, -1])
    errors = [_squared(x, y) for x, y in zip(clean, target, strict=True)]
    video, audio = (_mean_where_noisy(e, t) for e, t in zip(errors, noisy.times, strict=True))
    total = weights.video * video + weights.audio * audio
    metrics = {
        "loss": total,
        "video_loss": video,
        "audio_loss": audio,
        "video_errors": errors[0].flatten(1).mean(dim=1),
        "times": noisy.times.video.float().mean(dim=1),
    }
    return Loss(total, {name: value.detach() for name, value in metrics.items()})


def _gather(trajectory: Tensor, index: Tensor) -> Tensor:
    """[b, s, l, ...] and [b, l] to [b, l, ...]."""
    trailing = trajectory.shape[3:]
    where = index.reshape(index.shape[0], 1, -1, *(1,) * len(trailing))
    return trajectory.gather(1, where.expand(-1, 1, -1, *trailing)).squeeze(1)


def _squared(found: Tensor, wanted: Tensor) -> Tensor:
    dtype = at_least_float32(found.dtype)
    return (found.to(dtype) - wanted.to(dtype)).square()


def _mean_where_noisy(errors: Tensor, times: Tensor) -> Tensor:
    """Mean over the latents whose timestep is not 0: a clean input teaches nothing."""
    noisy = (times != 0).reshape(*times.shape, *(1,) * (errors.ndim - 2))
    per_latent = errors[0, 0].numel()
    return (errors * noisy).sum() / (noisy.sum() * per_latent).clamp_min(1)
