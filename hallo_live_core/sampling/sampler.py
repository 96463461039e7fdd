"""The loop of the paper: each block of picture and sound is denoised, handed over, remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import Cancelled
from ..functional.blocks import Block
from ..functional.noise import NoiseSource, audio_window
from ..functional.schedule import add_noise
from ..types import CancelCheck, LatentBlock
from .denoiser import Clean, Denoiser

PassCallback = Callable[[Block], None]
"""Called with the block after each of its network calls; may raise to stop the run."""


def stream_blocks(
    denoiser: Denoiser,
    noise: NoiseSource,
    *,
    on_pass: PassCallback | None = None,
    should_stop: CancelCheck | None = None,
) -> Iterator[LatentBlock]:
    """Yield each block of the session the moment it is clean.

    A block is handed over before its clean-context pass, so that decoding can begin; the pass runs
    when the next block is asked for, and there is none after the last (spec 02 §3).

    Raises:
        Cancelled: `should_stop` said so, between two network calls.
    """
    plan = denoiser.state.plan
    for block in plan.blocks[denoiser.state.next_block :]:
        clean = denoise_block(denoiser, block, noise, on_pass=on_pass, should_stop=should_stop)
        denoiser.keep(block, clean)
        yield LatentBlock(
            index=block.index,
            first_video_latent=block.first_video,
            first_audio_latent=block.first_audio,
            video=clean.video,
            audio=clean.audio[:, block.first_audio : block.end_audio],
            audio_ahead=clean.audio[:, block.end_audio :],
            is_last=block.is_last,
        )
        if not block.is_last:
            _stop_if_asked(should_stop)
            denoiser.settle(block, clean)
            _report(on_pass, block)
        denoiser.state.next_block = block.index + 1


def denoise_block(
    denoiser: Denoiser,
    block: Block,
    noise: NoiseSource,
    *,
    last_step: int | None = None,
    on_pass: PassCallback | None = None,
    should_stop: CancelCheck | None = None,
) -> Clean:
    """From noise to clean latents of one block; between steps fresh noise is added.

    last_step: stop after this step, for training; by default all steps are made.
    """
    schedule, steps = denoiser.schedule, denoiser.schedule.steps
    last = len(steps) - 1 if last_step is None else last_step
    video, audio = noise.initial_video(block), audio_window(noise, denoiser.state.plan, block)
    for step in range(last):
        _stop_if_asked(should_stop)
        clean = denoiser.clean(block, video, audio, steps[step])
        _report(on_pass, block)
        sigma = schedule.sigma(steps[step + 1])
        fresh_video, fresh_audio = noise.fresh(block, step)
        video = add_noise(clean.video, fresh_video, sigma)
        audio = add_noise(clean.audio[:, block.first_audio :], fresh_audio, sigma)
    _stop_if_asked(should_stop)
    clean = denoiser.clean(block, video, audio, steps[last])
    _report(on_pass, block)
    return clean


def _stop_if_asked(should_stop: CancelCheck | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled


def _report(on_pass: PassCallback | None, block: Block) -> None:
    if on_pass is not None:
        on_pass(block)
