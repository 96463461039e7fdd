"""Weight files become models in the host's memory manager."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..hallo_live_core import (
    BUNDLED_TOKENIZER,
    CheckpointError,
    audio_decoder_from_state_dicts,
    compile_blocks,
    config_from_metadata,
    fuse_projections,
    is_quantised,
    read_file,
    text_encoder_config_from_state_dict,
    text_encoder_weights,
    transformer_from_state_dict,
    tune_video_decoder,
    video_decoder_from_state_dict,
    video_encoder_from_state_dict,
)
from . import host
from .host_devices import (
    DEFAULT,
    check_device,
    compute_device,
    decoder_device,
    device_input,
)
from .host_weights import quantised_numbers
from .sockets import ADVANCED, CATEGORY, LoadedModel, LoadedVae, Model, Vae

TRANSFORMERS = ("diffusion_models",)
DECODERS = ("vae", "vae_approx")
TEXT_ENCODERS = ("text_encoders",)

WANTED_TRANSFORMER = "hallolive_dit.pt"
WANTED_VIDEO = "Wan2.2_VAE.pth"
WANTED_AUDIO = "v1-16.pth"
WANTED_VOCODER = "best_netG.pt"
WANTED_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"

MERGED = "(inside the audio VAE file)"
"""Vocoder entry for ComfyUI's merged MMAudio file."""

FULL_WIDTH = "bf16"
"""The choice that widens files of 8-bit weights."""

COMPILES = ("off", "blocks")

KV_CACHES = (DEFAULT, "fp8")

MATRIX_AXES = 2

TOKENIZER_NAMES = ("spiece.model", "google/umt5-xxl/spiece.model")
"""Where the tokenizer may lie, seen from the folder of the text encoder."""


class HalloLiveModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveModelLoader",
            display_name="Hallo-Live Model Loader",
            category=CATEGORY,
            description="Loads the transformer that makes picture and sound together.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=host.list_files(TRANSFORMERS, wanted=WANTED_TRANSFORMER, usual="hallo"),
                    tooltip="A Hallo-Live file in models/diffusion_models (23 GB in bf16).",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(host.WEIGHT_DTYPES),
                    default=DEFAULT,
                    tooltip=(
                        "How weights are kept in memory. default: as ComfyUI thinks best; "
                        "fp8_e4m3fn: half of the memory, slightly different pictures. Files in "
                        "scaled fp8 stay as they are, unless you choose bf16."
                    ),
                ),
                io.Combo.Input(
                    "attention",
                    options=list(host.ATTENTIONS),
                    default=DEFAULT,
                    tooltip=(
                        "Attention kernel. default: what ComfyUI was started with; "
                        "sage and flash need their packages, else the default is used."
                    ),
                    extra_dict=ADVANCED,
                ),
                io.Combo.Input(
                    "compile",
                    options=list(COMPILES),
                    default=COMPILES[0],
                    optional=True,
                    tooltip=(
                        "blocks: torch.compile for each layer. Runs get faster once the first "
                        "clip of a size has been made, which takes minutes longer. Needs a "
                        "compiler (Triton), and memory for the whole model."
                    ),
                    extra_dict=ADVANCED,
                ),
                io.Combo.Input(
                    "kv_cache",
                    options=list(KV_CACHES),
                    default=KV_CACHES[0],
                    optional=True,
                    tooltip=(
                        "What runs remember of their past. default: in the width they compute in "
                        "(11 GB for 5 s of 992 x 512); fp8: in 8 bits (6 GB), slightly different "
                        "pictures."
                    ),
                    extra_dict=ADVANCED,
                ),
                device_input("Where the transformer runs. default: ComfyUI's main device."),
            ],
            outputs=[Model.Output(display_name="model", tooltip="For a Hallo-Live sampler.")],
            **host.known(io.Schema, search_aliases=["talking avatar", "hallo", "ovi"]),
        )

    @classmethod
    def validate_inputs(cls, device: str | None = None) -> bool | str:
        return check_device(device)

    @classmethod
    def execute(
        cls,
        model_name: str,
        weight_dtype: str,
        attention: str,
        compile: str = COMPILES[0],  # noqa: A002 - what users read
        kv_cache: str = KV_CACHES[0],
        device: str = DEFAULT,
    ) -> io.NodeOutput:
        place = compute_device(device)
        weights = read_file(host.find_file(TRANSFORMERS, model_name, wanted=WANTED_TRANSFORMER))
        keep = is_quantised(weights.tensors) and weight_dtype != FULL_WIDTH
        numbers = (
            quantised_numbers(weights.tensors, place)
            if keep
            else host.transformer_numbers(weights.tensors, weight_dtype, place)
        )
        if numbers.storage.itemsize == 1:
            _shrink(weights.tensors, numbers.storage)
        module = transformer_from_state_dict(
            weights.tensors,
            weights.name,
            dtype=None if numbers.storage.itemsize == 1 else numbers.storage,
            ops=numbers.ops,
            attention=host.attention(attention),
            config=config_from_metadata(weights.metadata, weights.name),
            keep_quantised=keep,
        )
        if not keep:  # scaled 8-bit layers have a scale each
            fuse_projections(module)
        if compile != COMPILES[0]:
            compile_blocks(module, whole=False)  # the host's layers may do what breaks a graph
        patcher = host.transformer_patcher(module, place)
        fp8_cache = kv_cache != KV_CACHES[0]
        return io.NodeOutput(LoadedModel(patcher, numbers.compute, fp8_cache=fp8_cache))


class HalloLiveVAELoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveVAELoader",
            display_name="Hallo-Live VAE Loader",
            category=CATEGORY,
            description="Loads the decoders that turn latents into frames and sound.",
            inputs=[
                io.Combo.Input(
                    "video_vae",
                    options=host.list_files(DECODERS, wanted=WANTED_VIDEO, usual="wan2.2"),
                    tooltip=(
                        "Wan2.2 VAE (models/vae) for full quality, or taew2_2 (models/vae_approx): "
                        "200 times less work, softer picture."
                    ),
                ),
                io.Combo.Input(
                    "audio_vae",
                    options=host.list_files(DECODERS[:1], wanted=WANTED_AUDIO, usual="v1-16"),
                    tooltip="MMAudio 16 kHz VAE: v1-16, or ComfyUI's merged MMAudio file.",
                ),
                io.Combo.Input(
                    "vocoder",
                    options=host.list_files(
                        DECODERS[:1], wanted=WANTED_VOCODER, usual="netg", none=MERGED
                    ),
                    tooltip="BigVGAN 16 kHz: best_netG. Not needed with a merged MMAudio file.",
                ),
                device_input(
                    "Where the decoders run. default: ComfyUI's VAE device; another GPU than the "
                    "model's decodes each block while the next one is being made.",
                    optional=False,
                ),
            ],
            outputs=[
                Vae.Output(display_name="vae", tooltip="For the stream sampler and for decoding.")
            ],
        )

    @classmethod
    def validate_inputs(cls, device: str | None = None) -> bool | str:
        return check_device(device)

    @classmethod
    def execute(cls, video_vae: str, audio_vae: str, vocoder: str, device: str) -> io.NodeOutput:
        place = decoder_device(device)
        video, dtype = _video_decoder(video_vae, place)
        audio = _audio_decoder(audio_vae, vocoder)
        return io.NodeOutput(
            LoadedVae(
                video=host.decoder_patcher(video, place),
                audio=host.decoder_patcher(audio, place),
                dtype=dtype,
                open_encoder=partial(_video_encoder, video_vae, place),
            )
        )


class HalloLiveTextEncoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HalloLiveTextEncoderLoader",
            display_name="Hallo-Live Text Encoder Loader",
            category=CATEGORY,
            description=(
                "Loads umT5 from the file that Wan and Ovi publish, with spiece.model beside it. "
                "For ComfyUI's own umT5 files use CLIPLoader with type wan."
            ),
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=host.list_files(TEXT_ENCODERS, wanted=WANTED_TEXT, usual="umt5"),
                    tooltip=(
                        "models_t5_umt5-xxl-enc-bf16 in models/text_encoders, and spiece.model "
                        "in the same folder (or in google/umt5-xxl inside it)."
                    ),
                ),
                device_input("Where prompts are encoded. default: ComfyUI's choice."),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="For Hallo-Live Text Encode.")],
        )

    @classmethod
    def validate_inputs(cls, device: str | None = None) -> bool | str:
        return check_device(device)

    @classmethod
    def execute(cls, text_encoder: str, device: str = DEFAULT) -> io.NodeOutput:
        clip = _text_encoder(text_encoder, device)
        host.can_be_rebuilt(clip.patcher, _text_patcher, text_encoder, device)
        return io.NodeOutput(clip)


def _shrink(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Keep the matrices of the layers in an 8-bit format, in place; all else needs bf16."""
    for name, tensor in tensors.items():
        is_matrix = ".blocks." in name and name.endswith(".weight") and tensor.ndim == MATRIX_AXES
        tensors[name] = tensor.to(dtype if is_matrix else torch.bfloat16)


def _video_decoder(name: str, device: torch.device) -> tuple[Any, torch.dtype]:
    module, numbers = _video_half(name, device, video_decoder_from_state_dict)
    tune_video_decoder(module, device)
    return module, numbers.compute


def _video_encoder(name: str, device: torch.device) -> Any:
    module, _ = _video_half(name, device, video_encoder_from_state_dict)
    return host.decoder_patcher(module, device)


def _video_half(
    name: str, device: torch.device, build: Callable[..., torch.nn.Module]
) -> tuple[torch.nn.Module, host.Numbers]:
    """What `build` makes of a video VAE's file, in the numbers that the host likes best."""
    weights = read_file(host.find_file(DECODERS, name, wanted=WANTED_VIDEO))
    numbers = host.decoder_numbers(device)
    module = build(weights.tensors, weights.name, dtype=numbers.storage, ops=numbers.ops)
    return module, numbers


def _audio_decoder(vae: str, vocoder: str) -> Any:
    weights = read_file(host.find_file(DECODERS, vae, wanted=WANTED_AUDIO))
    if vocoder == MERGED:
        return audio_decoder_from_state_dicts(weights.tensors, None, weights.name)
    voice = read_file(host.find_file(DECODERS, vocoder, wanted=WANTED_VOCODER))
    return audio_decoder_from_state_dicts(
        weights.tensors, voice.tensors, f"{weights.name} with {voice.name}"
    )


def _tokenizer(stored: dict[str, torch.Tensor], weights: Path) -> bytes:
    if BUNDLED_TOKENIZER in stored:
        return stored[BUNDLED_TOKENIZER].numpy().tobytes()
    for name in TOKENIZER_NAMES:
        if (file := weights.parent / name).is_file():
            return file.read_bytes()
    raise CheckpointError(
        f"The tokenizer of {weights.name} is missing",
        fix=f"put spiece.model (4.5 MB, google/umt5-xxl of Wan-AI/Wan2.2-TI2V-5B) into "
        f"{weights.parent.name}/ beside it",
    )


def _text_encoder(name: str, device: str, *, classic: bool = False) -> Any:
    path = host.find_file(TEXT_ENCODERS, name, wanted=WANTED_TEXT)
    stored = read_file(path).tensors
    config = text_encoder_config_from_state_dict(stored)
    sizes = {
        "vocab_size": config.vocab_size,
        "d_model": config.dim,
        "d_kv": config.attention_dim // config.num_heads,
        "d_ff": config.ffn_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
    }
    tokenizer = _tokenizer(stored, path)
    return host.wan_clip(text_encoder_weights(stored), sizes, tokenizer, device, classic=classic)


def _text_patcher(name: str, device: str, *, disable_dynamic: bool = False) -> Any:
    return _text_encoder(name, device, classic=disable_dynamic).patcher
