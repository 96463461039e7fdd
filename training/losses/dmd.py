"""Distribution matching: where critic and teacher disagree, the student is told (spec 06 §7).

The gradient with respect to the clips is known without a graph, from score predictions alone; the
loss is the number whose gradient that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hallo_live_core.errors import ShapeError
from hallo_live_core.functional.precision import at_least_float32, widest_float
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.rewards.combine import LossScales
from hallo_live_core.types import TextContext

from ..draws import ScoreDraw
from ..schedules import ScoreTimeSettings, score_timesteps
from ..scores import clean_of, noised, predict_flow
from ..types import Latents, Prompts, StreamWeights


@dataclass(frozen=True, slots=True)
class DMDSettings:
    """The published values.

    decoupled: the guidance is asked at a score time of its own.
    replace_nonfinite: as the reference does, teach 0 where the gradient is not a number, and the
    largest number where it is infinite. Otherwise it stays, and the update is left out.
    """

    video_guidance: float = 4.0
    audio_guidance: float = 5.0
    decoupled: bool = False
    replace_nonfinite: bool = False


class Scores(NamedTuple):
    """Clean clips predicted from the same noisy ones.

    fake: by the critic. towards, away: by the teacher with the prompt and with the negative ones.
    guide, guide_away: those two at the second score time of the decoupled loss, else none.
    """

    fake: Latents
    towards: Latents
    away: Latents
    guide: Latents | None = None
    guide_away: Latents | None = None


class StreamGradient(NamedTuple):
    """Of one stream: the direction, and the same divided by the normaliser [b] of each sample.

    nonfinite: how many values of the latter are not finite, or were before they were replaced.
    """

    raw: Tensor
    normalised: Tensor
    normaliser: Tensor
    nonfinite: Tensor


class DMDLoss(NamedTuple):
    """gradient: of the loss with respect to the clips. metrics: 0-d tensors."""

    gradient: Latents
    metrics: dict[str, Tensor]


@torch.no_grad()
def ask_scores(
    teacher: DualStreamDiT,
    critic: DualStreamDiT,
    clips: Latents,
    prompts: Prompts,
    draw: ScoreDraw,
    *,
    schedule: NoiseSchedule,
    times: ScoreTimeSettings,
) -> Scores:
    """Three predictions of noised clips; five where the draw has a second score time.

    The critic knows no negative prompt, and no layer is skipped.
    """

    def ask(network: DualStreamDiT, raw: Tensor, text: TextContext) -> Latents:
        timesteps = score_timesteps(raw, times).to(clips.video.device)
        noisy = noised(clips, draw.noise, timesteps, schedule)
        return clean_of(noisy, predict_flow(network, noisy, text, timesteps), timesteps, schedule)

    fake = ask(critic, draw.raw, prompts.positive)
    towards, away = (ask(teacher, draw.raw, text) for text in prompts)
    if draw.guidance_raw is None:
        return Scores(fake, towards, away)
    second = draw.guidance_raw
    return Scores(fake, towards, away, *(ask(teacher, second, text) for text in prompts))


def stream_gradients(
    clips: Latents, scores: Scores, settings: DMDSettings
) -> tuple[StreamGradient, StreamGradient]:
    """Gradients of picture and sound.

    Raises:
        ShapeError: the decoupled loss is asked for and its scores are missing, or the reverse.
    """
    if settings.decoupled != (scores.guide is not None):
        raise ShapeError(
            "The decoupled loss, and only that, needs scores at a second time",
            fix="draw guidance times exactly where decoupled is true",
        )
    guides = zip(scores.guide or (None, None), scores.guide_away or (None, None), strict=True)
    given = zip(clips, scores.fake, scores.towards, scores.away, guides, strict=True)
    guidances = (settings.video_guidance, settings.audio_guidance)
    video, audio = (
        _stream_gradient(x, f, (c, u), w, guide)
        for (x, f, c, u, guide), w in zip(given, guidances, strict=True)
    )
    if not settings.replace_nonfinite:
        return video, audio
    return _finite(video), _finite(audio)


def dmd_loss(
    gradients: tuple[StreamGradient, StreamGradient],
    weights: StreamWeights,
    scales: LossScales | None = None,
) -> DMDLoss:
    """0.5 S mean(g^2) of each stream, in float64, and its gradient with respect to the clips.

    scales: factor S of every sample [b] and stream, from rewards; none means 1.
    """
    factors = (None, None) if scales is None else (scales.video, scales.audio)
    losses: list[Tensor] = []
    outward: list[Tensor] = []
    for found, factor, weight in zip(
        gradients, factors, (weights.video, weights.audio), strict=True
    ):
        g = found.normalised
        each = torch.ones(len(g)) if factor is None else factor
        each = each.to(g.device, widest_float(g.device)).reshape(-1, *(1,) * (g.ndim - 1))
        wide = g.to(each.dtype)
        losses.append(0.5 * (each * wide.square()).mean())
        outward.append((weight * each * wide / g.numel()).to(g.dtype))
    video, audio = gradients
    metrics = {
        "loss": weights.video * losses[0] + weights.audio * losses[1],
        "video_loss": losses[0],
        "audio_loss": losses[1],
        "video_gradient": video.normalised.abs().mean(),
        "audio_gradient": audio.normalised.abs().mean(),
        "video_normaliser": video.normaliser.mean(),
        "audio_normaliser": audio.normaliser.mean(),
        "nonfinite": video.nonfinite + audio.nonfinite,
    }
    return DMDLoss(Latents(*outward), metrics)


def _stream_gradient(
    clean: Tensor,
    fake: Tensor,
    real: tuple[Tensor, Tensor],
    guidance: float,
    guide: tuple[Tensor | None, Tensor | None],
) -> StreamGradient:
    """real, guide: predictions with the prompt and with the negative one."""
    dtype = at_least_float32(clean.dtype)
    x, f, towards, away = (t.to(dtype) for t in (clean, fake, *real))
    guided = away + guidance * (towards - away)
    if guide[0] is None or guide[1] is None:
        raw = f - guided
    else:
        raw = f - towards - (guidance - 1) * (guide[0].to(dtype) - guide[1].to(dtype))
    normaliser = (x - guided).abs().flatten(1).mean(dim=1)
    divided = raw / normaliser.reshape(-1, *(1,) * (raw.ndim - 1))
    return StreamGradient(raw, divided, normaliser, (~divided.isfinite()).sum())


def _finite(gradient: StreamGradient) -> StreamGradient:
    return gradient._replace(normalised=torch.nan_to_num(gradient.normalised))
