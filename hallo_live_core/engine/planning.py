"""How much memory a choice of parts would take, before a weight is read."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.build import META
from ..checkpoints.eight_bit import transformer_nbytes
from ..config import (
    FULL,
    HALLO_5B,
    AudioVAEConfig,
    Profile,
    StreamSettings,
    TextEncoderConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from ..devices import Placement
from ..models.audio_vae.audio_decoder import AudioDecoder
from ..models.audio_vae.autoencoder import MMAudioVAE
from ..models.audio_vae.vocoder import BigVGAN
from ..models.text_encoder.umt5 import num_parameters
from ..models.video_vae.decoder import WanVideoDecoder
from ..models.video_vae.taehv import TAEHV, TAEW2_2
from ..models.video_vae.tuning import tune
from ..sampling.split import leader
from ..types import Request
from .memory import (
    AUDIO,
    TEXT,
    TRANSFORMER,
    VIDEO,
    MemoryBudget,
    PartSizes,
    memory_budget,
    weight_nbytes,
)
from .parts import DECODERS, load_parts


def planned_memory(
    request: Request,
    placement: Placement,
    *,
    profile: Profile = FULL,
    decoder: str = DECODERS[0],
    models: Path | None = None,
) -> MemoryBudget:
    """The budget of a clip, with the files of a folder or (None) the published sizes.

    Raises:
        RequestError: the request cannot work.
        CheckpointError: a file is missing, damaged or another model.
    """
    if models is None:
        sizes = published_sizes(placement, profile=profile, decoder=decoder)
    else:
        sizes = sizes_of_files(models, placement, profile=profile, decoder=decoder)
    settings = StreamSettings(fp8_cache=profile.fp8_cache)
    return memory_budget(sizes, request, settings, placement)


def published_sizes(placement: Placement, *, profile: Profile, decoder: str) -> PartSizes:
    """Sizes of the published networks; none of them is made."""
    at = {"device": META, "dtype": placement.decoder_dtype}
    video: WanVideoDecoder | TAEHV = (
        WanVideoDecoder(VideoVAEConfig(), **at) if decoder == DECODERS[0] else TAEHV(TAEW2_2, **at)
    )
    tune(video, META)
    audio = AudioDecoder(
        MMAudioVAE(AudioVAEConfig(), device=META), BigVGAN(VocoderConfig(), device=META)
    )
    transformer = transformer_nbytes(HALLO_5B, placement.dtype, in_8_bits=profile.fp8_weights)
    weights = {
        TRANSFORMER: transformer,
        VIDEO: weight_nbytes(video),
        AUDIO: weight_nbytes(audio),
        TEXT: num_parameters(TextEncoderConfig()) * placement.dtype.itemsize,
    }
    return PartSizes(HALLO_5B, video, weights)


def sizes_of_files(
    models: Path, placement: Placement, *, profile: Profile, decoder: str
) -> PartSizes:
    """Sizes of the networks in these files: they are loaded to nowhere.

    Raises:
        CheckpointError: a file is missing, damaged or another model.
    """
    nowhere = Placement(META, META, META, placement.dtype, placement.decoder_dtype)
    parts = load_parts(
        models, placement=nowhere, decoder=decoder, ema=True, loras=(), profile=profile
    )
    weights = {
        TRANSFORMER: weight_nbytes(leader(parts.transformer)),
        VIDEO: weight_nbytes(parts.video_decoder),
        AUDIO: weight_nbytes(parts.audio_decoder),
        TEXT: weight_nbytes(parts.text_encoder),
    }
    return PartSizes(parts.transformer.config, parts.video_decoder, weights)
