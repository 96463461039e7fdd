"""Everything that a running denoising stream remembers; nothing of it hides on a module."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..errors import HalloLiveError, ShapeError
from ..functional.blocks import Block, ClipPlan
from ..functional.precision import at_least_float32
from ..functional.rope import RotaryTables
from ..types import TextContext
from .fp8_cache import fp8_cache_nbytes
from .kv_cache import Cache, ConcatCache, HistoryGradient, Slide

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, [b, l, n, d] each."""

TimeRuns = tuple[tuple[float, int], ...]
"""Timesteps of consecutive latents: ((0.0, 30), (937.5, 34)) is 30 at 0, then 34 at 937.5."""


@dataclass(frozen=True, slots=True)
class TextCache:
    """A prompt inside the network: tokens [b, text_len, dim] of each stream after the text MLP.

    `video_keys` and `audio_keys` hold the keys and values of every layer; where they are empty,
    each layer makes its own.
    """

    video: Tensor
    audio: Tensor
    video_keys: tuple[KeysValues, ...] = ()
    audio_keys: tuple[KeysValues, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of tokens, keys and values."""
        keys = [t for pair in (*self.video_keys, *self.audio_keys) for t in pair]
        return sum(t.nbytes for t in (self.video, self.audio, *keys))


Text = TextContext | TextCache
"""A prompt as embeddings, or already inside the network."""


@dataclass(frozen=True, slots=True)
class TimeRows:
    """Embedded timesteps of one stream: what the head and what the blocks use.

    embedding: [b, g, dim]; projection: [b, g, 6, dim]; b may be 1. Each of the g rows serves an
    equal share of consecutive tokens: all of them, or those of one video or audio latent.
    """

    embedding: Tensor
    projection: Tensor

    def pick(self, rows: Iterable[tuple[int, int]]) -> TimeRows:
        """Row r for n latents, for every (r, n): a row per latent."""
        pairs = list(rows)
        return TimeRows(_repeat(self.embedding, pairs), _repeat(self.projection, pairs))

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.embedding.nbytes + self.projection.nbytes


@dataclass(frozen=True, slots=True)
class TimeTable:
    """The few timesteps of a stream, embedded once: row k of `rows` belongs to `timesteps[k]`."""

    timesteps: tuple[float, ...]
    rows: TimeRows

    def spread(self, runs: TimeRuns) -> TimeRows:
        """A row per latent.

        Raises:
            ShapeError: a timestep that was not announced.
        """
        return self.rows.pick((self._row(t), count) for t, count in runs)

    def compact(self, runs: TimeRuns) -> TimeRows:
        """One row where all latents share a timestep, else a row per latent.

        Raises:
            ShapeError: a timestep that was not announced.
        """
        return self.rows.pick([(self._row(runs[0][0]), 1)]) if len(runs) == 1 else self.spread(runs)

    def _row(self, timestep: float) -> int:
        if timestep not in self.timesteps:
            raise ShapeError(
                "A timestep was not announced when the session was opened",
                found=timestep,
                fix=f"use one of {self.timesteps}",
            )
        return self.timesteps.index(timestep)


@dataclass(slots=True)
class SessionState:
    """One running stream (or a batch in lockstep).

    Between blocks the only memory of the network is `video_self` and `video_cross`, and of the
    sound the generated latents themselves (spec 02 §4): audio is computed anew in every call.

    video_self: keys and values of the video's self-attention, in the video stream's heads.
    video_cross: made of video tokens for the audio's cross-attention, in the audio stream's heads.
    audio_history: [b, a, c], of which the latents of finished blocks are meaningful.
    video_history: [b, f, c, h, w], the same of the picture, in sessions that may look at it again.
    slide: how a full window makes room (`functional.window`); None if the clip never needs it.
    history_gradient: for training; what a block lets through to the blocks before it.
    first_frame: [b, 1, c, h, w], the clean latent that the clip begins with, if one is given.
    """

    plan: ClipPlan
    text: Text
    video_times: TimeTable
    audio_times: TimeTable
    rotary: RotaryTables
    video_self: Cache
    video_cross: Cache
    audio_history: Tensor
    window: int
    next_block: int = 0
    history_gradient: HistoryGradient = "detached"
    first_frame: Tensor | None = None
    slide: Slide | None = None
    video_history: Tensor | None = None

    @property
    def remembered(self) -> tuple[Block, ...]:
        """The places of finished blocks that are remembered, oldest first."""
        plan = self.plan.remembered
        return tuple(plan.block(i) for i in range(min(self.next_block, plan.num_blocks - 1)))

    def advance(self) -> None:
        """The block in work is done and remembered: go on, and make room if the window is full."""
        self.next_block += 1
        window = self.plan.window
        if self.slide is None or window is None:
            return
        if window.blocks <= self.next_block < self.plan.num_blocks:
            self.video_self.slide(self.slide)
            self.video_cross.slide(self.slide)
            self._slide_latents(window.sink)

    def as_it_is(self) -> SessionState:
        """What is remembered now, for a pass that is repeated later; for caches of training.

        Raises:
            HalloLiveError: the caches are written in place.
        """
        return replace(
            self,
            video_self=_pieces(self.video_self),
            video_cross=_pieces(self.video_cross),
            audio_history=self.audio_history.clone(),
        )

    def follow(self, other: SessionState) -> None:
        """Stand where another session of the same clip stands, as its copy on another device."""
        while self.next_block < other.next_block:
            self.advance()
        self.next_block = other.next_block

    def _slide_latents(self, sink: int) -> None:
        sizes = self.plan.sizes
        moved = _moved_up(self.audio_history, sink * sizes.audio_latents, sizes.audio_latents)
        if self.history_gradient == "straight_through":
            self.audio_history = moved
        else:
            self.audio_history.copy_(moved)
        if (video := self.video_history) is not None:
            video.copy_(_moved_up(video, sink * sizes.video_latents, sizes.video_latents))

    @property
    def nbytes(self) -> int:
        """Bytes of everything remembered; a prompt outside the network is not ours."""
        times = (self.video_times.rows, self.audio_times.rows)
        parts = (*times, self.rotary, self.video_self, self.video_cross, self.audio_history)
        text = self.text.nbytes if isinstance(self.text, TextCache) else 0
        text += 0 if self.slide is None else self.slide.turn.nbytes
        text += 0 if self.video_history is None else self.video_history.nbytes
        return text + sum(part.nbytes for part in parts)


@dataclass(frozen=True, slots=True)
class SessionShape:
    """What fixes the size of a session: `height` and `width` count latents.

    fp8_cache: the caches keep the past in 8 bits, which changes the clip a little.
    keeps_video: also remember the picture's latents, so that the past can be looked at again.
    """

    plan: ClipPlan
    height: int
    width: int
    batch: int = 1
    num_timesteps: int = 5
    fp8_cache: bool = False
    keeps_video: bool = False

    def tokens_per_latent(self, config: TransformerConfig) -> int:
        """Tokens of one video latent.

        Raises:
            ShapeError: the latent size is not a multiple of the patch.
        """
        _, patch_height, patch_width = config.video.patch
        if (
            min(self.height, self.width) < 1
            or self.height % patch_height
            or self.width % patch_width
        ):
            raise ShapeError(
                "Video latents cannot be cut into patches",
                found=f"{self.height} x {self.width}",
                fix=f"use multiples of {patch_height} and {patch_width}",
            )
        return (self.height // patch_height) * (self.width // patch_width)


def cache_nbytes(config: TransformerConfig, shape: SessionShape, dtype: torch.dtype) -> int:
    """Bytes of both key-value caches of a session."""
    tokens = shape.plan.remembered.video_latents * shape.tokens_per_latent(config)
    total = 0
    for stream in (config.video, config.audio):
        size = (config.num_layers, shape.batch, tokens, stream.num_heads, stream.head_dim)
        plain = 2 * math.prod(size) * dtype.itemsize
        total += fp8_cache_nbytes(size, dtype) if shape.fp8_cache else plain
    return total


def session_nbytes(config: TransformerConfig, shape: SessionShape, dtype: torch.dtype) -> int:
    """Bytes that a session will hold, known before anything is allocated.

    Activations and weights are not included.
    """
    plan = shape.plan.remembered
    tokens = plan.video_latents * shape.tokens_per_latent(config)
    values = shape.batch * plan.audio_latents * config.audio.in_channels
    if shape.keeps_video:
        picture = config.video.in_channels * shape.height * shape.width
        values += shape.batch * plan.video_latents * picture
    for stream in (config.video, config.audio):
        text = (1 + 2 * config.num_layers) * shape.batch * stream.text_len * stream.dim
        times = 7 * shape.num_timesteps * stream.dim
        values += text + times
    rotary = at_least_float32(dtype).itemsize * config.video.head_dim
    tables = values * dtype.itemsize + rotary * (tokens + plan.audio_horizon + shape.plan.slides)
    return cache_nbytes(config, shape, dtype) + tables


def _pieces(cache: Cache) -> ConcatCache:
    if not isinstance(cache, ConcatCache):
        raise HalloLiveError("Only a cache in pieces can be remembered as it is")
    return cache.as_it_is()


def _moved_up(latents: Tensor, sink: int, step: int) -> Tensor:
    """What lies behind the sink `step` latents earlier, [b, n, ...]; the end is left as it was."""
    return torch.cat([latents[:, :sink], latents[:, sink + step :], latents[:, -step:]], dim=1)


def _repeat(table: Tensor, rows: list[tuple[int, int]]) -> Tensor:
    trailing = (-1,) * (table.ndim - 2)
    parts = [table[:, r : r + 1].expand(-1, count, *trailing) for r, count in rows]
    return torch.cat(parts, dim=1)
