"""Audio latents -> waveform: the VAE decoder and the vocoder as one network (spec 04 §2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, ShapeError
from .autoencoder import FRAMES_PER_LATENT, MMAudioVAE
from .vocoder import BigVGAN


class AudioDecoder(nn.Module):
    """Latents [b, a, latent_dim] -> waveform [b, a * samples_per_latent] at 16 kHz.

    Computes in the precision of its weights, which loaders keep at float32, whatever autocast
    says: bf16 leaves 34 dB of signal-to-noise (spec 04 §8). Whether convolutions may use TF32 is
    the host's setting; emulated at published size it leaves 60 dB. Latents must lie on the device
    where the weights are used; their dtype does not matter.
    """

    def __init__(self, vae: MMAudioVAE, vocoder: BigVGAN) -> None:
        super().__init__()
        if vae.config.mel_bins != vocoder.config.mel_bins:
            raise CheckpointError(
                "The audio VAE and the vocoder do not belong together",
                found=f"{vae.config.mel_bins} and {vocoder.config.mel_bins} mel bins",
                fix="use v1-16.pth with best_netG.pt, both of MMAudio at 16 kHz",
            )
        self.vae = vae
        self.vocoder = vocoder

    @property
    def latent_dim(self) -> int:
        """Width of one latent."""
        return self.vae.config.latent_dim

    @property
    def samples_per_latent(self) -> int:
        """512 in the published models."""
        return FRAMES_PER_LATENT * self.vocoder.hop

    def forward(self, latents: Tensor) -> Tensor:
        """The waveform of a whole clip in (-1, 1): [b, a, latent_dim] -> [b, samples]."""
        return self.render(self.middle(latents))

    def middle(self, latents: Tensor) -> Tensor:
        """The part that attends to the whole clip: [b, a, latent_dim] -> features [b, c, a].

        Raises:
            ShapeError: the latents have another width.
        """
        if latents.dim() != 3 or latents.shape[2] != self.latent_dim:
            raise ShapeError(
                f"Audio latents are [batch, latents, {self.latent_dim}]",
                found=tuple(latents.shape),
            )
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.to(self.vae.data_mean.dtype).transpose(1, 2)
            return self.vae.decode_middle(latents)

    def render(self, features: Tensor) -> Tensor:
        """The convolutional rest: features [b, c, a] -> waveform [b, samples]."""
        with torch.autocast(features.device.type, enabled=False):
            return self.vocoder(self.vae.decode_rest(features)).squeeze(1)
