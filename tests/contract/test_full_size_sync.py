"""The networks of the lip-sync judge at published size, without memory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hallo_live_core.checkpoints.rewards import (
    face_detector_from_state_dict,
    syncnet_from_state_dict,
)
from hallo_live_core.rewards.sync.s3fd import S3FDConfig
from hallo_live_core.rewards.sync.syncnet import SyncNetConfig

KEYS = Path(__file__).parents[1] / "keys"


def published(name: str) -> dict[str, torch.Tensor]:
    shapes = json.loads((KEYS / f"{name}.json").read_text())["tensors"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "build", "config", "floats"),
    [
        ("s3fd", face_detector_from_state_dict, S3FDConfig(), 22_459_110),
        ("syncnet_v2", syncnet_from_state_dict, SyncNetConfig(), 13_640_256),
    ],
)
def test_the_published_file_fits_without_a_tensor_left_over(name, build, config, floats):
    network = build(published(name), name, device="meta")
    assert network.config == config
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == {
        k: tuple(v.shape) for k, v in published(name).items()
    }
    counted = [v for k, v in network.state_dict().items() if "num_batches_tracked" not in k]
    assert sum(math.prod(v.shape) for v in counted) == floats


def test_a_frame_of_512x992_has_a_box_per_cell_of_six_levels():
    network = face_detector_from_state_dict(published("s3fd"), "x", device="meta")
    _, logits, levels = network(torch.empty(1, 3, 128, 248, device="meta"))
    assert levels == [(32, 62), (16, 31), (8, 15), (4, 7), (2, 4), (1, 2)]
    assert logits.shape == (1, 2638, 2)


def test_a_clip_gives_a_lip_embedding_for_all_but_four_of_its_frames():
    network = syncnet_from_state_dict(published("syncnet_v2"), "x", device="meta")
    assert network.embed_lips(torch.empty(122, 3, 224, 224, device="meta")).shape == (118, 1024)
    assert network.embed_audio(torch.empty(7, 13, 20, device="meta")).shape == (7, 1024)
