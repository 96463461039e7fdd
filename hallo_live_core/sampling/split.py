"""One transformer on several devices, which share the tokens of the picture (`split=sequence`).

Every rank holds a copy of the weights and the whole cache, and computes its own latents of the
block: projections, attention and feed-forward of the picture are divided, keys and values are
exchanged once per attention (`state.exchange`). The sound, 150 tokens at most, is computed by every
rank: its cost is reading the weights, which no split of tokens makes less.

The network itself does not know. A rank calls it with its share of the latents, at their place in
the clip, and with a cache that the others fill, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..errors import RequestError, ShapeError
from ..functional.schedule import NoiseSchedule
from ..models.dit import CachedPass, DualStreamDiT, Flows
from ..state.exchange import Exchange, RankStopped, Seat, SharedCache
from ..state.session import SessionShape, SessionState, TextCache, TimeRows, TimeRuns
from ..threads import StandingThread
from ..types import TextContext
from .denoiser import Network, open_session

Answer = TypeVar("Answer")


class SplitTransformer:
    """Copies of one transformer, one per device; the first is the one that was given."""

    def __init__(self, model: DualStreamDiT, devices: Sequence[torch.device]) -> None:
        """devices: of all ranks; the first is the model's.

        Raises:
            RequestError: fewer than two devices, or more than latents to share.
        """
        if len(devices) < 2:
            raise RequestError(
                "A split needs at least two devices",
                found=", ".join(map(str, devices)),
                fix="name two, such as cuda:0,cuda:1",
            )
        self.config: TransformerConfig = model.config
        self.devices = tuple(devices)
        self.models = (model, *(replica(model, device) for device in devices[1:]))
        names = (f"hallo-live-rank-{rank}" for rank in range(1, len(devices)))
        self._threads = tuple(StandingThread(name) for name in names)

    def open(
        self,
        text: TextContext,
        shape: SessionShape,
        schedule: NoiseSchedule,
        *,
        dtype: torch.dtype,
    ) -> tuple[Network, SessionState]:
        """A session on every rank; returns the network that runs them all, and the first's state.

        Raises:
            RequestError: a block has fewer latents than there are ranks.
            ShapeError, PositionError: as `open_session`.
        """
        latents = shape.plan.smallest
        if latents < len(self.devices):
            raise RequestError(
                "A block has fewer video latents than there are devices to share them",
                found=f"{latents} latents, {len(self.devices)} devices",
            )
        ranks: list[Rank] = []
        for model, device in zip(self.models, self.devices, strict=True):
            here = TextContext(text.video.to(device), text.audio.to(device))
            with _current(device):
                state = open_session(model, here, shape, schedule, dtype=dtype)
            ranks.append(Rank(model, state, device))
        return SplitSession(ranks, self._threads), ranks[0].state


class Opener(Protocol):
    """What is more than one plain network, and so opens its sessions itself."""

    config: TransformerConfig
    models: tuple[DualStreamDiT, ...]

    def open(
        self,
        text: TextContext,
        shape: SessionShape,
        schedule: NoiseSchedule,
        *,
        dtype: torch.dtype,
    ) -> tuple[Network, SessionState]:
        """What a `Denoiser` runs, and its session; raises as `open_session` does."""
        ...


def open_network(
    model: DualStreamDiT | Opener,
    text: TextContext,
    shape: SessionShape,
    schedule: NoiseSchedule,
    *,
    dtype: torch.dtype,
) -> tuple[Network, SessionState]:
    """What a `Denoiser` runs, and its session: see `open_session` and `Opener`."""
    if isinstance(model, DualStreamDiT):
        return model, open_session(model, text, shape, schedule, dtype=dtype)
    return model.open(text, shape, schedule, dtype=dtype)


def leader(model: DualStreamDiT | Opener) -> DualStreamDiT:
    """The network, or its copy on the first device."""
    return model if isinstance(model, DualStreamDiT) else model.models[0]


@dataclass(frozen=True, slots=True)
class Rank:
    """A copy of the network, what it remembers, and where both are."""

    model: DualStreamDiT
    state: SessionState
    device: torch.device

    def follow(self, first: SessionState) -> None:
        """Stand where the first rank's session stands, which is the one that callers change."""
        state = self.state
        if state is first:
            return
        state.follow(first)
        known = first.video_times.timesteps
        if state.video_times.timesteps != known:
            dtype = first.audio_history.dtype
            state.video_times = self.model.embed_times(known, device=self.device, dtype=dtype)[0]


class SplitSession:
    """Runs one session on all ranks; a `Network`, as one transformer is.

    threads: of all ranks but the first, which works in the caller's.
    """

    def __init__(self, ranks: Sequence[Rank], threads: Sequence[StandingThread]) -> None:
        self._ranks, self._threads = tuple(ranks), tuple(threads)

    def __call__(self, video: Tensor, audio: Tensor, how: CachedPass) -> Flows:
        """As `DualStreamDiT.forward`, on the first rank's device. The sound is the first rank's."""
        flows = self._on_every_rank(
            video, audio, how, lambda model, share: model(share.video, share.audio, share.how)
        )
        picture = torch.cat([flow[0].to(video.device) for flow in flows], dim=1)
        return picture, flows[0][1]

    def settle(self, video: Tensor, audio: Tensor, how: CachedPass) -> None:
        """As `DualStreamDiT.settle`."""
        self._on_every_rank(
            video,
            audio,
            how,
            lambda model, share: model.settle(share.video, share.audio, share.how),
        )

    def embed_text(self, text: TextContext) -> TextCache:
        """As `DualStreamDiT.embed_text`, on every rank."""
        for rank in self._ranks:
            here = TextContext(text.video.to(rank.device), text.audio.to(rank.device))
            with _current(rank.device):
                rank.state.text = rank.model.embed_text(here)
        return cast("TextCache", self._ranks[0].state.text)

    def _on_every_rank(
        self,
        video: Tensor,
        audio: Tensor,
        how: CachedPass,
        work: Callable[[DualStreamDiT, Share], Answer],
    ) -> list[Answer]:
        for rank in self._ranks[1:]:
            rank.state.follow(how.state)
        exchange = Exchange(len(self._ranks))
        cuts = shares(video.shape[1], len(self._ranks))
        tokens = how.state.rotary.tokens_per_latent
        block = (how.first_video * tokens, video.shape[1] * tokens)
        jobs = [
            (rank.model, _share(rank, video, audio, how, cut, Seat(exchange, index, *block)))
            for index, (rank, cut) in enumerate(zip(self._ranks, cuts, strict=True))
        ]

        def run(index: int) -> Answer:
            model, share = jobs[index]
            with _current(self._ranks[index].device):
                try:
                    return work(model, share)
                finally:
                    exchange.stop(index)

        return run_together(run, self._threads)


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank is asked: its video latents, all the sound, and the pass at its place."""

    video: Tensor
    audio: Tensor
    how: CachedPass


def shares(num_latents: int, ranks: int) -> list[tuple[int, int]]:
    """Consecutive (first, end) of all latents, as equal as they can be; the first have one more.

    Raises:
        ShapeError: fewer latents than ranks.
    """
    if num_latents < ranks:
        raise ShapeError(
            "There are fewer video latents than ranks to share them",
            found=f"{num_latents} latents, {ranks} ranks",
        )
    ends = [-(-num_latents * rank // ranks) for rank in range(ranks + 1)]
    return list(pairwise(ends))


def cut_runs(
    runs: TimeRuns | TimeRows | Tensor, first: int, end: int
) -> TimeRuns | TimeRows | Tensor:
    """The timesteps of latents `first` to `end`; embedded ones must be a row per latent."""
    if isinstance(runs, TimeRows):
        return TimeRows(runs.embedding[:, first:end], runs.projection[:, first:end])
    if isinstance(runs, Tensor):
        return runs[:, first:end]
    kept: list[tuple[float, int]] = []
    position = 0
    for timestep, count in runs:
        common = min(position + count, end) - max(position, first)
        if common > 0:
            kept.append((timestep, common))
        position += count
    return tuple(kept)


def replica(model: DualStreamDiT, device: torch.device) -> DualStreamDiT:
    """The same network on another device; weights that are there already are shared."""
    weights = {
        id(p): nn.Parameter(p.data.to(device), requires_grad=False) for p in model.parameters()
    }
    buffers = {id(b): b.to(device) for b in model.buffers()}
    return copy.deepcopy(model, {**weights, **buffers})


def run_together(work: Callable[[int], Answer], threads: Sequence[StandingThread]) -> list[Answer]:
    """work(0) here and work(1), ... in threads, all ended on return; raises the first real error.

    An error in one must make the others end; those that end for that reason raise `RankStopped`.
    """
    inference, gradient = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def in_mode(index: int) -> Answer:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradient):
            return work(index)

    others = [thread.begin(partial(in_mode, rank)) for rank, thread in enumerate(threads, 1)]
    first: Future[Answer] = Future()
    try:
        first.set_result(work(0))
    except BaseException as error:  # told when the others have ended
        first.set_exception(error)
    ended = [first, *others]
    errors = [error for rank in ended if (error := rank.exception()) is not None]
    if errors:
        raise next((e for e in errors if not isinstance(e, RankStopped)), errors[0])
    return [rank.result() for rank in ended]


def _share(
    rank: Rank,
    video: Tensor,
    audio: Tensor,
    how: CachedPass,
    cut: tuple[int, int],
    seat: Seat,
) -> Share:
    first, end = cut
    rank.follow(how.state)
    state = replace(
        rank.state,
        video_self=SharedCache(rank.state.video_self, seat),
        video_cross=SharedCache(rank.state.video_cross, seat),
    )
    return Share(
        video[:, first:end].to(rank.device),
        audio.to(rank.device),
        replace(
            how,
            state=state,
            first_video=how.first_video + first,
            video_times=cut_runs(how.video_times, first, end),
        ),
    )


def _current(device: torch.device) -> torch.cuda.device | nullcontext[None]:
    """Make `device` the current one, where a thread has a current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
