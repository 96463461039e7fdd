"""Brings any clip to what the judges hear and see: 8-bit frames, mono sound, their rates."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ShapeError
from .base import Clip

JUDGE_SAMPLE_RATE = 16_000
"""Hz; both judges of sound were trained at this rate (spec 08 §1)."""

SINC_WIDTH, ROLLOFF = 6, 0.99
"""Zero crossings of the resampling kernel on each side, and its cut-off of Nyquist (spec 08 §3)."""

OUTPUTS_PER_CHUNK = 1 << 17
"""Samples resampled at once; bounds memory for long sound."""

SILENCE = 1e-3
"""Peak of 1 below which sound counts as silent: 60 dB under full scale."""


def check_clip(clip: Clip) -> None:
    """Refuse what is no clip, before a network runs.

    Raises:
        ShapeError: frames, rate or samples are not what `Clip` says, or samples are not finite.
    """
    frames, samples = clip.frames, clip.samples
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ShapeError(
            "Frames to judge must be 8-bit RGB, [f, h, w, 3]",
            found=f"{list(frames.shape)} {frames.dtype}",
            fix="convert pictures of 0..1 with frames_from_images",
        )
    if 0 in frames.shape:
        raise ShapeError("The clip to judge has no picture", found=f"{list(frames.shape)}")
    if clip.fps <= 0 or clip.sample_rate <= 0:
        raise ShapeError(
            "Frame rate and sample rate must be above 0",
            found=f"{clip.fps} fps, {clip.sample_rate} Hz",
        )
    if samples is None:
        return
    if samples.ndim != 2 or not samples.is_floating_point():
        raise ShapeError(
            "Sound to judge must be floating point, [channels, samples]",
            found=f"{list(samples.shape)} {samples.dtype}",
        )
    if not samples.isfinite().all():
        raise ShapeError(
            "The sound holds values that are not numbers",
            found=f"{int((~samples.isfinite()).sum())} NaN or infinite samples",
            fix="check the node or decoder that made it",
        )


def frames_from_images(images: Tensor) -> Tensor:
    """Pictures [f, h, w, 3 or more] of 0..1 as uint8 [f, h, w, 3], truncated (spec 08 §1).

    Raises:
        ShapeError: another shape, or values that are not numbers.
    """
    if images.ndim != 4 or images.shape[-1] < 3:
        raise ShapeError("Pictures to judge must be [f, h, w, 3]", found=f"{list(images.shape)}")
    if not images.isfinite().all():
        raise ShapeError(
            "The picture holds values that are not numbers",
            found="NaN or infinity",
            fix="check the node or decoder that made it",
        )
    return (images[..., :3].clamp(0, 1) * 255).to("cpu", torch.uint8)


def retime(num_frames: int, fps: Fraction, target: Fraction) -> list[int]:
    """Which frame to show at each moment of another rate: repeats or drops, never blends.

    A frame begins at the target moment nearest to its own. For 24 -> 25 fps this is the measured
    rule of spec 08 §2.1.
    """
    ratio = Fraction(fps) / Fraction(target)
    p, q = ratio.numerator, ratio.denominator
    count = max(1, round(num_frames / ratio))
    return [min(num_frames - 1, (p * (2 * n + 1) - 1) // (2 * q)) for n in range(count)]


def mono(samples: Tensor) -> Tensor:
    """Mean of the channels: [channels, s] -> [s]."""
    return samples.mean(dim=0)


def resample(samples: Tensor, rate: int, target: int) -> Tensor:
    """Band-limited resampling of [s] with a Hann-windowed sinc (spec 08 §3).

    Each output sees the 2 * 6 zero crossings around its moment, in input samples stretched by the
    lower of both rates. Sound is zero outside of the clip.
    """
    if rate == target:
        return samples
    cutoff = min(rate, target) * ROLLOFF
    reach = math.ceil(SINC_WIDTH * rate / cutoff)
    count = -(-len(samples) * target // rate)
    taps = torch.arange(-reach, reach + 2, device=samples.device)
    padded = functional.pad(samples, (reach, reach + 2))
    parts = []
    for start in range(0, count, OUTPUTS_PER_CHUNK):
        moments = torch.arange(start, min(start + OUTPUTS_PER_CHUNK, count), device=samples.device)
        whole = moments * rate // target
        part = (moments * rate % target).double() / target
        time = (taps - part[:, None]) * (cutoff / rate)
        kernel = (
            torch.sinc(time)
            * torch.cos(time.clamp(-SINC_WIDTH, SINC_WIDTH) * (math.pi / 2 / SINC_WIDTH)).square()
        )
        kernel = (kernel * (cutoff / rate)).to(samples.dtype)
        parts.append((padded[whole[:, None] + taps + reach] * kernel).sum(dim=1))
    return torch.cat(parts) if parts else samples[:0]


def heard(clip: Clip) -> tuple[Tensor | None, tuple[str, ...]]:
    """Mono sound [s] at 16 kHz, and what was done to it or why there is none.

    None when the clip has no sound or is silent.
    """
    if clip.samples is None or clip.samples.numel() == 0:
        return None, ("the clip has no sound",)
    if float(clip.samples.abs().max()) < SILENCE:
        return None, ("the sound is silent",)
    notes = []
    channels = clip.samples.shape[0]
    if channels > 1:
        notes.append(f"{channels} channels were averaged")
    if clip.sample_rate != JUDGE_SAMPLE_RATE:
        notes.append(f"sound was resampled from {clip.sample_rate} to {JUDGE_SAMPLE_RATE} Hz")
    sound = mono(clip.samples.float().cpu())
    return resample(sound, clip.sample_rate, JUDGE_SAMPLE_RATE), tuple(notes)
