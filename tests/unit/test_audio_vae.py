from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hallo_live_core.errors import CheckpointError, ShapeError
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import act, mix, unit
from hallo_live_core.models.audio_vae.vocoder import BigVGAN

from .audio_models import VAE, VOCODER, tiny_audio_decoder, tiny_vae


def test_unit_gives_every_time_step_a_root_mean_square_of_one():
    x = torch.randn(2, 16, 5, dtype=torch.float64) * torch.tensor([1e-1, 1, 10, 100, 1000])
    rms = unit(x).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=2e-3, rtol=0)


def test_unit_keeps_silence_silent():
    assert unit(torch.zeros(1, 4, 3)).abs().max() == 0


def test_activation_and_mixing_keep_the_magnitude_of_noise():
    torch.manual_seed(0)
    a, b = torch.randn(2, 200_000, dtype=torch.float64)
    assert act(a).square().mean().sqrt() == pytest.approx(1, abs=0.01)
    assert mix(a, b).square().mean().sqrt() == pytest.approx(1, abs=0.01)


def test_one_latent_becomes_two_mel_frames():
    vae = tiny_vae()
    for latents in (1, 2, 7):
        mel = vae.decode(torch.randn(3, VAE.latent_dim, latents, dtype=torch.float64))
        assert mel.shape == (3, VAE.mel_bins, 2 * latents)


def test_an_odd_last_mel_frame_is_dropped_by_the_encoder():
    vae = tiny_vae(encoder=True, decoder=False)
    mel = torch.randn(2, VAE.mel_bins, 9, dtype=torch.float64)
    mean, logvar = vae.encode(mel)
    assert mean.shape == logvar.shape == (2, VAE.latent_dim, 4)


def test_the_log_variance_stays_in_its_range():
    vae = tiny_vae(encoder=True, decoder=False)
    with torch.no_grad():
        vae.encoder.conv_out.weight.mul_(1e4)
    _, logvar = vae.encode(torch.randn(1, VAE.mel_bins, 8, dtype=torch.float64))
    assert logvar.max() == 20 and logvar.min() == -30


def test_the_two_parts_of_the_decoder_are_the_whole():
    vae, latents = tiny_vae(), torch.randn(2, VAE.latent_dim, 5, dtype=torch.float64)
    torch.testing.assert_close(vae.decode_rest(vae.decode_middle(latents)), vae.decode(latents))


def test_only_the_middle_sees_the_whole_clip():
    vae = tiny_vae()
    latents = torch.randn(1, VAE.latent_dim, 60, dtype=torch.float64)
    changed = latents.clone()
    changed[..., -1] += 1
    before, after = vae.decode_middle(latents), vae.decode_middle(changed)
    assert (before[..., 0] - after[..., 0]).abs().max() > 0
    features = before.clone()
    features[..., -1] += 1
    near, far = (vae.decode_rest(f)[..., : 2 * (60 - 17)] for f in (before, features))
    assert (near == far).all()


def test_batches_do_not_mix():
    decoder = tiny_audio_decoder()
    latents = torch.randn(3, 4, VAE.latent_dim, dtype=torch.float64)
    alone = torch.cat([decoder(one[None]) for one in latents])
    torch.testing.assert_close(decoder(latents), alone)


def test_the_decoder_gives_samples_in_range_and_says_how_many():
    decoder = tiny_audio_decoder()
    assert decoder.samples_per_latent == 2 * decoder.vocoder.hop == 16
    wave = decoder(torch.randn(2, 5, VAE.latent_dim))
    assert wave.shape == (2, 5 * 16)
    assert 0 < wave.abs().max() < 1


def test_autocast_does_not_reach_the_audio_decoder():
    decoder = tiny_audio_decoder().float()
    latents = torch.randn(1, 4, VAE.latent_dim)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wave = decoder(latents.bfloat16())
    torch.testing.assert_close(wave, decoder(latents.bfloat16().float()), rtol=0, atol=0)


def test_latents_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"\[batch, latents, 4\]"):
        tiny_audio_decoder()(torch.randn(1, 5, VAE.latent_dim + 1))


def test_vocoder_and_vae_must_share_their_mel_bins():
    with pytest.raises(CheckpointError, match="6 and 7 mel bins"):
        AudioDecoder(tiny_vae(), BigVGAN(replace(VOCODER, mel_bins=7)))
