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
    video_encoder_from_state_dict,
)
from .checkpoints.config_json import config_from_metadata
from .checkpoints.files import read_file
from .checkpoints.lora import LowRank, check_lora, load_lora
from .checkpoints.quantise import is_quantised
from .clock import MediaClock
from .config import (
    KNOWN_SIZES,
    SIZE_STEP,
    TEXT_LENGTH,
    Acceleration,
    BlockSizes,
    StreamSettings,
)
from .devices import Placement
from .engine import HalloLive, decoding_thread, load_first_frame
from .engine.memory import MemoryBudget
from .errors import (
    Cancelled,
    CheckpointError,
    HalloLiveError,
    MediaError,
    PositionError,
    PromptError,
    RequestError,
    ShapeError,
    gigabytes,
)
from .functional.first_frame import CROP_RULE, check_first_frame
from .functional.request import MAX_SECONDS as LONGEST_STREAM
from .functional.request import check_request, plan_request
from .functional.script import NextSaid, Script, ScriptLine, script_of_text
from .judging.first_block import first_block_faults
from .judging.panel import JUDGES, load_judges, score_clip
from .judging.pictures import thumbnail
from .judging.ranking import Take, rank_takes
from .judging.tables import score_table, take_table
from .live.broadcast import Reader, TooManyReadersError
from .live.delivery import Delivery, SessionSink
from .live.lines import Lines
from .live.sessions import LiveSession, LiveStatus, Sessions, TooManySessionsError
from .media.clip_reader import MAX_SECONDS, read_clip
from .media.mp4 import Mp4Writer
from .media.picture import read_picture
from .models.dit.compilation import compile_blocks
from .models.dit.fused import fuse_projections
from .models.dit.weights import rows_of, split_fused
from .models.text_encoder.cleaning import clean_text
from .models.text_encoder.weights import BUNDLED_TOKENIZER
from .models.text_encoder.weights import (
    config_from_state_dict as text_encoder_config_from_state_dict,
)
from .models.text_encoder.weights import to_module as text_encoder_weights
from .models.video_vae.latents import SPATIAL_COMPRESSION
from .models.video_vae.tuning import tune as tune_video_decoder
from .prompts import check_prompt, compose_prompt, speech_overrun
from .rewards.base import Clip, JudgeProgress, Reward, Score
from .rewards.clip import frames_from_images
from .rewards.sync.judge import SyncDetails
from .sampling.first_frame import first_frame_latent
from .serving.live_routes import live_routes
from .threads import StandingThread
from .types import LatentBlock, MediaChunk, Progress, Request, TextContext

__all__ = [
    "BUNDLED_TOKENIZER",
    "CROP_RULE",
    "JUDGES",
    "KNOWN_SIZES",
    "LONGEST_STREAM",
    "MAX_SECONDS",
    "SIZE_STEP",
    "SPATIAL_COMPRESSION",
    "TEXT_LENGTH",
    "Acceleration",
    "BlockSizes",
    "Cancelled",
    "CheckpointError",
    "Clip",
    "Delivery",
    "HalloLive",
    "HalloLiveError",
    "JudgeProgress",
    "LatentBlock",
    "Lines",
    "LiveSession",
    "LiveStatus",
    "LowRank",
    "MediaChunk",
    "MediaClock",
    "MediaError",
    "MemoryBudget",
    "Mp4Writer",
    "NextSaid",
    "Placement",
    "PositionError",
    "Progress",
    "PromptError",
    "Reader",
    "Request",
    "RequestError",
    "Reward",
    "Score",
    "Script",
    "ScriptLine",
    "SessionSink",
    "Sessions",
    "ShapeError",
    "StandingThread",
    "StreamSettings",
    "SyncDetails",
    "Take",
    "TextContext",
    "TooManyReadersError",
    "TooManySessionsError",
    "audio_decoder_from_state_dicts",
    "check_first_frame",
    "check_lora",
    "check_prompt",
    "check_request",
    "clean_text",
    "compile_blocks",
    "compose_prompt",
    "config_from_metadata",
    "decoding_thread",
    "first_block_faults",
    "first_frame_latent",
    "frames_from_images",
    "fuse_projections",
    "gigabytes",
    "is_quantised",
    "live_routes",
    "load_first_frame",
    "load_judges",
    "load_lora",
    "plan_request",
    "rank_takes",
    "read_clip",
    "read_file",
    "read_picture",
    "rows_of",
    "score_clip",
    "score_table",
    "script_of_text",
    "speech_overrun",
    "split_fused",
    "take_table",
    "text_encoder_config_from_state_dict",
    "text_encoder_weights",
    "thumbnail",
    "transformer_from_state_dict",
    "tune_video_decoder",
    "video_decoder_from_state_dict",
    "video_encoder_from_state_dict",
]
