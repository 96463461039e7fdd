"""Passes of one transformer, recorded once as CUDA graphs and then replayed with one launch.

A pass launches some 2500 kernels, and for the sound's few rows the launches take longer than the
work. Every block of a clip has its graph, and another one for its context pass. A graph reads and
writes fixed addresses: so latents and timesteps are copied to where it expects them, and a session
stays in memory for the next clip of the same shape, which only brings another prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from ..errors import HalloLiveError, RequestError
from ..functional.schedule import NoiseSchedule
from ..models.dit import CachedPass, DualStreamDiT, Flows
from ..state.session import SessionShape, SessionState, TextCache, TimeRows, TimeRuns
from ..types import TextContext
from .denoiser import Network, open_session

Answer = TypeVar("Answer")


class Recorder(Protocol):
    """Records what is launched."""

    def record(self, work: Callable[[], Answer]) -> tuple[Answer, Callable[[], None]]:
        """Record `work` without doing it; returns its answer's tensors, and what fills them."""
        ...


class CudaRecorder:
    """CUDA graphs of one device, which share the memory they work in."""

    def __init__(self, device: torch.device) -> None:
        """Raises RequestError where there are no CUDA graphs."""
        if device.type != "cuda":
            raise RequestError(
                "Recorded passes need a GPU", found=device, fix="leave graphs off, or use cuda"
            )
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream | None = None

    def record(self, work: Callable[[], Answer]) -> tuple[Answer, Callable[[], None]]:
        """See `Recorder`. Other threads, which decode, may go on meanwhile.

        All recordings are made on one stream, without which they could not share memory. It has the
        priority of the caller's, since recorded kernels keep theirs (`decoding.turns`).
        """
        if self._stream is None:
            priority = torch.cuda.current_stream(self._device).priority
            self._stream = torch.cuda.Stream(self._device, priority=priority)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            answer = work()
        return answer, graph.replay


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What changes from one pass of a shape to the next."""

    video: Tensor
    audio: Tensor
    video_times: TimeRows
    audio_times: TimeRows

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All six tensors, always in the same order."""
        times = (self.video_times, self.audio_times)
        rows = (tensor for t in times for tensor in (t.embedding, t.projection))
        return (self.video, self.audio, *rows)

    def copy(self) -> PassInputs:
        """The same at addresses of their own."""
        video, audio, *rows = (tensor.clone() for tensor in self.tensors)
        return PassInputs(video, audio, TimeRows(rows[0], rows[1]), TimeRows(rows[2], rows[3]))

    def read(self, other: PassInputs) -> None:
        """Take over another's values."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.copy_(theirs)


@dataclass(frozen=True, slots=True)
class Recorded(Generic[Answer]):
    """One recorded pass: where it reads, where it writes, and what sets it off."""

    inputs: PassInputs
    answer: Answer
    replay: Callable[[], None]


PassKey = tuple[object, ...]
"""What one recording fits: kind of pass, place in the clip, and shapes."""


class GraphedTransformer:
    """One transformer whose passes are recorded; opens one session at a time.

    The first pass of a kind runs as it is, which also warms up the libraries; the second is
    recorded. `drop` forgets everything; whoever moves the weights must call it, and weights found
    elsewhere when a clip begins count as moved.
    """

    def __init__(
        self, model: DualStreamDiT, device: torch.device, recorder: Recorder | None = None
    ) -> None:
        """Raises RequestError where there are no CUDA graphs."""
        self.config, self.models = model.config, (model,)
        self._new_recorder = lambda: recorder or CudaRecorder(device)
        self._recorder = self._new_recorder()
        self._session: RecordedSession | None = None
        self._opened_as: tuple[object, ...] = ()

    def open(
        self,
        text: TextContext,
        shape: SessionShape,
        schedule: NoiseSchedule,
        *,
        dtype: torch.dtype,
    ) -> tuple[Network, SessionState]:
        """A session, in the memory of the last one if that was of the same shape.

        Raises:
            ShapeError, PositionError: as `open_session`.
        """
        model = self.models[0]
        opened_as = (shape, dtype, schedule.all_timesteps, _addresses(model))
        if self._session is None or opened_as != self._opened_as:
            self.drop()
            state = open_session(model, text, shape, schedule, dtype=dtype)
            self._session = RecordedSession(model, state, self._recorder)
        else:
            self._session = self._session.another(text)
        self._opened_as = opened_as
        return self._session, self._session.state

    def drop(self) -> None:
        """Forget all recordings and the session they stand on; the next clip begins anew."""
        if self._session is not None:
            self._session.end()
            self._session = None
            self._recorder = self._new_recorder()


class RecordedSession:
    """Runs one session's passes, a `Network`; they are recorded as they come."""

    def __init__(self, model: DualStreamDiT, state: SessionState, recorder: Recorder) -> None:
        self.state = state
        self._model, self._recorder = model, recorder
        self._seen = set[PassKey]()
        self._flows: dict[PassKey, Recorded[Flows]] = {}
        self._settled: dict[PassKey, Recorded[None]] = {}
        self._ended = False

    def __call__(self, video: Tensor, audio: Tensor, how: CachedPass) -> Flows:
        """See `DualStreamDiT.forward`."""
        flows = self._run(self._flows, self._model, video, audio, how)
        return flows[0].clone(), flows[1].clone()  # the next replay writes over these

    def settle(self, video: Tensor, audio: Tensor, how: CachedPass) -> None:
        """See `DualStreamDiT.settle`."""
        self._run(self._settled, self._model.settle, video, audio, how)

    def embed_text(self, text: TextContext) -> TextCache:
        """See `DualStreamDiT.embed_text`; what comes out stands where the recordings read it."""
        fixed = cast("TextCache", self.state.text)
        for mine, new in zip(_tensors(fixed), _tensors(self._model.embed_text(text)), strict=True):
            mine.copy_(new)
        return fixed

    @torch.no_grad()
    def another(self, text: TextContext) -> RecordedSession:
        """Another clip in the same memory, with the same recordings; this one has ended."""
        state = self.state
        after = RecordedSession(self._model, state, self._recorder)
        after._seen, after._flows, after._settled = self._seen, self._flows, self._settled
        self._ended = True
        like = state.audio_history
        after.embed_text(TextContext(text.video.to(like), text.audio.to(like)))
        like.zero_()
        state.next_block, state.first_frame = 0, None
        return after

    def end(self) -> None:
        """Let go of all recordings."""
        self._flows.clear()
        self._settled.clear()
        self._ended = True

    def _run(
        self,
        recorded: dict[PassKey, Recorded[Answer]],
        work: Callable[[Tensor, Tensor, CachedPass], Answer],
        video: Tensor,
        audio: Tensor,
        how: CachedPass,
    ) -> Answer:
        if self._ended:
            raise HalloLiveError(
                "Another clip has been begun, or the model was moved",
                fix="finish one clip before the next, or leave graphs off",
            )
        inputs = PassInputs(
            video,
            audio,
            _rows(how.video_times, self.state.video_times.compact),
            _rows(how.audio_times, self.state.audio_times.spread),
        )
        kind = recorded is self._flows
        key: PassKey = (kind, how.first_video, *(t.shape for t in inputs.tensors))
        if key not in self._seen:
            self._seen.add(key)
            return work(video, audio, how)
        if key not in recorded:
            recorded[key] = self._record(work, inputs, how)
        found = recorded[key]
        found.inputs.read(inputs)
        found.replay()
        return found.answer

    def _record(
        self,
        work: Callable[[Tensor, Tensor, CachedPass], Answer],
        inputs: PassInputs,
        how: CachedPass,
    ) -> Recorded[Answer]:
        fixed = inputs.copy()
        there = replace(how, video_times=fixed.video_times, audio_times=fixed.audio_times)
        answer, replay = self._recorder.record(lambda: work(fixed.video, fixed.audio, there))
        return Recorded(fixed, answer, replay)


def _rows(times: TimeRuns | TimeRows | Tensor, known: Callable[[TimeRuns], TimeRows]) -> TimeRows:
    if isinstance(times, Tensor):
        raise HalloLiveError("Recorded passes take timesteps that the session knows")
    return times if isinstance(times, TimeRows) else known(times)


def _tensors(text: TextCache) -> list[Tensor]:
    keys = (*text.video_keys, *text.audio_keys)
    return [text.video, text.audio, *(tensor for pair in keys for tensor in pair)]


def _addresses(model: DualStreamDiT) -> tuple[int, ...]:
    """Where the weights are."""
    return tuple(parameter.data_ptr() for parameter in model.parameters())
