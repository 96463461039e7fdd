"""Tiny audio networks with random weights, for the tests of sound."""

from __future__ import annotations

import torch
from torch import Tensor

from hallo_live_core.config import AudioVAEConfig, VocoderConfig
from hallo_live_core.models.audio_vae import vae_weights, vocoder_weights
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.vocoder import BigVGAN

VAE = AudioVAEConfig(latent_dim=4, mel_bins=6, hidden_dim=4, num_res_blocks=1)
VOCODER = VocoderConfig(mel_bins=6, channels=16, upsample_kernels=(8, 4), resblock_kernels=(3, 5))
"""Hop 8: one latent is 16 samples."""


def raw_vae_weights(seed: int = 0) -> dict[str, Tensor]:
    """What a published file of these sizes would hold: both halves, raw, with their gains."""
    torch.manual_seed(seed)
    module = MMAudioVAE(VAE, encoder=True, dtype=torch.float64)
    raw = {k: torch.randn_like(v) for k, v in module.state_dict().items()}
    raw["data_std"] = raw["data_std"].abs() + 0.5
    return raw | {f"{h}.learnable_gain": torch.tensor(0.3).double() for h in ("encoder", "decoder")}


def published_vocoder_weights(style="old", seed: int = 0) -> dict[str, Tensor]:
    """What a published generator of these sizes would hold, weight-normed."""
    torch.manual_seed(seed)
    module = BigVGAN(VOCODER, dtype=torch.float64)
    ready = {
        # Small enough that tanh does not saturate: else all waveforms would look alike.
        k: v if k.startswith("anti_alias") else torch.randn_like(v) * 0.6 * _fan_in(v) ** -0.5
        for k, v in module.state_dict().items()
    }
    ready |= {k: v.abs() + 0.5 for k, v in ready.items() if ".act." in k}
    published = vocoder_weights.to_published(ready, style)
    # Directions of any length: only their ratio to the magnitude may matter.
    return {k: 3 * v if k.endswith(("_v", "original1")) else v for k, v in published.items()}


def tiny_vae(raw: dict[str, Tensor] | None = None, **halves: bool) -> MMAudioVAE:
    vae = MMAudioVAE(VAE, device="meta", **halves)
    ready = vae_weights.to_module(raw or raw_vae_weights(), **halves)
    vae.load_state_dict(ready, strict=True, assign=True)
    return vae


def tiny_vocoder(published: dict[str, Tensor] | None = None) -> BigVGAN:
    vocoder = BigVGAN(VOCODER, device="meta")
    ready = vocoder_weights.to_module(published or published_vocoder_weights())
    vocoder.load_state_dict(ready, strict=True, assign=True)
    return vocoder


def tiny_audio_decoder(**changes: Tensor) -> AudioDecoder:
    """float64; `changes` replace raw weights of the VAE (dots in names as double underscores)."""
    raw = raw_vae_weights() | {k.replace("__", "."): v for k, v in changes.items()}
    return AudioDecoder(tiny_vae(raw), tiny_vocoder())


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()
