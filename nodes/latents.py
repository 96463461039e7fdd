"""LATENT sockets <-> blocks of the core.

A video LATENT holds raw latents of the Wan2.2 VAE, [1, 48, f, h, w], so that core nodes decode
ours; an audio LATENT holds [1, 20, a]. Inside, axes are [b, f, c, h, w] and [b, a, c], and video
latents are normalised.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..hallo_live_core import (
    SPATIAL_COMPRESSION,
    BlockSizes,
    LatentBlock,
    MediaClock,
    ShapeError,
)
from . import host

OVI_AUDIO_KEY = "latent_ovi_audio"
"""Some packs put the sound of a clip into its video LATENT under this name; read, never written."""

VIDEO_AXES, AUDIO_AXES = 5, 3
VIDEO_CHANNELS, AUDIO_CHANNELS = 48, 20


def latent_outputs() -> list[io.Output]:
    """The two sockets that a sampler's latents leave by."""
    return [
        io.Latent.Output(
            display_name="video_latent",
            tooltip="For Hallo-Live Decode, or VAE Decode with the Wan2.2 VAE.",
        ),
        io.Latent.Output(display_name="audio_latent", tooltip="For Hallo-Live Decode only."),
    ]


def latents_from_blocks(blocks: list[LatentBlock]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All blocks of a run as a video and an audio LATENT."""
    video = torch.cat([block.video.float().cpu() for block in blocks], dim=1)
    audio = torch.cat([block.audio.float().cpu() for block in blocks], dim=1)
    return (
        {"samples": host.to_socket(host.raw_latents(video.transpose(1, 2)))},
        {
            "samples": host.to_socket(audio.transpose(1, 2)),
            "sample_rate": MediaClock().sample_rate,
            "type": "audio",
        },
    )


def blocks_from_latents(
    video: dict[str, Any], audio: dict[str, Any] | None, sizes: BlockSizes
) -> list[LatentBlock]:
    """The blocks whose latents these are; the last one may be shorter.

    Raises:
        ShapeError: the sound is missing, or the shapes are not those of one clip.
    """
    pictures, sound = _unpack(video, audio)
    _check_shapes(pictures, sound)
    pictures = host.normalised_latents(pictures).transpose(1, 2)
    sound = sound.transpose(1, 2)
    starts = range(0, pictures.shape[1], sizes.video_latents)
    return [
        LatentBlock(
            index=index,
            first_video_latent=start,
            first_audio_latent=index * sizes.audio_latents,
            video=pictures[:, start : start + sizes.video_latents],
            audio=sound[:, index * sizes.audio_latents :][:, : sizes.audio_latents],
            audio_ahead=sound[:, :0],
            is_last=index == len(starts) - 1,
        )
        for index, start in enumerate(starts)
    ]


def pixel_size(video: dict[str, Any]) -> tuple[int, int]:
    """Height and width that a video LATENT decodes to."""
    samples = video["samples"]
    height, width = (samples.tensors[0] if is_nested(samples) else samples).shape[-2:]
    return height * SPATIAL_COMPRESSION, width * SPATIAL_COMPRESSION


def _unpack(
    video: dict[str, Any], audio: dict[str, Any] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture and sound, wherever a pack has put the sound."""
    pictures = video["samples"]
    sound = None if audio is None else audio["samples"]
    if is_nested(pictures):  # core's convention for joint models: picture first, sound last
        pictures, *rest = pictures.unbind()
        sound = rest[-1] if sound is None and rest else sound
    sound = video.get(OVI_AUDIO_KEY) if sound is None else sound
    if sound is None:
        raise ShapeError(
            "The sound of this clip is missing",
            fix="connect audio_latent of the same sampler",
        )
    return pictures, sound


def is_nested(samples: Any) -> bool:
    """Whether these are the joint latents of a model for picture and sound."""
    return getattr(samples, "is_nested", False)


def _check_shapes(video: torch.Tensor, audio: torch.Tensor) -> None:
    per_latent = MediaClock().audio_latents_per_video_latent
    if video.ndim != VIDEO_AXES or audio.ndim != AUDIO_AXES or len(video) != 1 or len(audio) != 1:
        raise ShapeError(
            "These are not the latents of one Hallo-Live clip",
            found=f"video {list(video.shape)}, audio {list(audio.shape)}",
            fix="connect both latents of one Hallo-Live sampler",
        )
    if video.shape[1] != VIDEO_CHANNELS or audio.shape[1] != AUDIO_CHANNELS:
        raise ShapeError(
            f"Hallo-Live has {VIDEO_CHANNELS} channels of picture and {AUDIO_CHANNELS} of sound",
            found=f"{video.shape[1]} and {audio.shape[1]}: latents of another model",
            fix="connect both latents of one Hallo-Live sampler",
        )
    if audio.shape[2] != per_latent * video.shape[2]:
        raise ShapeError(
            f"Picture and sound differ in length: {per_latent} audio latents belong to a video one",
            found=f"{video.shape[2]} video and {audio.shape[2]} audio latents",
            fix="connect both latents of one Hallo-Live sampler",
        )
