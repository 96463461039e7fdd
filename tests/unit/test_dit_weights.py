import json
from pathlib import Path

import pytest
import torch

from hallo_live_core.config import HALLO_5B
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit.weights import config_from_state_dict, to_module, to_published

from .dit_models import TINY, tiny_dit

KEYS = Path(__file__).parents[1] / "keys"


def published():
    return to_published(tiny_dit().state_dict())


def published_5b():
    shapes = json.loads((KEYS / "fusion_5B.json").read_text())["shapes"]
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_renaming_is_exact_both_ways():
    weights = published()
    ours = tiny_dit().state_dict()
    assert to_module(weights).keys() == ours.keys()
    assert to_published(to_module(weights)).keys() == weights.keys()
    assert all(torch.equal(to_module(weights)[name], ours[name]) for name in ours)


def test_renaming_twice_changes_nothing():
    once = to_module(published())
    assert to_module(once).keys() == once.keys()


def test_the_names_are_the_published_ones():
    names = published().keys()
    for name in (
        "video_model.patch_embedding.weight",
        "audio_model.patch_embedding.2.w1.weight",
        "video_model.blocks.1.cross_attn.norm_k_fusion.weight",
        "audio_model.blocks.0.modulation.modulation",
        "video_model.head.modulation",
        "audio_model.head.head.bias",
    ):
        assert name in names


def test_sizes_are_read_from_the_weights():
    found = config_from_state_dict(published(), num_heads=(2, 1), text_len=5)
    assert found == TINY
    assert config_from_state_dict(to_module(published()), num_heads=(2, 1), text_len=5) == TINY


def test_published_weights_have_heads_of_128():
    assert config_from_state_dict(published_5b()) == HALLO_5B


@pytest.mark.parametrize("weights", [{}, {"conv.weight": torch.zeros(1)}])
def test_weights_of_another_model_are_refused(weights):
    with pytest.raises(CheckpointError, match="dual-stream"):
        config_from_state_dict(weights)


def test_names_of_both_kinds_may_not_be_mixed():
    mixed = {**published(), **tiny_dit().state_dict()}
    with pytest.raises(CheckpointError, match="unknown names"):
        to_module(mixed)


def test_half_of_the_network_is_refused():
    video = {name: w for name, w in published().items() if name.startswith("video")}
    with pytest.raises(CheckpointError, match="audio"):
        config_from_state_dict(video)


def test_streams_that_do_not_fit_each_other_are_refused():
    with pytest.raises(CheckpointError, match="same width"):
        config_from_state_dict(published(), num_heads=(3, 1))
