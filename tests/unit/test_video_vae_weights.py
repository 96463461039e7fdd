"""Which video decoder a file holds, and what is left to do with its weights."""

import pytest
import torch

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.video_vae import weights
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.encoder import WanVideoEncoder
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEHVConfig

TINY = VideoVAEConfig(encoder_dim=4, decoder_dim=6, num_res_blocks=1)
OTHER = VideoVAEConfig(
    encoder_dim=2,
    decoder_dim=4,
    multipliers=(2, 4, 4),
    num_res_blocks=2,
    temporal_downsample=(False, True),
)
BASE = TAEHVConfig(widths=(8, 6, 4, 5))
SUPER = TAEHVConfig(widths=(8, 6, 4, 5), wide_kernels=True)


def file_of(config: VideoVAEConfig) -> dict[str, torch.Tensor]:
    meta = torch.device("meta")
    parts = WanVideoEncoder(config, device=meta), WanVideoDecoder(config, device=meta)
    return parts[0].state_dict() | parts[1].state_dict()


def light_file_of(config: TAEHVConfig) -> dict[str, torch.Tensor]:
    return TAEHV(config).state_dict() | {"encoder.0.weight": torch.zeros(64, 12, 3, 3)}


@pytest.mark.parametrize("config", [VideoVAEConfig(), TINY, OTHER])
def test_sizes_are_read_from_names_and_shapes(config):
    file = file_of(config)
    assert weights.config_from_state_dict(file) == config


def test_a_file_without_the_encoder_is_enough_to_decode():
    file = weights.to_module(file_of(TINY), "decoder")
    config = weights.config_from_state_dict(file)
    assert (config.decoder_dim, config.multipliers) == (TINY.decoder_dim, TINY.multipliers)


@pytest.mark.parametrize(
    ("part", "module"), [("decoder", WanVideoDecoder), ("encoder", WanVideoEncoder)]
)
def test_each_part_takes_its_own_weights_and_no_others(part, module):
    ready = weights.to_module(file_of(TINY), part)
    built = module(TINY, device=torch.device("meta"))
    built.load_state_dict(ready, strict=True, assign=True)
    if part == "decoder":
        assert weights.to_module(ready, part) == ready


def test_a_missing_part_is_named():
    file = weights.to_module(file_of(TINY), "decoder")
    with pytest.raises(CheckpointError, match="has no encoder"):
        weights.to_module(file, "encoder")


@pytest.mark.parametrize("config", [BASE, SUPER, TAEHVConfig()])
def test_sizes_of_light_decoders_are_read_from_shapes(config):
    file = light_file_of(config)
    assert weights.taehv_config_from_state_dict(file) == config


@pytest.mark.parametrize("config", [BASE, SUPER])
def test_light_decoders_take_their_decoder_weights(config):
    ready = weights.taehv_to_module(light_file_of(config))
    TAEHV(config).load_state_dict(ready, strict=True)
    assert weights.taehv_to_module(ready).keys() == ready.keys()


def test_of_surplus_rows_of_growing_layers_the_last_count():
    file = light_file_of(BASE)
    file["decoder.7.conv.weight"] = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 8, 1, 1)
    ready = weights.taehv_to_module(file)
    assert ready["decoder.7.conv.weight"][:, 0, 0, 0].tolist() == list(range(8, 16))


def test_the_convention_of_the_latents_is_the_callers_to_say():
    config = weights.taehv_config_from_state_dict(light_file_of(BASE), normalised_latents=False)
    assert not config.normalised_latents


WRONG = {
    "the layout of diffusers": {"decoder.conv_in.weight": (1024, 48, 3, 3, 3)},
    "the VAE of Wan 2.1": {"decoder.upsamples.0.residual.2.weight": (8, 8, 3, 3, 3)},
    "no Wan2.2 video VAE. Found: blocks.0.weight": {"blocks.0.weight": (8,)},
    "do not have 48 channels": {
        "decoder.upsamples.0.upsamples.0.residual.2.weight": (8, 8, 3, 3, 3),
        "conv2.weight": (16, 16, 1, 1, 1),
    },
    "made for other latents. Found: 16 channels": {
        "decoder.1.weight": (64, 16, 3, 3),
        "decoder.22.weight": (3, 64, 3, 3),
    },
    "no tensors": {},
}


@pytest.mark.parametrize(("message", "shapes"), WRONG.items(), ids=WRONG)
def test_other_models_are_refused_by_name(message, shapes):
    file = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with pytest.raises(CheckpointError, match=message):
        weights.taehv_config_from_state_dict(file)


def test_the_big_vae_is_no_light_decoder():
    with pytest.raises(CheckpointError, match="the big video VAE"):
        weights.taehv_config_from_state_dict(file_of(TINY))
