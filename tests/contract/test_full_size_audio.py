"""The audio networks at published size, without memory: names, shapes and counts of the files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hallo_live_core.config import AudioVAEConfig, VocoderConfig
from hallo_live_core.models.audio_vae import vae_weights, vocoder_weights
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.vocoder import BigVGAN

from ..device_work import Work

KEYS = Path(__file__).parents[1] / "keys"
STYLES = {"old": "tensors_old_style", "new": "tensors_new_style"}


def published(file: str, group: str = "tensors") -> dict[str, tuple[int, ...]]:
    table = json.loads((KEYS / file).read_text())[group]
    return {name: tuple(shape) for name, shape in table.items()}


def on_meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def elements(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> int:
    return sum(math.prod(s) for name, s in shapes.items() if name.startswith(prefix))


def test_the_vae_has_the_published_tensors_save_the_gains_that_are_folded_in():
    vae = MMAudioVAE(AudioVAEConfig(), encoder=True, device="meta")
    gains = {f"{half}.{vae_weights.GAIN}": () for half in ("encoder", "decoder")}
    expected = published("mmaudio_vae_16k.json")
    assert shapes_of(vae.state_dict()) | gains == expected
    assert len(expected) == 57


def test_the_sizes_of_the_published_files_are_our_presets():
    vae = on_meta(published("mmaudio_vae_16k.json"))
    assert vae_weights.config_from_state_dict(vae) == AudioVAEConfig()
    for group in STYLES.values():
        vocoder = on_meta(published("bigvgan_16k.json", group))
        assert vocoder_weights.config_from_state_dict(vocoder) == VocoderConfig()


@pytest.mark.parametrize(("style", "group"), STYLES.items())
def test_the_vocoder_goes_back_to_the_784_published_names_in_both_styles(style, group):
    vocoder = BigVGAN(VocoderConfig(), device="meta")
    names = shapes_of(vocoder_weights.to_published(vocoder.state_dict(), style))
    assert names == published("bigvgan_16k.json", group)
    assert len(names) == 784


def test_element_counts_are_those_of_the_files():
    vae = published("mmaudio_vae_16k.json")
    assert elements(vae) == 171_657_378
    assert round(elements(vae, "encoder.") / 1e6, 2) == 72.53
    assert round(elements(vae, "decoder.") / 1e6, 2) == 99.13
    vocoder = BigVGAN(VocoderConfig(), device="meta")
    whole = shapes_of(vocoder_weights.to_published(vocoder.state_dict()))
    assert elements(whole) == 112_233_866
    filters = {name: shape for name, shape in whole.items() if "filter" in name}
    assert elements(filters) == 2_616


def test_the_sound_of_a_block_takes_a_known_number_of_kernels():
    """Of a block with its context, once per block; weight norm and filters are in the weights."""
    vae = MMAudioVAE(AudioVAEConfig(), device="meta")
    vocoder = BigVGAN(VocoderConfig(), device="meta")
    with torch.no_grad(), Work() as work:
        vocoder(vae.decode(torch.empty(1, 20, 58, device="meta")))
    assert work.kernels <= 1_342
    assert work.elementwise_nbytes / 1e9 <= 6.4


def test_one_latent_is_512_samples():
    vae = MMAudioVAE(AudioVAEConfig(), device="meta")
    vocoder = BigVGAN(VocoderConfig(), device="meta")
    assert AudioDecoder(vae, vocoder).samples_per_latent == 512
    wave = vocoder(vae.decode(torch.empty(2, 20, 5, device="meta")))
    assert wave.shape == (2, 1, 5 * 512)
