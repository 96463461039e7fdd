"""Audio VAE, vocoder and mel front end against the reference's tensors (spec 04 §10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hallo_live_core.config import VocoderConfig
from hallo_live_core.models.audio_vae import vae_weights, vocoder_weights
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.mel import MelSettings, log10_mel, slaney_filter_bank
from hallo_live_core.models.audio_vae.vocoder import BigVGAN

from .harness import Golden, assert_max_abs

MEL_TOLERANCE = 2e-5
WAVE_TOLERANCE = 1e-5
FILTER_BANK_TOLERANCE = 1e-6


def build_vae(tensors: dict[str, Tensor], **halves: bool) -> MMAudioVAE:
    config = vae_weights.config_from_state_dict(tensors)
    vae = MMAudioVAE(config, device="meta", **halves)
    vae.load_state_dict(vae_weights.to_module(tensors, **halves), strict=True, assign=True)
    return vae


def build_vocoder(tensors: dict[str, Tensor], facts: dict | None = None) -> BigVGAN:
    config = vocoder_weights.config_from_state_dict(tensors)
    if facts and "upsample_kernel_sizes" in facts:
        expected = VocoderConfig(
            mel_bins=facts["num_mels"],
            channels=facts["upsample_initial_channel"],
            upsample_kernels=tuple(facts["upsample_kernel_sizes"]),
            resblock_kernels=tuple(facts["resblock_kernel_sizes"]),
            dilations=tuple(facts["resblock_dilation_sizes"][0]),
        )
        assert config == expected
        assert [k // 2 for k in config.upsample_kernels] == facts["upsample_rates"]
        assert all(tuple(d) == config.dilations for d in facts["resblock_dilation_sizes"])
        assert len(facts["resblock_dilation_sizes"]) == len(config.resblock_kernels)
        assert (facts["resblock"], facts["activation"]) == ("1", "snakebeta")
        assert facts["snake_logscale"]
    elif facts:
        assert config.channels == facts["upsample_initial_channel"]
    vocoder = BigVGAN(config, device="meta")
    vocoder.load_state_dict(vocoder_weights.to_module(tensors), strict=True, assign=True)
    return vocoder


def record_taps(module: nn.Module, taps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of the named modules, filled in by the next forward pass."""
    seen: dict[str, Tensor] = {}

    def recorder(name: str):
        def keep(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            seen.setdefault(name, output)

        return keep

    for name in taps:
        module.get_submodule(name).register_forward_hook(recorder(name))
    return seen


def split_taps(golden: Golden) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Module outputs and fused weights among the taps."""
    taps = golden.group("tap")
    fused = {k: v for k, v in taps.items() if k.startswith("fused_weight.")}
    return {k: v for k, v in taps.items() if k not in fused}, golden.group("tap.fused_weight")


def assert_taps(seen: dict[str, Tensor], taps: dict[str, Tensor], tolerance: float) -> None:
    assert seen.keys() == taps.keys()
    for name, expected in taps.items():
        assert_max_abs(seen[name], expected, name, tolerance)


@torch.no_grad()
def check_audio_vae_decode(golden: Golden) -> None:
    raw = golden.group("sd")
    vae = build_vae(raw)
    facts = golden.meta["config"]
    assert vae.config.latent_dim == facts["embed_dim"]
    assert vae.config.hidden_dim == facts["hidden_dim"]
    assert vae.config.multipliers == tuple(facts["ch_mult"])
    assert vae.config.num_res_blocks == facts["num_res_blocks"]
    assert vae.config.num_res_blocks + 1 == facts["decoder_blocks_per_level"]
    assert vae.config.mel_bins == facts["data_dim"]
    assert vae.decoder.conv_in.kernel_size == (facts["kernel"],)
    taps, fused = split_taps(golden)
    for name, expected in fused.items():
        weight = vae.get_submodule(name).weight
        gain = raw["decoder.learnable_gain"] if name.endswith("conv_out") else 0.0
        assert_max_abs(weight / (1 + gain), expected, name, MEL_TOLERANCE)
    seen = record_taps(vae, taps)
    for case, facts in golden.meta["cases"].items():
        mel = vae.decode(golden[facts["in"]])
        assert_max_abs(mel, golden[facts["out"]], f"mel {case}", MEL_TOLERANCE)
    # The reference applies the output gain in this module, as our folded weight does.
    assert_taps(seen, taps, MEL_TOLERANCE)


@torch.no_grad()
def check_audio_vae_encode(golden: Golden) -> None:
    config = golden.meta["config"]
    facts = config["mel"]
    assert facts["win"] == facts["n_fft"]
    settings = MelSettings(
        sample_rate=facts["sr"],
        window=facts["n_fft"],
        hop=facts["hop"],
        mel_bins=facts["n_mels"],
        min_hz=facts["fmin"],
        max_hz=facts["fmax"],
    )
    vae = build_vae(golden.group("sd"), encoder=True, decoder=False)
    assert (vae.config.latent_dim, vae.config.hidden_dim) == (
        config["embed_dim"],
        config["hidden_dim"],
    )
    if "tap.mel_basis" in golden:
        bank = slaney_filter_bank(settings)
        assert_max_abs(bank, golden["tap.mel_basis"], "mel basis", FILTER_BANK_TOLERANCE)
    for case, sizes in golden.meta["cases"].items():
        mel = log10_mel(golden[f"in.audio_{case}"], settings)
        assert_max_abs(mel, golden[f"out.mel_{case}"], f"mel {case}", MEL_TOLERANCE)
        assert mel.shape[2] == sizes.get("mel_frames", mel.shape[2])
        mean, logvar = vae.encode(mel)
        assert_max_abs(mean, golden[f"out.mean_{case}"], f"mean {case}", MEL_TOLERANCE)
        assert_max_abs(logvar, golden[f"out.logvar_{case}"], f"logvar {case}", MEL_TOLERANCE)


@torch.no_grad()
def check_vocoder(golden: Golden) -> None:
    vocoder = build_vocoder(golden.group("sd"), golden.meta["config"])
    taps, _ = split_taps(golden)
    seen = record_taps(vocoder, taps)
    for case, facts in golden.meta["cases"].items():
        wave = vocoder(golden[facts["in"]])
        assert_max_abs(wave, golden[facts["out"]], f"wave {case}", WAVE_TOLERANCE)
    assert_taps(seen, taps, WAVE_TOLERANCE)


@torch.no_grad()
def check_audio_full(golden: Golden) -> None:
    config = golden.meta["config"]
    vae = build_vae(golden.group("sd.vae"))
    assert vae.config.latent_dim == config["vae"]["embed_dim"]
    assert vae.config.hidden_dim == config["vae"]["hidden_dim"]
    decoder = AudioDecoder(vae, build_vocoder(golden.group("sd.vocoder"), config["vocoder"]))
    for case, facts in golden.meta["cases"].items():
        wave = decoder(golden[facts["in"]].transpose(1, 2))
        rate = decoder.samples_per_latent
        assert rate == facts.get("samples_per_latent", rate)
        assert_max_abs(wave[:, None], golden[facts["out"]], f"wave {case}", WAVE_TOLERANCE)


CHECKS = {
    "audio_vae_decode": check_audio_vae_decode,
    "audio_vae_encode": check_audio_vae_encode,
    "vocoder": check_vocoder,
    "audio_full": check_audio_full,
}
