"""Latents become pictures and sound in a step of their own."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hallo_live_core import Request
from . import host_media
from .latents import blocks_from_latents, pixel_size
from .room import ready
from .run import RunReport, as_audio, as_images, engine_of, write_clip
from .sockets import CATEGORY, LoadedVae, Vae


class HalloLiveDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveDecode",
            display_name="Hallo-Live Decode",
            category=CATEGORY,
            description=(
                "Turns latents of a Hallo-Live sampler into pictures and sound. All pictures are "
                "held in memory: 6 MB per frame at 992 x 512."
            ),
            inputs=[
                Vae.Input("vae", tooltip="From Hallo-Live VAE Loader."),
                io.Latent.Input("video_latent", tooltip="48 channels, as the Wan2.2 VAE has them."),
                io.Latent.Input(
                    "audio_latent",
                    optional=True,
                    tooltip="20 channels. Leave it free if the video latent carries its sound.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="All frames; play them at 24 fps."),
                io.Audio.Output(display_name="audio", tooltip="16 kHz mono, as long as the video."),
                io.Video.Output(display_name="video", tooltip="Both together, for Save Video."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        vae: LoadedVae,
        video_latent: dict[str, Any],
        audio_latent: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        engine = engine_of(vae=vae)
        blocks = blocks_from_latents(video_latent, audio_latent, engine.settings.blocks)
        height, width = pixel_size(video_latent)
        request = Request(height=height, width=width)
        report = RunReport(cls.hidden.unique_id, engine)
        with ready(engine, request, [vae.video, vae.audio]):
            stream = engine.decode(blocks, on_progress=report.advance)
            path, sound, pictures = write_clip(
                stream, report, host_media.workflow_metadata(cls.hidden)
            )
        return io.NodeOutput(
            as_images(pictures), as_audio(sound, engine.clock), host_media.as_video(path)
        )
