"""State dicts -> ready modules, for hosts that read files themselves.

Every function takes the content of a file, nested or flat, and empties it, so that memory holds one
copy of the weights. `source` is the file name for messages; `dtype` None keeps the stored one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..errors import CheckpointError
from ..models.audio_vae import merged, vae_weights, vocoder_weights
from ..models.audio_vae.audio_decoder import AudioDecoder
from ..models.audio_vae.autoencoder import MMAudioVAE
from ..models.audio_vae.vocoder import BigVGAN
from ..models.dit import weights as transformer_weights
from ..models.dit.fusion import DualStreamDiT
from ..models.dit.visibility import Attention, sdpa
from ..models.text_encoder import weights as text_weights
from ..models.text_encoder.tokenizer import Tokenizer
from ..models.text_encoder.umt5 import TextEncoder, build_network
from ..models.video_vae import weights as video_weights
from ..models.video_vae.decoder import WanVideoDecoder
from ..models.video_vae.encoder import WanVideoEncoder
from ..models.video_vae.taehv import TAEHV
from . import identify, quantise
from .assemble import assemble, check_fit, reading
from .files import take

Ops = Any
"""`torch.nn`, or a namespace with the same layers: a module, or one of ComfyUI's classes."""

META = torch.device("meta")

UNSCALED_TAEHV = "lighttae"
"""Light decoders whose file name starts so expect latents before normalisation (spec 03 §11)."""


def transformer_from_state_dict(
    tensors: dict[str, Tensor],
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    ops: Ops = torch.nn,
    attention: Attention | None = None,
    config: TransformerConfig | None = None,
    keep_quantised: bool = False,
) -> DualStreamDiT:
    """The dual-stream transformer made of these tensors; `attention` None is PyTorch's own.

    `config` is read from the shapes if not given; only files of ours carry one. Scaled 8-bit
    weights become `dtype` (None: bf16), unless `ops` are ComfyUI's for mixed precision and
    `keep_quantised` leaves them to those; `dtype` is then that of all other tensors.

    Raises:
        CheckpointError: this is another model, or quantised in a way that is not known.
    """
    tensors = take(tensors, source)
    with reading(source, identify.TRANSFORMER, tensors):
        layers = quantise.unify(tensors, source)
        if not keep_quantised:
            quantise.dequantise(tensors, layers, dtype=dtype or torch.bfloat16, device=device)
        config = config or transformer_weights.config_from_state_dict(
            quantise.without_extras(tensors)
        )
        # Layers that hold quantised weights put them where they were built.
        place = torch.device("cpu") if layers and keep_quantised else META
        module = DualStreamDiT(config, ops=ops, attention=attention or sdpa, device=place)
        ready = transformer_weights.to_module(tensors)
    tensors.clear()
    if layers and keep_quantised:
        return _with_quantised(module, ready, source, dtype)
    return assemble(module, ready, source=source, dtype=dtype, device=device)


def _with_quantised(
    module: DualStreamDiT, tensors: dict[str, Tensor], source: str, dtype: torch.dtype | None
) -> DualStreamDiT:
    """Hand 8-bit weights to layers that know them, and all else as `dtype`."""
    plain = quantise.without_extras(tensors)
    check_fit(DualStreamDiT(module.config, device=META), plain, source)
    narrow = quantise.FORMATS.values()
    for name, tensor in plain.items():
        if dtype is not None and tensor.dtype not in narrow:
            tensors[name] = tensor.to(dtype)
    plain.clear()
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def video_decoder_from_state_dict(
    tensors: dict[str, Tensor],
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    ops: Ops = torch.nn,
) -> WanVideoDecoder | TAEHV:
    """The Wan2.2 or light decoder made of these tensors; encoder tensors are left out.

    Raises:
        CheckpointError: this is another model.
    """
    tensors = take(tensors, source)
    if identify.identify(tensors) == identify.TAEHV:
        return taehv_from_state_dict(tensors, source, dtype=dtype, device=device, ops=ops)
    with reading(source, identify.VIDEO_VAE, tensors):
        module = WanVideoDecoder(
            video_weights.config_from_state_dict(tensors), ops=ops, device=META
        )
        ready = video_weights.to_module(tensors, part="decoder")
    tensors.clear()
    return assemble(module, ready, source=source, dtype=dtype, device=device)


def video_encoder_from_state_dict(
    tensors: dict[str, Tensor],
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    ops: Ops = torch.nn,
) -> WanVideoEncoder:
    """The Wan2.2 encoder made of these tensors; decoder tensors are left out.

    Raises:
        CheckpointError: this is another model.
    """
    tensors = take(tensors, source)
    if identify.identify(tensors) == identify.TAEHV:
        raise CheckpointError(
            f"{source} is not {identify.VIDEO_VAE}, which alone can encode pictures",
            found=f"it seems to be {identify.TAEHV}",
            fix="use Wan2.2_VAE.pth of Wan-AI/Wan2.2-TI2V-5B, or its safetensors form",
        )
    with reading(source, identify.VIDEO_VAE, tensors):
        module = WanVideoEncoder(
            video_weights.config_from_state_dict(tensors), ops=ops, device=META
        )
        ready = video_weights.to_module(tensors, part="encoder")
    tensors.clear()
    return assemble(module, ready, source=source, dtype=dtype, device=device)


def taehv_from_state_dict(
    tensors: dict[str, Tensor],
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    ops: Ops = torch.nn,
) -> TAEHV:
    """The light decoder made of these tensors.

    Raises:
        CheckpointError: this is another model.
    """
    tensors = take(tensors, source)
    with reading(source, identify.TAEHV, tensors):
        config = video_weights.taehv_config_from_state_dict(
            tensors, normalised_latents=not source.startswith(UNSCALED_TAEHV)
        )
        module = TAEHV(config, ops=ops, device=META)
        ready = video_weights.taehv_to_module(tensors)
    tensors.clear()
    return assemble(module, ready, source=source, dtype=dtype, device=device)


def audio_decoder_from_state_dicts(
    vae: dict[str, Tensor],
    vocoder: dict[str, Tensor] | None,
    source: str,
    *,
    device: torch.device | str = "cpu",
    ops: Ops = torch.nn,
) -> AudioDecoder:
    """VAE and vocoder in float32, from one dict each or (`vocoder` None) from the merged one.

    Raises:
        CheckpointError: one of them is another model, or the vocoder is missing.
    """
    vae = take(vae, source)
    vocoder = None if vocoder is None else take(vocoder, source)
    if vocoder is None and not merged.is_merged(vae):
        raise CheckpointError(
            f"{source} is not {identify.AUDIO_MERGED}",
            found=f"it seems to be {identify.describe(vae)}",
            fix="give the VAE (v1-16.pth) and the vocoder (best_netG.pt) together",
        )
    sound = vae if vocoder is None else vocoder
    of_vae, of_sound = identify.AUDIO_VAE, identify.VOCODER
    if vocoder is None:
        of_vae = of_sound = identify.AUDIO_MERGED
    with reading(source, of_vae, vae):
        config = vae_weights.config_from_state_dict(vae)
        autoencoder = MMAudioVAE(config, ops=ops, device=META)
        vae_ready = vae_weights.to_module(vae)
    with reading(source, of_sound, sound):
        generator = BigVGAN(vocoder_weights.config_from_state_dict(sound), ops=ops, device=META)
        sound_ready = vocoder_weights.to_module(sound)
    vae.clear()
    sound.clear()
    onto = {"source": source, "dtype": torch.float32, "device": device}
    return AudioDecoder(
        assemble(autoencoder, vae_ready, **onto), assemble(generator, sound_ready, **onto)
    ).eval()


def text_encoder_from_state_dict(
    tensors: dict[str, Tensor],
    source: str,
    tokenizer: Tokenizer,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> TextEncoder:
    """umT5 made of these tensors, under published or `transformers` names.

    Raises:
        CheckpointError: this is another model.
        HalloLiveError: transformers is not installed.
    """
    tensors = take(tensors, source)
    with reading(source, identify.TEXT_ENCODER, tensors):
        network = build_network(text_weights.config_from_state_dict(tensors), device=META)
        ready = text_weights.to_module(tensors)
    tensors.clear()
    network = assemble(network, ready, source=source, dtype=dtype, device=device)
    return TextEncoder(network, tokenizer).eval()
