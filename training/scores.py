"""Asking a score network: the teacher, or the critic, about a whole noisy clip (spec 06 §7-8)."""

from __future__ import annotations

from torch import Tensor

from hallo_live_core.functional.schedule import NoiseSchedule, add_noise, clean_from_flow
from hallo_live_core.models.dit import DualStreamDiT, TeacherPass
from hallo_live_core.state.session import Text

from .types import Latents


def noised(clips: Latents, noise: Latents, timesteps: Tensor, schedule: NoiseSchedule) -> Latents:
    """Clips with as much noise as belongs to their timesteps [b], in the clips' dtype."""
    sigma = schedule.sigmas_at(timesteps).to(clips.video.device)
    video, audio = (
        add_noise(clean, fresh.to(clean), sigma) for clean, fresh in zip(clips, noise, strict=True)
    )
    return Latents(video, audio)


def predict_flow(network: DualStreamDiT, noisy: Latents, text: Text, timesteps: Tensor) -> Latents:
    """What the network takes for noise - clean; timesteps [b], shared by both streams."""
    told = timesteps.to(noisy.video.device)
    return Latents(*network(noisy.video, noisy.audio, TeacherPass(text, told)))


def clean_of(noisy: Latents, flow: Latents, timesteps: Tensor, schedule: NoiseSchedule) -> Latents:
    """The clean clips that a predicted flow means."""
    sigma = schedule.sigmas_at(timesteps).to(noisy.video.device)
    video, audio = (clean_from_flow(x, v, sigma) for x, v in zip(noisy, flow, strict=True))
    return Latents(video, audio)
