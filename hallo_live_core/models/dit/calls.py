"""Turns a pass into what the layers work with: time rows, rotations, prompt, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...functional.masks import BlockCausal
from ...functional.rope import RotaryTables
from ...state.session import Text, TextCache, TimeRows, TimeRuns
from .checks import (
    check_blocks,
    check_layer,
    check_runs,
    check_session,
    check_text,
    check_timesteps,
)
from .modality import Modality
from .passes import CachedPass, MaskedPass, TeacherPass
from .stream import StreamInput
from .visibility import Attention, Blockwise, Cached, Everything, Views

if TYPE_CHECKING:
    from .fusion import DualStreamDiT


@dataclass(frozen=True, slots=True)
class Call:
    """One network call; `views` says what is visible in a layer, `layers` which layers run.

    valid_audio: bool [b, a] of a ragged batch.
    """

    video: StreamInput
    audio: StreamInput
    views: Callable[[int], Views]
    layers: Sequence[int]
    valid_audio: Tensor | None = None


def prepare(
    model: DualStreamDiT, video: Tensor, audio: Tensor, how: MaskedPass | CachedPass | TeacherPass
) -> Call:
    """Check a pass against the latents and translate it."""
    if isinstance(how, CachedPass):
        return _cached(model, video, audio, how)
    if isinstance(how, MaskedPass):
        return _masked(model, video, audio, how)
    return _teacher(model, video, audio, how)


def past(attention: Attention, how: CachedPass, layer: int) -> tuple[Cached, Cached]:
    """What video remembers of itself, and what audio remembers of video, in one layer."""
    state = how.state
    start = how.first_video * state.rotary.tokens_per_latent
    return (
        Cached(attention, state.video_self.layer(layer), start),
        Cached(attention, state.video_cross.layer(layer), start),
    )


def _cached(model: DualStreamDiT, video: Tensor, audio: Tensor, how: CachedPass) -> Call:
    state = how.state
    check_session(model.config, state.rotary.tokens_per_latent, video)
    text = _embed(model, state.text, video)
    now = Everything(model.attention, window=state.window)

    def views(layer: int) -> Views:
        video_self, audio_to_video = past(model.attention, how, layer)
        return Views(video_self, now, now, audio_to_video)

    return Call(
        StreamInput(
            _times(model.video, how.video_times, video, state.video_times.compact),
            state.rotary.video_rows(how.first_video, video.shape[1]),
            text.video,
            text.video_keys,
        ),
        StreamInput(
            _times(model.audio, how.audio_times, audio, state.audio_times.spread),
            state.rotary.audio_rows(audio.shape[1]),
            text.audio,
            text.audio_keys,
        ),
        views,
        range(len(model.blocks)),
    )


def _masked(model: DualStreamDiT, video: Tensor, audio: Tensor, how: MaskedPass) -> Call:
    check_timesteps(how.video_timesteps, video, axes=2)
    check_timesteps(how.audio_timesteps, audio, axes=2)
    sizes = how.blocks
    check_blocks(sizes, video, audio)
    rotary = how.rotary or _rotary(model, video, audio)
    picture, sound = sizes.video_latents * rotary.tokens_per_latent, sizes.audio_latents

    def see(q: int, kv: int, lookahead: int = 0) -> Blockwise:
        rule = BlockCausal(q, kv, lookahead, zero_padding=how.zero_padding)
        return Blockwise(model.attention, rule)

    views = Views(
        video_self=see(picture, picture),
        audio_self=see(sound, sound),
        video_to_audio=see(picture, sound, sizes.lookahead),
        audio_to_video=see(sound, picture),
    )
    text = _embed(model, how.text, video)
    place = {"device": video.device, "dtype": video.dtype}
    video_times = model.video.embed_times(how.video_timesteps, **place)
    audio_times = model.audio.embed_times(how.audio_timesteps, **place)
    return Call(
        StreamInput(video_times, rotary.video, text.video, text.video_keys),
        StreamInput(audio_times, rotary.audio, text.audio, text.audio_keys),
        lambda _: views,
        range(len(model.blocks)),
    )


def _teacher(model: DualStreamDiT, video: Tensor, audio: Tensor, how: TeacherPass) -> Call:
    check_timesteps(how.timesteps, video, axes=1)
    check_layer(how.skip_layer, len(model.blocks))
    rotary = how.rotary or _rotary(model, video, audio)
    ragged, patch = how.ragged, model.config.video.patch
    valid_video = None if ragged is None else ragged.valid_video(video, patch)
    valid_audio = None if ragged is None else ragged.valid_audio(audio)
    picture = Everything(model.attention, valid_video)
    sound = Everything(model.attention, valid_audio)
    views = Views(picture, sound, video_to_audio=sound, audio_to_video=picture)
    text = _embed(model, how.text, video)
    place = {"device": video.device, "dtype": video.dtype}
    audio_times = how.timesteps.unsqueeze(1)
    video_times = (
        _first_clean(audio_times, video.shape[1]) if how.first_frame_clean else audio_times
    )
    return Call(
        StreamInput(
            model.video.embed_times(video_times, **place), rotary.video, text.video, text.video_keys
        ),
        StreamInput(
            model.audio.embed_times(audio_times, **place), rotary.audio, text.audio, text.audio_keys
        ),
        lambda _: views,
        [i for i in range(len(model.blocks)) if i != how.skip_layer],
        valid_audio,
    )


def _times(
    modality: Modality,
    given: TimeRuns | TimeRows | Tensor,
    latents: Tensor,
    known: Callable[[TimeRuns], TimeRows],
) -> TimeRows:
    """Timesteps of a stream embedded: here, or looked up in what the session has embedded."""
    if isinstance(given, TimeRows):
        return given
    if isinstance(given, Tensor):
        check_timesteps(given, latents, axes=2)
        return modality.embed_times(given, device=latents.device, dtype=latents.dtype)
    check_runs(given, latents)
    return known(given)


def _embed(model: DualStreamDiT, text: Text, video: Tensor) -> TextCache:
    check_text(text, video)
    return text if isinstance(text, TextCache) else model.embed_text(text, keys=False)


def _rotary(model: DualStreamDiT, video: Tensor, audio: Tensor) -> RotaryTables:
    size = (video.shape[1], video.shape[3], video.shape[4])
    return model.rotary(size, audio.shape[1], device=video.device, dtype=video.dtype)


def _first_clean(timesteps: Tensor, num_latents: int) -> Tensor:
    """[b, 1] timesteps to [b, f], 0 for the first video latent."""
    rest = timesteps.expand(-1, num_latents - 1)
    return torch.cat([torch.zeros_like(timesteps), rest], dim=1)
