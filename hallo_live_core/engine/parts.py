"""The parts of the system, from a folder of published files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import catalog
from ..checkpoints.eight_bit import load_transformer_in_8_bits
from ..checkpoints.load import (
    load_audio_decoder,
    load_taehv,
    load_text_encoder,
    load_transformer,
    load_video_decoder,
)
from ..checkpoints.lora import LoraFiles
from ..config import Profile
from ..devices import Placement
from ..errors import RequestError
from ..models.audio_vae.audio_decoder import AudioDecoder
from ..models.dit import DualStreamDiT, fuse_projections
from ..models.text_encoder.umt5 import TextEncoder
from ..models.video_vae.decoder import WanVideoDecoder
from ..models.video_vae.taehv import TAEHV
from ..models.video_vae.tuning import tune
from ..sampling.split import SplitTransformer

DECODERS = ("wan", "taehv")
"""Video decoders by name: the published VAE first, then the fast and light one."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Networks on their devices."""

    transformer: DualStreamDiT | SplitTransformer
    video_decoder: WanVideoDecoder | TAEHV
    audio_decoder: AudioDecoder
    text_encoder: TextEncoder


def load_parts(
    models: Path,
    *,
    placement: Placement,
    decoder: str,
    ema: bool,
    loras: LoraFiles,
    profile: Profile,
) -> Parts:
    """Load every part from a folder; see `HalloLive.load`."""
    if decoder not in DECODERS:
        raise RequestError("Unknown video decoder", found=decoder, fix=" or ".join(DECODERS))
    video_file = catalog.VIDEO_VAE if decoder == DECODERS[0] else catalog.TAEHV
    wanted = (
        catalog.TRANSFORMER,
        video_file,
        catalog.AUDIO_VAE,
        catalog.VOCODER,
        catalog.TEXT_ENCODER,
        catalog.TOKENIZER,
    )
    files = catalog.locate(models, wanted)
    load_video = load_video_decoder if decoder == DECODERS[0] else load_taehv
    video_decoder = load_video(
        files[video_file.key], dtype=placement.decoder_dtype, device=placement.decoder
    )
    tune(video_decoder, placement.decoder)
    load = load_transformer_in_8_bits if profile.fp8_weights else load_transformer
    transformer = fuse_projections(
        load(
            files[catalog.TRANSFORMER.key],
            dtype=placement.dtype,
            device=placement.transformer,
            ema=ema,
            loras=loras,
        )
    )
    ranks = (placement.transformer, *placement.sharers)
    return Parts(
        transformer=SplitTransformer(transformer, ranks) if placement.sharers else transformer,
        video_decoder=video_decoder,
        audio_decoder=load_audio_decoder(
            files[catalog.AUDIO_VAE.key], files[catalog.VOCODER.key], device=placement.decoder
        ),
        text_encoder=load_text_encoder(
            files[catalog.TEXT_ENCODER.key],
            files[catalog.TOKENIZER.key],
            dtype=placement.dtype,
            device=placement.text_encoder,
        ),
    )
