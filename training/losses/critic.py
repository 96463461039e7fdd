"""The critic learns the flow of what the student makes: plain flow matching (spec 06 §8)."""

from __future__ import annotations

from torch import Tensor

from hallo_live_core.functional.precision import at_least_float32
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import TextContext

from ..draws import ScoreDraw
from ..schedules import ScoreTimeSettings, score_timesteps
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
) -> Loss:
    """Mean squared error of the flow that the critic predicts for noised clips.

    clips: what the student made, without gradient. The reference goes through the clean prediction
    and back, which is the same number up to rounding.
    """
    timesteps = score_timesteps(draw.raw, times).to(clips.video.device)
    noise = Latents(*(n.to(x) for n, x in zip(draw.noise, clips, strict=True)))
    noisy = noised(clips, noise, timesteps, schedule)
    flow = predict_flow(critic, noisy, text, timesteps)
    video, audio = (_flow_error(v, n, x) for v, n, x in zip(flow, noise, clips, strict=True))
    total = weights.video * video + weights.audio * audio
    metrics = {
        "loss": total,
        "video_loss": video,
        "audio_loss": audio,
        "score_time": timesteps.mean(),
    }
    return Loss(total, {name: value.detach() for name, value in metrics.items()})


def _flow_error(flow: Tensor, noise: Tensor, clean: Tensor) -> Tensor:
    dtype = at_least_float32(flow.dtype)
    return (flow.to(dtype) - (noise.to(dtype) - clean.to(dtype))).square().mean()
