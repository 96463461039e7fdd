"""The loop of the paper: each block of picture and sound is denoised, handed over, remembered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from ..functional.blocks import Block
from ..functional.noise import NoiseSource, audio_window
from ..functional.schedule import add_noise
from ..types import LatentBlock, TextContext
from .denoiser import Clean, Denoiser


@dataclass(frozen=True, slots=True)
class PassDone:
    """One network call of block number `block` has been made."""

    block: int


def stream_blocks(
    denoiser: Denoiser, noise: NoiseSource, *, exits: Sequence[int] | None = None
) -> Iterator[LatentBlock]:
    """Yield each block of the session the moment it is clean; exits: see `stream_passes`."""
    for event in stream_passes(denoiser, noise, exits=exits):
        if isinstance(event, LatentBlock):
            yield event


def stream_passes(
    denoiser: Denoiser,
    noise: NoiseSource,
    *,
    exits: Sequence[int] | None = None,
    next_text: Callable[[int], TextContext | None] | None = None,
) -> Iterator[PassDone | LatentBlock]:
    """`stream_blocks` with a turn for the caller after every network call: to report, or to stop.

    A block is handed over before its clean-context pass, so that decoding can begin; the pass runs
    when the caller comes back, and there is none after the last block (spec 02 §3).

    exits: for training, the last step that each block of the clip makes; by default all are made.
    next_text: asked before every block but the first for the prompt from there on; None: as before.
    Where the session keeps the picture, what is remembered is looked at again under a new prompt.
    """
    plan = denoiser.state.plan
    for index in range(denoiser.state.next_block, plan.num_blocks):
        block = plan.block(index)
        place = plan.place(block)
        if next_text is not None and index and (text := next_text(index)) is not None:
            yield from say(denoiser, text)
        last_step = None if exits is None else exits[block.index]
        clean = yield from denoise_block(denoiser, block, noise, last_step=last_step)
        denoiser.keep(block, clean)
        yield LatentBlock(
            index=block.index,
            first_video_latent=block.first_video,
            first_audio_latent=block.first_audio,
            video=clean.video,
            audio=clean.audio[:, place.first_audio : place.end_audio],
            audio_ahead=clean.audio[:, place.end_audio :],
            is_last=block.is_last,
        )
        if not block.is_last:
            denoiser.settle(block, clean)
            yield PassDone(block.index)
        denoiser.state.advance()


def say(denoiser: Denoiser, text: TextContext) -> Iterator[PassDone]:
    """Another prompt from the next block on; earlier blocks are final."""
    denoiser.say(text)
    if denoiser.state.video_history is not None:
        for place in denoiser.state.remembered:
            denoiser.recall(place)
            yield PassDone(denoiser.state.next_block)


def denoise_block(
    denoiser: Denoiser, block: Block, noise: NoiseSource, *, last_step: int | None = None
) -> Generator[PassDone, None, Clean]:
    """From noise to clean latents of one block; between steps fresh noise is added.

    last_step: stop after this step, for training; by default all steps are made. Only the last may
    build a graph. Yields after every network call and returns the clean block:
    `clean = yield from denoise_block(...)`.
    """
    schedule, steps = denoiser.schedule, denoiser.schedule.steps
    last = len(steps) - 1 if last_step is None else last_step
    video, audio = noise.initial_video(block), audio_window(noise, denoiser.state.plan, block)
    past = denoiser.state.plan.place(block).first_audio
    for step in range(last):
        clean = denoiser.clean(block, video, audio, steps[step])
        yield PassDone(block.index)
        sigma = schedule.sigma(steps[step + 1])
        fresh_video, fresh_audio = noise.fresh(block, step)
        video = add_noise(clean.video, fresh_video, sigma)
        audio = add_noise(clean.audio[:, past:], fresh_audio, sigma)
    clean = denoiser.clean(block, video, audio, steps[last], gradient=denoiser.gradient)
    yield PassDone(block.index)
    return clean
