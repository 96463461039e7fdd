"""The transformer, a prompt and a session behind two verbs: `clean` a block, then `settle` it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..errors import HalloLiveError, RequestError, ShapeError
from ..functional.blocks import Block, ClipPlan
from ..functional.first_frame import start_with
from ..functional.rope import earlier_in_time
from ..functional.schedule import NoiseSchedule, clean_from_flow
from ..models.dit import CachedPass, DualStreamDiT, Flows
from ..state.fp8_cache import Fp8KVCache
from ..state.kv_cache import ATTENTION_WINDOW, Cache, ConcatCache, HistoryGradient, KVCache, Slide
from ..state.session import SessionShape, SessionState, TextCache, TimeRuns
from ..types import TextContext
from .first_frame import block_times, given_latent


class Clean(NamedTuple):
    """What the network takes for the clean block.

    video: [b, f, c, h, w]. audio: [b, a, c] from latent 0 on: history as the network sees it now,
    the block, the look-ahead.
    """

    video: Tensor
    audio: Tensor


class Network(Protocol):
    """A student: one `DualStreamDiT`, or several that share its work (`split`)."""

    def __call__(self, video: Tensor, audio: Tensor, how: CachedPass, /) -> Flows:
        """See `DualStreamDiT.forward`."""
        ...

    def settle(self, video: Tensor, audio: Tensor, how: CachedPass, /) -> None:
        """See `DualStreamDiT.settle`."""
        ...

    def embed_text(self, text: TextContext, /) -> TextCache:
        """Take another prompt in; returns what the session's first state remembers of it."""
        ...


class Denoiser:
    """Runs the student on one session (spec 02 §3).

    gradient: the last step of every block builds a graph; the session must have been opened so.
    """

    def __init__(
        self,
        model: Network,
        state: SessionState,
        schedule: NoiseSchedule,
        *,
        gradient: bool = False,
    ) -> None:
        self.model, self.state, self.schedule, self.gradient = model, state, schedule, gradient

    def clean(
        self,
        block: Block,
        video: Tensor,
        window: Tensor,
        timestep: float,
        *,
        gradient: bool = False,
    ) -> Clean:
        """Predict the clean block; with `gradient`, build a graph.

        video: noisy [b, f, c, h, w]; window: noisy audio of block and look-ahead [b, window, c];
        both at `timestep`. The history of the sound is at the context timestep. A given first
        frame replaces the latent in its place, before and after (spec 02 §6).
        """
        block = self.state.plan.place(block)
        past, context = block.first_audio, self.schedule.context
        times = ((context, past), (timestep, block.window))
        given = given_latent(self.state, block)
        video = start_with(given, video)
        video_times = block_times(given, timestep, block.num_video)
        with torch.set_grad_enabled(gradient):
            audio = torch.cat([self._history(block, timestep), window], dim=1)
            call = self._call(block, video_times, times, gradient=gradient)
            video_flow, audio_flow = self.model(video, audio, call)
            sigma = self.schedule.sigma(timestep)
            history = clean_from_flow(
                audio[:, :past], audio_flow[:, :past], self.schedule.sigma(context)
            )
            now = clean_from_flow(window, audio_flow[:, past:], sigma)
            picture = start_with(given, clean_from_flow(video, video_flow, sigma))
            return Clean(picture, torch.cat([history, now], dim=1))

    def keep(self, block: Block, clean: Clean) -> None:
        """Make the block part of the history that later blocks read: its sound, at least."""
        place, history = self.state.plan.place(block), self.state.audio_history
        own = slice(place.first_audio, place.end_audio)
        if self.state.history_gradient == "straight_through":
            parts = (history[:, : own.start], clean.audio[:, own], history[:, own.stop :])
            with torch.enable_grad():
                self.state.audio_history = torch.cat(parts, dim=1)
        else:
            history[:, own].copy_(clean.audio[:, own].detach())
        if self.state.video_history is not None:
            picture = slice(place.first_video, place.end_video)
            self.state.video_history[:, picture].copy_(clean.video.detach())

    @torch.no_grad()
    def settle(self, block: Block, clean: Clean) -> None:
        """The clean-context pass: later blocks see this one as it finally is.

        It is fed what the last step predicted, the sound's history included (spec 02 §3, item 6).
        """
        self._settle(self.state.plan.place(block), clean)

    @torch.no_grad()
    def say(self, text: TextContext) -> None:
        """From now on the network reads another prompt, [b or 1, text_len, text_dim]."""
        state = self.state
        like = state.audio_history
        here = [x.to(like).expand(len(like), -1, -1) for x in (text.video, text.audio)]
        new = TextContext(*here)
        state.text = new if isinstance(state.text, TextContext) else self.model.embed_text(new)

    @torch.no_grad()
    def recall(self, place: Block) -> None:
        """The clean-context pass of a remembered block again: as the present prompt has it.

        place: one of `SessionState.remembered`, which must be recalled in order.
        """
        video, audio = self.state.video_history, self.state.audio_history
        if video is None:
            raise HalloLiveError(
                "The session keeps no picture to look at again", fix="open it with keeps_video"
            )
        picture = video[:, place.first_video : place.end_video]
        self._settle(place, Clean(picture, audio[:, : place.end_audio]))

    def _settle(self, place: Block, clean: Clean) -> None:
        context = self.schedule.context
        times = ((context, place.num_video),), ((context, clean.audio.shape[1]),)
        self.model.settle(clean.video, clean.audio, self._call(place, *times))

    def _history(self, block: Block, timestep: float) -> Tensor:
        """Sound before the block; it carries gradient at most into the first step.

        In the reference the inputs of later steps are put together without gradient (spec 06 §6.4).
        """
        history = self.state.audio_history[:, : block.first_audio]
        return history if timestep == self.schedule.steps[0] else history.detach()

    def _call(
        self,
        block: Block,
        video_times: TimeRuns,
        audio_times: TimeRuns,
        *,
        gradient: bool = False,
    ) -> CachedPass:
        """With `gradient`, timesteps are embedded anew, so that their network learns too."""
        state, first = self.state, block.first_video
        if not gradient:
            return CachedPass(state, first, video_times, audio_times)
        like = state.audio_history
        return CachedPass(
            state, first, _as_tensor(video_times, like), _as_tensor(audio_times, like)
        )


@torch.no_grad()
def open_session(
    model: DualStreamDiT,
    text: TextContext,
    shape: SessionShape,
    schedule: NoiseSchedule,
    *,
    dtype: torch.dtype,
    window: int = ATTENTION_WINDOW,
    gradient: bool = False,
    history_gradient: HistoryGradient = "detached",
) -> SessionState:
    """Compute and allocate all that a stream needs before its first block, on the prompt's device.

    gradient: the prompt stays outside the network and the past is kept in pieces, never in place.
    history_gradient: what a block with gradient lets through to the blocks before it.

    Raises:
        ShapeError: latent size or prompt do not fit.
        PositionError: the clip, or its window, is longer than the rotary tables.
        RequestError: the clip's window is longer than what attention can see.
    """
    config, plan = model.config, shape.plan.remembered
    tokens = shape.tokens_per_latent(config)
    check_window(shape.plan, tokens, window)
    if text.video.shape[0] != shape.batch:
        raise ShapeError(
            "The prompt and the clip have different batch sizes",
            found=f"{text.video.shape[0]} and {shape.batch}",
        )
    place = {"device": text.video.device, "dtype": dtype}
    size = (plan.video_latents, shape.height, shape.width)
    rotary = model.rotary(size, plan.audio_horizon, **place)
    text = TextContext(text.video.to(dtype), text.audio.to(dtype))
    video_times, audio_times = model.embed_times(schedule.all_timesteps, **place)
    layers, frames = config.num_layers, (shape.batch, plan.video_latents * tokens)
    kind = Fp8KVCache if shape.fp8_cache else KVCache
    caches: list[Cache] = [
        ConcatCache(layers, window, history_gradient)
        if gradient
        else kind.allocate(
            (layers, *frames, stream.num_heads, stream.head_dim), window=window, **place
        )
        for stream in (config.video, config.audio)
    ]
    return SessionState(
        plan=shape.plan,
        text=text if gradient else model.embed_text(text),
        video_times=video_times,
        audio_times=audio_times,
        rotary=rotary,
        video_self=caches[0],
        video_cross=caches[1],
        audio_history=torch.zeros(
            shape.batch, plan.audio_latents, config.audio.in_channels, **place
        ),
        window=window,
        history_gradient=history_gradient,
        slide=_slide(config, shape.plan, tokens, place),
        video_history=(
            torch.zeros(shape.batch, size[0], config.video.in_channels, *size[1:], **place)
            if shape.keeps_video
            else None
        ),
    )


def check_window(
    plan: ClipPlan, tokens_per_latent: int, attention_window: int = ATTENTION_WINDOW
) -> None:
    """Attention that sees the newest tokens only must not lose the first blocks of a window.

    Raises:
        RequestError: the window is longer.
    """
    most = attention_window // (plan.sizes.video_latents * tokens_per_latent)
    if plan.slides and plan.remembered.num_blocks > most:
        raise RequestError(
            "The window is longer than what attention can see at this size",
            found=f"{plan.remembered.num_blocks} blocks",
            fix=f"remember at most {most} blocks, or make the picture smaller",
        )


def _slide(
    config: TransformerConfig, plan: ClipPlan, tokens: int, place: Mapping[str, Any]
) -> Slide | None:
    """How the caches of a clip make room; None where all of it fits."""
    if plan.window is None or not plan.slides:
        return None
    step = plan.sizes.video_latents
    turn = earlier_in_time(config.video.head_dim, step, place["dtype"]).to(place["device"])
    return Slide(plan.window.sink * step * tokens, step * tokens, turn)


def _as_tensor(runs: TimeRuns, like: Tensor) -> Tensor:
    """[b, latents] timesteps."""
    row = [t for t, count in runs for _ in range(count)]
    return torch.tensor(row, device=like.device).expand(like.shape[0], -1)
