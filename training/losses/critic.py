"""The critic learns the flow of what the student makes: plain flow matching (spec 06 §8)."""

from __future__ import annotations

from torch import Tensor

from hallo_live_core.functional.precision import at_least_float32
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.rewards.combine import LossScales
from hallo_live_core.types import TextContext

from ..draws import ScoreDraw
from ..schedules import ScoreTimeSettings, score_timesteps, time_shares
from ..scores import noised, predict_flow
from ..types import Latents, Loss, StreamWeights


def critic_loss(
    critic: DualStreamDiT,
    clips: Latents,
    text: TextContext,
    draw: ScoreDraw,
    *,
    schedule: NoiseSchedule,
    times: ScoreTimeSettings,
    weights: StreamWeights,
    scales: LossScales | None = None,
) -> Loss:
    """Mean squared error of the flow that the critic predicts for noised clips.

    clips: what the student made, without gradient. The reference goes through the clean prediction
    and back, which is the same number up to rounding.
    scales: how much every sample [b] counts in each stream; none means 1. The critic then learns
    the flow of clips that are made as often as they count.
    """
    timesteps = score_timesteps(draw.raw, times).to(clips.video.device)
    noise = Latents(*(n.to(x) for n, x in zip(draw.noise, clips, strict=True)))
    noisy = noised(clips, noise, timesteps, schedule)
    flow = predict_flow(critic, noisy, text, timesteps)
    counts = (None, None) if scales is None else (scales.video, scales.audio)
    video, audio = (
        _flow_error(v, n, x, count)
        for v, n, x, count in zip(flow, noise, clips, counts, strict=True)
    )
    total = weights.video * video + weights.audio * audio
    metrics = {
        "loss": total,
        "video_loss": video,
        "audio_loss": audio,
        **time_shares(timesteps, times),
    }
    return Loss(total, {name: value.detach() for name, value in metrics.items()})


def _flow_error(flow: Tensor, noise: Tensor, clean: Tensor, counts: Tensor | None) -> Tensor:
    dtype = at_least_float32(flow.dtype)
    error = (flow.to(dtype) - (noise.to(dtype) - clean.to(dtype))).square()
    if counts is None:
        return error.mean()
    return (error.flatten(1).mean(dim=1) * counts.to(error)).mean()
