"""Random weights for tiny networks, scaled so that what comes out is alive.

Untrained networks easily give flat grey or noise at the limits. Here every layer keeps the size of
its input, spatial kernels blur (so that pictures have shapes), and the last layers aim at
mid-range colours and an audible, unclipped sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..config import (
    AudioVAEConfig,
    StreamConfig,
    TextEncoderConfig,
    TransformerConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from ..models.audio_vae import vocoder_weights
from ..models.audio_vae.autoencoder import MMAudioVAE
from ..models.audio_vae.vocoder import BigVGAN
from ..models.dit import weights as transformer_weights
from ..models.dit.fusion import DualStreamDiT
from ..models.text_encoder import weights as text_weights
from ..models.text_encoder.umt5 import build_network
from ..models.video_vae.decoder import WanVideoDecoder
from ..models.video_vae.encoder import WanVideoEncoder
from ..models.video_vae.taehv import TAEHV, TAEHVConfig
from .build import META

TEXT_DIM = 64

TRANSFORMER = TransformerConfig(
    video=StreamConfig(
        in_channels=48,
        dim=256,
        ffn_dim=128,
        num_heads=2,
        patch=(1, 2, 2),
        freq_dim=64,
        text_dim=TEXT_DIM,
    ),
    audio=StreamConfig(
        in_channels=20,
        dim=128,
        ffn_dim=128,
        num_heads=1,
        patch=(1,),
        freq_dim=64,
        text_dim=TEXT_DIM,
    ),
    num_layers=2,
)
VIDEO_VAE = VideoVAEConfig(encoder_dim=4, decoder_dim=8, multipliers=(1, 2, 2, 2))
LIGHT_DECODER = TAEHVConfig(widths=(32, 16, 8, 8))
AUDIO_VAE = AudioVAEConfig(hidden_dim=8)
VOCODER = VocoderConfig(channels=64, resblock_kernels=(3,))
TEXT_ENCODER = TextEncoderConfig(
    vocab_size=512, dim=TEXT_DIM, attention_dim=64, ffn_dim=128, num_layers=2, num_heads=2
)

BIAS = 0.05
"""Size of the biases of unit-sized layers."""

GATE = 0.3
"""Size of shifts, scales and gates: branches whisper, so that no stream grows without bound."""

BRANCH = 0.3
"""Size of the residual branches of the light decoder, which has no norms."""

COLOUR = 0.4
"""Spread of the colours around middle grey, of 1."""

LOUDNESS = 0.15
"""Root mean square of the sound, of 1."""

LOG_MEL_MEAN, LOG_MEL_SPREAD = -1.5, 0.7
"""What log10 mel values of speech are like (spec 04 §4)."""

SOFT = torch.tensor([0.5, 1.0, 0.5]) * 1.5**0.5
"""Profile of a brush."""

COARSE = (
    *("decoder.conv1.", "decoder.middle.", "decoder.upsamples.0.", "decoder.upsamples.1."),
    *(f"decoder.{number}." for number in (1, 3, 4, 5, 8, 9, 10, 11)),
)
"""Layers of both video decoders that see so few pixels that blurring would leave one colour."""

SMALL = 0.001
"""Factor under which an output cannot clip, for measuring it."""

DIGITS = 3
"""Measured factors are rounded to this, so that every machine gets the same files."""

Tensors = dict[str, Tensor]


def transformer(generator: torch.Generator) -> Tensors:
    """Published names and weights of the dual-stream transformer."""
    module = DualStreamDiT(TRANSFORMER, device=META)
    return transformer_weights.to_published(_fill(module.state_dict(), generator))


def text_encoder(generator: torch.Generator) -> Tensors:
    """Published names and weights of the text encoder."""
    module = build_network(TEXT_ENCODER, device=META)
    return _fill(text_weights.to_published(module.state_dict()), generator)


def video_vae(generator: torch.Generator) -> Tensors:
    """Published names and weights of the video VAE, both halves."""
    decoder = WanVideoDecoder(VIDEO_VAE, device=META)
    tensors = _fill(decoder.state_dict(), generator)
    _alike_within_pixels(tensors["decoder.head.2.weight"])
    latents = torch.randn(1, 3, VIDEO_VAE.z_dim, 4, 4, generator=generator)

    def picture() -> Tensor:
        decoder.load_state_dict(tensors, assign=True)
        return decoder.decode(latents, decoder.initial_state(1, 4, 4))[0]

    _calibrate(tensors, "decoder.head.2", picture, spread=COLOUR)
    return tensors | _fill(WanVideoEncoder(VIDEO_VAE, device=META).state_dict(), generator)


def light_decoder(generator: torch.Generator) -> Tensors:
    """Published names and weights of the light decoder."""
    decoder = TAEHV(LIGHT_DECODER, device=META)
    tensors = _fill(decoder.state_dict(), generator)
    for name in tensors:
        if name.endswith(".conv.4.weight"):
            tensors[name] *= BRANCH
    _alike_within_pixels(tensors["decoder.22.weight"])
    latents = torch.randn(1, 4, VIDEO_VAE.z_dim, 4, 4, generator=generator)

    def picture() -> Tensor:
        decoder.load_state_dict(tensors, assign=True)
        return decoder.decode(latents, decoder.initial_state(1, 4, 4))[0]

    _calibrate(tensors, "decoder.22", picture, spread=COLOUR, grey=0.5, slope=2)
    return tensors


def audio_vae(generator: torch.Generator) -> Tensors:
    """Published names and raw weights of the audio VAE, both halves."""
    module = MMAudioVAE(AUDIO_VAE, encoder=True, device=META)
    tensors = _fill(module.state_dict(), generator)
    statistics = torch.ones(1, AUDIO_VAE.mel_bins, 1)
    tensors |= {"data_mean": LOG_MEL_MEAN * statistics, "data_std": LOG_MEL_SPREAD * statistics}
    return tensors | {f"{half}.learnable_gain": torch.zeros(()) for half in ("encoder", "decoder")}


def vocoder(generator: torch.Generator) -> Tensors:
    """Published names and weights of the vocoder, weight norm in the old style."""
    module = BigVGAN(VOCODER)
    tensors = module.state_dict() | _fill(
        {k: v for k, v in module.state_dict().items() if not k.startswith("anti_alias.")}, generator
    )
    mel = LOG_MEL_MEAN + LOG_MEL_SPREAD * torch.randn(1, VOCODER.mel_bins, 16, generator=generator)

    def sound() -> Tensor:
        module.load_state_dict(tensors, assign=True)
        return module(mel)[:, None]

    post = tensors["conv_post.weight"]
    tensors["conv_post.weight"] = post - post.mean()  # no constant pressure
    _calibrate(tensors, "conv_post", sound, spread=LOUDNESS)
    return vocoder_weights.to_published(tensors, style="old")


def _fill(shapes: Mapping[str, Tensor], generator: torch.Generator) -> Tensors:
    """A weight for every name."""
    return {name: _weight(name, like.shape, generator) for name, like in shapes.items()}


def _weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return BIAS * noise
    if "act." in name:  # frequencies and gains of the vocoder's activations: positive, near 1
        return (GATE * noise).exp()
    if name.endswith("gamma") or (noise.ndim == 1 and name.endswith("weight")):
        return torch.ones(shape)
    if "modulation" in name:
        return GATE * noise
    if "embedding" in name and noise.ndim == 2 and "token" in name:
        return noise
    scale = GATE if "time_projection" in name else 1.0
    _hold_still(name, noise)
    return scale * _brush(name, noise) / math.sqrt(noise[0].numel())


def _hold_still(name: str, noise: Tensor) -> None:
    """Make frames resemble their neighbours, in place."""
    if noise.ndim < 4:
        return
    out_dim, in_dim = noise.shape[:2]
    if out_dim == 2 * in_dim and name.endswith((".time_conv.weight", ".conv.weight")):
        noise[in_dim:] = noise[:in_dim] + GATE * noise[in_dim:]  # two frames made from one
    if in_dim == 2 * out_dim and name.endswith(".conv.0.weight"):
        noise[:, out_dim:] = noise[:, :out_dim]  # a frame and the one before it


def _brush(name: str, noise: Tensor) -> Tensor:
    """Make convolutions blur: those of pictures in time, and behind the coarse levels in space."""
    if noise.ndim == 5 and noise.shape[2] == SOFT.numel():
        noise = noise[:, :, :1] * SOFT.view(-1, 1, 1)
    if noise.ndim >= 4 and noise.shape[-1] == SOFT.numel() and not name.startswith(COARSE):
        noise = noise[..., :1, :1] * SOFT[:, None] * SOFT
    return noise


def _alike_within_pixels(weight: Tensor) -> None:
    """Let the four pixels that one output position makes share their colour, in place."""
    rows = weight.view(3, 4, -1)
    rows.copy_(rows[:, :1].expand_as(rows))


@torch.no_grad()
def _calibrate(
    tensors: Tensors,
    layer: str,
    run: Callable[[], Tensor],
    *,
    spread: float,
    grey: float = 0.0,
    slope: float = 1.0,
) -> None:
    """Scale the last layer so that what `run` makes has mean 0 and this spread, in place.

    `run` returns [b, t, channels, ...] and makes 0 when the layer's output is `grey`, from where
    it grows by `slope`.
    """
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    tensors[weight] *= SMALL
    tensors[bias].fill_(grey)
    out = run().movedim(2, 0).flatten(1)
    factor = _rounded(spread / float(out.std()))
    shift = [_rounded(grey - factor * float(mean) / slope) for mean in out.mean(1)]
    tensors[weight] *= factor
    tensors[bias] = torch.tensor(shift).repeat_interleave(len(tensors[bias]) // len(shift))


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
