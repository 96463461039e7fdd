"""The lists of published names, checked against our tables."""

import json
from pathlib import Path

import pytest
import torch

from hallo_live_core.checkpoints import (
    text_encoder_from_state_dict,
    transformer_from_state_dict,
    video_decoder_from_state_dict,
    video_encoder_from_state_dict,
)
from hallo_live_core.checkpoints.identify import (
    AUDIO_VAE,
    TAEHV,
    TEXT_ENCODER,
    TRANSFORMER,
    VIDEO_VAE,
    VOCODER,
    identify,
)
from hallo_live_core.config import HALLO_1_3B, HALLO_5B, VideoVAEConfig
from hallo_live_core.models.text_encoder.weights import TIED_EMBEDDING, rename

from .harness import golden_root

COMMITTED = Path(__file__).parents[1] / "keys"
KEYS = next(f for f in (golden_root() / "keys", COMMITTED) if f.is_dir())

LISTS = {
    "fusion_5B": ("shapes", TRANSFORMER),
    "fusion_1_3B": ("shapes", TRANSFORMER),
    "wan22_vae": ("tensors", VIDEO_VAE),
    "mmaudio_vae_16k": ("tensors", AUDIO_VAE),
    "bigvgan_16k": ("tensors_new_style", VOCODER),
    "umt5_xxl": ("tensors", TEXT_ENCODER),
}


def empty(shapes: dict) -> dict:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def read(name: str) -> dict:
    return json.loads((KEYS / f"{name}.json").read_text())


def test_the_umt5_table_equals_the_published_one():
    for published, ours in read("umt5_xxl_to_hf")["map"].items():
        assert rename(published) in ours
        assert {rename(published), TIED_EMBEDDING} >= set(ours)


@pytest.mark.parametrize("name", LISTS)
def test_every_published_model_is_identified(name):
    entry, model = LISTS[name]
    assert identify(read(name)[entry]) == model


@pytest.mark.parametrize("name", ["taew2_2", "taew2_2_super"])
def test_both_light_decoders_are_identified(name):
    assert identify(read("taew2_2")[name]["tensors"]) == TAEHV


@pytest.mark.parametrize(("name", "config"), [("fusion_5B", HALLO_5B), ("fusion_1_3B", HALLO_1_3B)])
def test_a_published_transformer_fits_without_a_tensor_left_over(name, config):
    tensors = {f"model.{k}": v for k, v in empty(read(name)["shapes"]).items()}
    module = transformer_from_state_dict(tensors, name, device="meta")
    assert module.config == config


def test_the_published_video_vae_fits_without_a_tensor_left_over():
    shapes = read("wan22_vae")["tensors"]
    decoder = video_decoder_from_state_dict(empty(shapes), "x", device="meta")
    encoder = video_encoder_from_state_dict(empty(shapes), "x", device="meta")
    assert decoder.config == encoder.config == VideoVAEConfig()
    assert {*decoder.state_dict(), *encoder.state_dict()} == shapes.keys()


def test_the_published_text_encoder_fits_without_a_tensor_left_over():
    tensors = empty(read("umt5_xxl")["tensors"])
    encoder = text_encoder_from_state_dict(tensors, "x", lambda _: [1], device="meta")
    assert len(encoder.network.state_dict()) == 242 + 1  # the embedding has two names
