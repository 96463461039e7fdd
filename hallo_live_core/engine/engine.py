"""Where the parts meet: a request goes in, media chunks come out as soon as they exist."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..checkpoints.lora import LoraFiles
from ..clock import MediaClock
from ..config import FULL, HALLO_5B, Acceleration, Profile, StreamSettings
from ..decoding.audio import AudioStream
from ..decoding.chunks import ChunkDecoder
from ..decoding.turns import IN_ORDER, ByPriority, Turns
from ..decoding.video import VideoStream
from ..decoding.worker import BackgroundWorker
from ..devices import Placement
from ..errors import HalloLiveError
from ..functional.blocks import ClipPlan
from ..functional.noise import ClipShape, CorrelatedNoise, SeededNoise
from ..functional.request import check_request, plan_request
from ..functional.schedule import NoiseSchedule
from ..functional.script import NextSaid
from ..models.audio_vae.audio_decoder import AudioDecoder
from ..models.dit import DualStreamDiT
from ..models.text_encoder.umt5 import TextEncoder
from ..models.video_vae.interface import VideoDecoder
from ..sampling.denoiser import Denoiser, check_window
from ..sampling.first_frame import pin_first_frame
from ..sampling.sampler import PassDone, stream_passes
from ..sampling.split import Opener, leader, open_network
from ..threads import StandingThread
from ..types import (
    CancelCheck,
    LatentBlock,
    MediaChunk,
    ProgressCallback,
    Request,
    TextContext,
)
from .acceleration import accelerate, check_acceleration
from .memory import (
    AUDIO,
    TEXT,
    TRANSFORMER,
    VIDEO,
    MemoryBudget,
    PartSizes,
    memory_budget,
    session_shape,
    weight_nbytes,
)
from .parts import DECODERS, load_parts
from .run import Run, texts_of, until_finished

Part = TypeVar("Part")


def decoding_thread() -> StandingThread:
    """A thread that decodes beside the passes; it starts with the first run that needs it."""
    return StandingThread("hallo-live-decoder")


class HalloLive:
    """The whole system: text, transformer, decoders.

    Parts may be left out by callers who need only some of the verbs: `sample` needs the
    transformer, `decode` the two decoders, `stream` all three, `encode` the text encoder.

    The modules stay where they are; `placement` says where that is. Nothing of a run is kept
    here, so one engine may serve any number of runs, one after the other.

    decoding: the thread for decoding beside the passes; engines that follow one another with the
    same decoders should share it.
    """

    def __init__(
        self,
        *,
        transformer: DualStreamDiT | Opener | None = None,
        video_decoder: VideoDecoder | None = None,
        audio_decoder: AudioDecoder | None = None,
        text_encoder: TextEncoder | None = None,
        placement: Placement,
        settings: StreamSettings | None = None,
        decoding: StandingThread | None = None,
    ) -> None:
        self._transformer = transformer
        self._video_decoder, self._audio_decoder = video_decoder, audio_decoder
        self._text_encoder = text_encoder
        self.placement = placement
        shared = placement.decodes_by_priority
        self._turns: Turns = ByPriority(placement.decoder) if shared else IN_ORDER
        self._decoding = decoding or decoding_thread()
        self.clock = MediaClock()
        self.settings = settings or StreamSettings()

    @classmethod
    def load(
        cls,
        models: Path,
        *,
        placement: Placement,
        decoder: str = DECODERS[0],
        ema: bool = True,
        loras: LoraFiles = (),
        acceleration: Acceleration | None = None,
        profile: Profile = FULL,
    ) -> HalloLive:
        """Load every part from a folder with the published files (README, `catalog`).

        loras: files and strengths of changes to merge into the transformer. acceleration: how its
        work is carried out. profile: what it gives up for less memory or time.

        Raises:
            CheckpointError: a file is missing (all missing ones are named), damaged or of
                another model.
            RequestError: the device cannot do what `acceleration` asks for.
        """
        how, sage = acceleration or Acceleration(), profile.sage_attention
        check_acceleration(how, placement.transformer, split=bool(placement.sharers), sage=sage)
        parts = load_parts(
            models, placement=placement, decoder=decoder, ema=ema, loras=loras, profile=profile
        )
        return cls(
            transformer=accelerate(parts.transformer, how, sage=sage),
            video_decoder=parts.video_decoder,
            audio_decoder=parts.audio_decoder,
            text_encoder=parts.text_encoder,
            placement=placement,
            settings=StreamSettings(fp8_cache=profile.fp8_cache),
        )

    def check(self, request: Request) -> ClipPlan:
        """Refuse a request that cannot work; returns its plan.

        Raises:
            RequestError: length, size, seed or look-ahead cannot work.
            PromptError: the prompt is empty or its tags do not match.
        """
        return self._plan(request, None)

    def clock_for(self, request: Request) -> MediaClock:
        """The times of its frames: where its window moves, the picture follows the sound."""
        plan = plan_request(request, self.settings, rope_rows=self._rope_rows)
        if not plan.slides or request.constant_rate:
            return self.clock
        return replace(self.clock, follow_after=plan.remembered.video_latents)

    @torch.inference_mode()
    def encode(self, prompt: str) -> TextContext:
        """The prompt as both streams see it."""
        return TextContext.shared(_need(self._text_encoder, "text encoder").encode(prompt))

    @torch.inference_mode()
    def sample(
        self,
        request: Request,
        *,
        text: TextContext | None = None,
        on_progress: ProgressCallback | None = None,
        should_stop: CancelCheck | None = None,
        next_said: NextSaid | None = None,
    ) -> Generator[LatentBlock, None, None]:
        """Yield the clip's blocks of clean, normalised latents.

        text replaces the request's prompt. on_progress is called after every pass of the network
        and may raise; should_stop is asked before the next one. next_said is asked before every
        block but the first for another prompt, such as a `Script`.

        Raises:
            RequestError, PromptError: before anything runs.
            Cancelled: `should_stop` said so.
        """
        plan = self._plan(request, text)
        run = Run.of(request, plan, self._passes(plan), on_progress, should_stop)
        for event in self._denoise(request, plan, text, next_said):
            if isinstance(event, LatentBlock):
                yield event
            else:
                run.step("denoise", event.block)

    @torch.inference_mode()
    def decode(
        self,
        blocks: Iterable[LatentBlock],
        *,
        on_progress: ProgressCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> Generator[MediaChunk, None, None]:
        """Yield picture and sound of the finished blocks of one clip, a chunk per video latent.

        Blocks may have any number of latents.

        Raises:
            Cancelled: `should_stop` said so, between two latents.
        """
        decoder = self._chunk_decoder(self.clock)
        blocks = list(blocks)
        latents = sum(block.video.shape[1] for block in blocks)
        run = Run(len(blocks), latents, on_progress, should_stop)
        for block in blocks:
            for chunk in decoder.decode(_moved(block, self.placement.decoder)):
                yield chunk
                run.step("decode", chunk.block)

    @torch.inference_mode()
    def stream(
        self,
        request: Request,
        *,
        text: TextContext | None = None,
        on_progress: ProgressCallback | None = None,
        should_stop: CancelCheck | None = None,
        on_block: Callable[[LatentBlock], None] | None = None,
        should_finish: CancelCheck | None = None,
        next_said: NextSaid | None = None,
    ) -> Generator[MediaChunk, None, None]:
        """Yield picture and sound of the clip, a chunk per video latent, as soon as each exists.

        With the decoders on a device of their own, or with `Placement.beside`, they work in a
        thread while the next block is denoised. on_block is handed the latents of every finished
        block. should_finish is asked when a block is clean: True makes it the clip's last, and the
        clip a complete, shorter one. The rest is as in `sample`. Ending the iteration early stops
        everything.
        """
        plan = self._plan(request, text)
        decoder = self._chunk_decoder(self.clock_for(request), self._turns)
        total = self._passes(plan) + plan.video_latents
        run = Run.of(request, plan, total, on_progress, should_stop)
        events = until_finished(self._denoise(request, plan, text, next_said), should_finish)
        if self.placement.decodes_beside:
            events = self._turns.passes(events)
            yield from self._stream_beside(events, decoder, run, on_block)
            return
        for event in events:
            if isinstance(event, PassDone):
                run.step("denoise", event.block)
                continue
            if on_block is not None:
                on_block(event)
            for chunk in decoder.decode(_moved(event, self.placement.decoder)):
                yield chunk
                run.step("decode", chunk.block)

    def memory(self, request: Request, *, fp8_cache: bool | None = None) -> MemoryBudget:
        """What the parts that are present take for this clip, weights included.

        fp8_cache: as if the caches were in 8 bits or not; None: as they are.

        Raises:
            RequestError: the request cannot work.
        """
        modules = {
            TRANSFORMER: None if self._transformer is None else leader(self._transformer),
            VIDEO: self._video_decoder,
            AUDIO: self._audio_decoder,
            TEXT: self._text_encoder,
        }
        sizes = PartSizes(
            None if self._transformer is None else self._transformer.config,
            self._video_decoder,
            {part: weight_nbytes(m) for part, m in modules.items() if isinstance(m, nn.Module)},
        )
        settings = self.settings
        if fp8_cache is not None:
            settings = replace(settings, fp8_cache=fp8_cache)
        return memory_budget(sizes, request, settings, self.placement)

    # -- the parts of a run -------------------------------------------------------------------

    @property
    def _rope_rows(self) -> int:
        return (HALLO_5B if self._transformer is None else self._transformer.config).rope_rows

    def _plan(self, request: Request, text: TextContext | None) -> ClipPlan:
        check = plan_request if text is not None else check_request
        plan = check(request, self.settings, rope_rows=self._rope_rows)
        if self._transformer is not None:
            shape = session_shape(request, plan, self.settings)
            check_window(plan, shape.tokens_per_latent(self._transformer.config))
        return plan

    def _passes(self, plan: ClipPlan) -> int:
        return plan.num_passes(len(self.settings.schedule.steps))

    def _denoise(
        self,
        request: Request,
        plan: ClipPlan,
        text: TextContext | None,
        next_said: NextSaid | None = None,
    ) -> Iterator[PassDone | LatentBlock]:
        model = _need(self._transformer, "transformer")
        device, dtype = self.placement.transformer, self.placement.dtype
        text = text or self.encode(request.prompt)
        text = TextContext(text.video.to(device, dtype), text.audio.to(device, dtype))
        schedule = NoiseSchedule(self.settings.schedule)
        shape = session_shape(request, plan, self.settings)
        network, state = open_network(model, text, shape, schedule, dtype=dtype)
        if request.first_frame is not None:
            pin_first_frame(leader(model), state, shape, request.first_frame)
        clip = ClipShape(
            plan=plan,
            video=(model.config.video.in_channels, shape.height, shape.width),
            audio_channels=model.config.audio.in_channels,
        )
        source = CorrelatedNoise if request.correlated_noise else SeededNoise
        noise = source(clip, request.seed, device=device, dtype=dtype)
        next_text = None if next_said is None else texts_of(next_said, self.encode, plan)
        return stream_passes(Denoiser(network, state, schedule), noise, next_text=next_text)

    def _chunk_decoder(self, clock: MediaClock, turns: Turns = IN_ORDER) -> ChunkDecoder:
        video = _need(self._video_decoder, "video decoder")
        audio = _need(self._audio_decoder, "audio decoder")
        stream = VideoStream(
            video, device=self.placement.decoder, dtype=self.placement.decoder_dtype
        )
        return ChunkDecoder(stream, AudioStream(audio), clock, turns)

    def _stream_beside(
        self,
        events: Iterator[PassDone | LatentBlock],
        decoder: ChunkDecoder,
        run: Run,
        on_block: Callable[[LatentBlock], None] | None,
    ) -> Iterator[MediaChunk]:
        if not self._decoding.is_idle:  # somebody has left a stream open
            self._decoding = decoding_thread()
        with BackgroundWorker(decoder.decode, thread=self._decoding) as worker:
            for event in events:
                if isinstance(event, PassDone):
                    run.step("denoise", event.block)
                else:
                    if on_block is not None:
                        on_block(event)
                    # Here, not in the worker, whose copy would queue behind the passes that follow.
                    block = _moved(event, self.placement.decoder)
                    while not worker.offer(block):
                        yield from run.decoded(worker.ready())
                yield from run.decoded(worker.ready())
            yield from run.decoded(worker.finish())


def _moved(block: LatentBlock, device: torch.device) -> LatentBlock:
    return replace(
        block,
        video=block.video.to(device),
        audio=block.audio.to(device),
        audio_ahead=block.audio_ahead.to(device),
    )


def _need(part: Part | None, name: str) -> Part:
    if part is None:
        raise HalloLiveError(
            f"This engine has no {name}", fix="load or pass one when the engine is made"
        )
    return part
