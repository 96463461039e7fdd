from __future__ import annotations

import pytest
import torch

from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.audio_vae import vae_weights, vocoder_weights
from hallo_live_core.models.audio_vae.merged import is_merged

from .audio_models import (
    VAE,
    VOCODER,
    published_vocoder_weights,
    raw_vae_weights,
    tiny_vae,
    tiny_vocoder,
)


def merged_file() -> dict[str, torch.Tensor]:
    """As ComfyUI repackages: VAE normalised with its gains beside it, vocoder fused."""
    vae = {
        k: vae_weights.normalise(v) if k.endswith(".weight") else v
        for k, v in raw_vae_weights().items()
    }
    vocoder = {}
    for name, tensor in published_vocoder_weights().items():
        if name.endswith("weight_v"):
            magnitude = published_vocoder_weights()[name[:-1] + "g"]
            vocoder[name.removesuffix("_v")] = vocoder_weights.fuse(magnitude, tensor)
        elif not name.endswith("weight_g"):
            vocoder[name] = tensor
    return (
        {f"vae.{k}": v for k, v in vae.items()}
        | {f"vocoder.{k}": v for k, v in vocoder.items()}
        | {"mel_converter.mel_basis": torch.zeros(6, 9), "mel_converter.hann_window": torch.ones(9)}
    )


def assert_equal_dicts(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=name)


def test_sizes_are_read_from_either_half_of_the_vae():
    raw = raw_vae_weights()
    for half in ("encoder.", "decoder."):
        without = {k: v for k, v in raw.items() if not k.startswith(half)}
        assert vae_weights.config_from_state_dict(without) == VAE


def test_raw_weights_get_unit_rows_and_the_gain_goes_into_the_output():
    raw = raw_vae_weights()
    ready = vae_weights.to_module(raw, encoder=True)
    assert not any("learnable_gain" in name for name in ready)
    for name, weight in ready.items():
        if name.endswith(".weight"):
            expected = 1.3 if "conv_out" in name else 1.0
            lengths = weight.flatten(1).norm(dim=1)
            torch.testing.assert_close(
                lengths, torch.full_like(lengths, expected), rtol=2e-3, atol=0
            )


def test_the_scale_of_raw_weights_does_not_matter():
    raw = raw_vae_weights()
    ten = {k: v * 10 if k.endswith(".weight") else v for k, v in raw.items()}
    latents = torch.randn(1, VAE.latent_dim, 3, dtype=torch.float64)
    torch.testing.assert_close(
        tiny_vae(raw).decode(latents), tiny_vae(ten).decode(latents), rtol=1e-2, atol=1e-2
    )


def test_preparing_twice_changes_nothing():
    vae = vae_weights.to_module(raw_vae_weights(), encoder=True)
    assert_equal_dicts(vae_weights.to_module(vae, encoder=True), vae)
    assert vae_weights.config_from_state_dict(vae) == VAE
    vocoder = vocoder_weights.to_module(published_vocoder_weights())
    assert_equal_dicts(vocoder_weights.to_module(vocoder), vocoder)
    assert vocoder_weights.config_from_state_dict(vocoder) == VOCODER


def test_only_the_wanted_half_is_kept():
    ready = vae_weights.to_module(raw_vae_weights())
    assert not any(name.startswith("encoder.") for name in ready)
    assert vae_weights.to_module(raw_vae_weights(), encoder=True, decoder=False).keys() == (
        tiny_vae(encoder=True, decoder=False).state_dict().keys()
    )


def test_a_missing_half_is_named():
    raw = {k: v for k, v in raw_vae_weights().items() if not k.startswith("encoder.")}
    with pytest.raises(CheckpointError, match="The encoder is not in this audio VAE"):
        vae_weights.to_module(raw, encoder=True)


def test_normalised_weights_outside_a_merged_file_are_refused():
    vae = {k[4:]: v for k, v in merged_file().items() if k.startswith("vae.")}
    with pytest.raises(CheckpointError, match="normalised already"):
        vae_weights.to_module(vae)


def test_half_precision_weights_are_prepared_in_float32():
    raw = {k: v.to(torch.bfloat16) for k, v in raw_vae_weights().items()}
    ready = vae_weights.to_module(raw)
    assert {v.dtype for v in ready.values()} == {torch.float32}
    as_float = vae_weights.to_module({k: v.float() for k, v in raw.items()})
    assert_equal_dicts(ready, as_float)


def test_a_merged_file_gives_the_networks_of_the_published_files():
    merged = merged_file()
    assert is_merged(merged)
    assert vae_weights.config_from_state_dict(merged) == VAE
    assert vocoder_weights.config_from_state_dict(merged) == VOCODER
    assert_equal_dicts(
        vae_weights.to_module(merged, encoder=True),
        vae_weights.to_module(raw_vae_weights(), encoder=True),
    )
    assert_equal_dicts(
        vocoder_weights.to_module(merged), vocoder_weights.to_module(published_vocoder_weights())
    )


def test_a_merged_file_with_weight_norm_holds_raw_weights():
    merged = {f"vae.{k}": v for k, v in raw_vae_weights().items()}
    merged |= {f"vocoder.{k}": v for k, v in published_vocoder_weights().items()}
    assert_equal_dicts(vae_weights.to_module(merged), vae_weights.to_module(raw_vae_weights()))


def test_a_merged_file_that_is_fused_but_not_normalised_is_refused():
    merged = merged_file() | {f"vae.{k}": v for k, v in raw_vae_weights().items()}
    with pytest.raises(CheckpointError, match="weight rows as long as"):
        vae_weights.to_module(merged)


@pytest.mark.parametrize("style", ["old", "new"])
def test_both_styles_of_weight_norm_give_the_same_vocoder(style):
    mel = torch.randn(1, VOCODER.mel_bins, 3, dtype=torch.float64)
    expected = tiny_vocoder()(mel)
    torch.testing.assert_close(tiny_vocoder(published_vocoder_weights(style))(mel), expected)


@pytest.mark.parametrize("style", ["old", "new"])
def test_the_vocoder_goes_back_to_published_names_and_returns_equal(style):
    ready = vocoder_weights.to_module(published_vocoder_weights(style))
    published = vocoder_weights.to_published(ready, style)
    assert published.keys() == published_vocoder_weights(style).keys()
    assert_equal_dicts(vocoder_weights.to_module(published), ready)


def test_weight_norm_runs_over_all_axes_but_the_first():
    direction, magnitude = torch.randn(5, 3, 4), torch.rand(5, 1, 1) + 0.1
    weight = vocoder_weights.fuse(magnitude, direction)
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), magnitude.flatten())


def test_a_direction_without_its_magnitude_is_named():
    published = published_vocoder_weights()
    del published["resblocks.1.convs2.0.weight_g"]
    with pytest.raises(CheckpointError, match=r"Found: resblocks\.1\.convs2\.0"):
        vocoder_weights.to_module(published)


def test_another_filter_is_refused():
    published = published_vocoder_weights()
    published["activation_post.upsample.filter"] = torch.full((1, 1, 12), 1 / 12)
    with pytest.raises(CheckpointError, match="another filter"):
        vocoder_weights.to_module(published)


def test_a_filter_rounded_to_sixteen_bits_is_accepted_and_replaced_by_the_exact_one():
    published = published_vocoder_weights()
    rounded = {k: v.bfloat16().double() if "filter" in k else v for k, v in published.items()}
    assert_equal_dicts(vocoder_weights.to_module(rounded), vocoder_weights.to_module(published))


def test_the_44_khz_vae_is_recognised():
    raw = raw_vae_weights() | {"data_mean": torch.zeros(1, 128, 1)}
    with pytest.raises(CheckpointError, match=r"44 kHz.*128 mel bins.*v1-16\.pth"):
        vae_weights.config_from_state_dict(raw)


def test_the_44_khz_vocoder_is_recognised():
    published = published_vocoder_weights()
    del published["conv_post.bias"]
    with pytest.raises(CheckpointError, match=r"BigVGAN v2 at 44 kHz.*best_netG\.pt"):
        vocoder_weights.config_from_state_dict(published)


@pytest.mark.parametrize("weights", [vae_weights, vocoder_weights])
def test_other_models_are_refused(weights):
    with pytest.raises(CheckpointError, match="This is not the"):
        weights.config_from_state_dict({"blocks.0.weight": torch.zeros(2, 2)})


def test_the_vocoder_is_not_the_vae_nor_the_other_way_round():
    with pytest.raises(CheckpointError, match="not the audio VAE"):
        vae_weights.config_from_state_dict(published_vocoder_weights())
    with pytest.raises(CheckpointError, match="not the BigVGAN"):
        vocoder_weights.config_from_state_dict(raw_vae_weights())
