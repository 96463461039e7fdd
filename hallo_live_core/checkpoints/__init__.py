"""Files on one side, modules on the other."""

from .build import (
    audio_decoder_from_state_dicts,
    taehv_from_state_dict,
    text_encoder_from_state_dict,
    transformer_from_state_dict,
    video_decoder_from_state_dict,
    video_encoder_from_state_dict,
)
from .catalog import CATALOG, ModelFile, locate
from .convert import convert
from .load import (
    load_audio_decoder,
    load_taehv,
    load_text_encoder,
    load_tokenizer,
    load_transformer,
    load_video_decoder,
    load_video_encoder,
)
from .tiny import write_tiny_models

__all__ = [
    "CATALOG",
    "ModelFile",
    "audio_decoder_from_state_dicts",
    "convert",
    "load_audio_decoder",
    "load_taehv",
    "load_text_encoder",
    "load_tokenizer",
    "load_transformer",
    "load_video_decoder",
    "load_video_encoder",
    "locate",
    "taehv_from_state_dict",
    "text_encoder_from_state_dict",
    "transformer_from_state_dict",
    "video_decoder_from_state_dict",
    "video_encoder_from_state_dict",
    "write_tiny_models",
]
