"""Clips as users see them: made by the sampler from a seed, decoded, written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from hallo_live_core.checkpoints import catalog
from hallo_live_core.checkpoints.load import load_audio_decoder, load_video_decoder
from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.functional.noise import SeededNoise
from hallo_live_core.media.label import label
from hallo_live_core.media.mp4 import Mp4Writer
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import LatentBlock, MediaChunk, TextContext

from .draws import RolloutDraw
from .rollout import RolloutShape, roll_out
from .schedules import exit_steps
from .types import Latents

DECODER_FILES = (catalog.VIDEO_VAE, catalog.AUDIO_VAE, catalog.VOCODER)
UNFINISHED = ".unfinished.mp4"


def student_clip(
    student: DualStreamDiT,
    text: TextContext,
    shape: RolloutShape,
    seed: int,
    device: torch.device,
) -> Latents:
    """What a user of the student gets from this seed: every block makes all its steps."""
    noise = SeededNoise(shape.clip, seed, device=device, dtype=shape.dtype)
    last = len(exit_steps(shape.schedule)) - 1
    return roll_out(student, text, shape, RolloutDraw(noise, (last,) * shape.clip.plan.num_blocks))


def decoder_files(models: Path) -> dict[str, Path]:
    """The decoders' files in a folder with the published ones.

    Raises:
        CheckpointError: some are missing.
    """
    return catalog.locate(models, DECODER_FILES)


def load_decoders(models: Path, device: torch.device) -> HalloLive:
    """An engine that can decode, from a folder with the published files.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    files = decoder_files(models)
    video, audio, vocoder = (files[file.key] for file in DECODER_FILES)
    placement = Placement.on(device)
    return HalloLive(
        video_decoder=load_video_decoder(video, dtype=placement.decoder_dtype, device=device),
        audio_decoder=load_audio_decoder(audio, vocoder, device=device),
        placement=placement,
    )


def decode(decoders: HalloLive, clip: Latents) -> Iterator[MediaChunk]:
    """Picture and sound of one clip, [1, f, c, h, w] and [1, a, c]."""
    whole = LatentBlock(0, 0, 0, clip.video, clip.audio, clip.audio[:, :0], is_last=True)
    return decoders.decode([whole])


def write_clip(path: Path, decoders: HalloLive, clip: Latents, *, prompt: str, seed: int) -> None:
    """Decode one clip into an MP4, which stands under its name only when it is complete.

    Raises:
        MediaError: it cannot be written.
        OSError: the same, of the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(UNFINISHED)
    chunks = list(decode(decoders, clip))
    metadata = label(prompt, f"seed={seed}")
    with Mp4Writer(aside, clock=decoders.clock, metadata=metadata) as writer:
        for chunk in chunks:
            writer.write(chunk)
    aside.replace(path)
