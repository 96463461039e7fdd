"""Hallo-Live: a prompt becomes a talking avatar whose picture and sound stream block by block.

    engine = HalloLive.load(Path("models"), placement=Placement.on("cuda:0"))
    for chunk in engine.stream(Request(prompt="A woman says, <S>Hello.<E>")):
        ...  # chunk.frames, chunk.samples

This is the public face; all of it can be imported without a GPU, a network or ComfyUI.
"""

from .checkpoints.build import (
    audio_decoder_from_state_dicts,
    transformer_from_state_dict,
    video_decoder_from_state_dict,
)
from .checkpoints.files import read_file
from .clock import MediaClock
from .config import TEXT_LENGTH, BlockSizes
from .devices import Placement
from .engine import HalloLive
from .errors import (
    Cancelled,
    CheckpointError,
    HalloLiveError,
    MediaError,
    PositionError,
    PromptError,
    RequestError,
    ShapeError,
)
from .functional.request import check_request, plan_request
from .live.broadcast import Reader, TooManyReadersError
from .live.delivery import Delivery, SessionSink
from .live.sessions import LiveSession, LiveStatus, Sessions, TooManySessionsError
from .media.mp4 import Mp4Writer
from .models.text_encoder.cleaning import clean_text
from .models.text_encoder.weights import (
    config_from_state_dict as text_encoder_config_from_state_dict,
)
from .models.text_encoder.weights import to_module as text_encoder_weights
from .prompts import check_prompt, compose_prompt, speech_overrun
from .types import LatentBlock, MediaChunk, Progress, Request, TextContext

__all__ = [
    "TEXT_LENGTH",
    "BlockSizes",
    "Cancelled",
    "CheckpointError",
    "Delivery",
    "HalloLive",
    "HalloLiveError",
    "LatentBlock",
    "LiveSession",
    "LiveStatus",
    "MediaChunk",
    "MediaClock",
    "MediaError",
    "Mp4Writer",
    "Placement",
    "PositionError",
    "Progress",
    "PromptError",
    "Reader",
    "Request",
    "RequestError",
    "SessionSink",
    "Sessions",
    "ShapeError",
    "TextContext",
    "TooManyReadersError",
    "TooManySessionsError",
    "audio_decoder_from_state_dicts",
    "check_prompt",
    "check_request",
    "clean_text",
    "compose_prompt",
    "plan_request",
    "read_file",
    "speech_overrun",
    "text_encoder_config_from_state_dict",
    "text_encoder_weights",
    "transformer_from_state_dict",
    "video_decoder_from_state_dict",
]
