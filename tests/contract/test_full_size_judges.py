"""The judges of sound and picture at published size, without memory: names, shapes, counts."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from hallo_live_core.checkpoints.identify import AUDIOBOX, VIDEO_REWARD, identify
from hallo_live_core.checkpoints.rewards_hf import (
    audiobox_from_state_dict,
    videoalign_from_state_dict,
)
from hallo_live_core.rewards.audiobox import weights as audio_weights
from hallo_live_core.rewards.audiobox.judge import PUBLISHED_TARGETS, Target
from hallo_live_core.rewards.audiobox.network import AudioBoxConfig
from hallo_live_core.rewards.key_table import rename
from hallo_live_core.rewards.videoalign import weights as video_weights
from hallo_live_core.rewards.videoalign.frames import (
    num_visual_tokens,
    sample_indices,
    target_size,
)
from hallo_live_core.rewards.videoalign.network import VideoAlignConfig

KEYS = Path(__file__).parents[1] / "keys"
BF16 = 2


def read(name: str) -> dict:
    return json.loads((KEYS / f"{name}.json").read_text())


def on_meta(name: str) -> dict[str, torch.Tensor]:
    shapes = read(name)["tensors"]
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def elements(tensors: dict[str, torch.Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


@pytest.mark.parametrize(
    ("name", "model"), [("audiobox_aesthetics", AUDIOBOX), ("videoreward", VIDEO_REWARD)]
)
def test_the_published_files_are_identified(name, model):
    assert identify(read(name)["tensors"]) == model


def test_the_audiobox_table_equals_the_published_one():
    for published, theirs in read("audiobox_wavlm_to_hf")["map"].items():
        ours = rename(published, audio_weights.TABLE, audio_weights.MODEL)
        assert ours == f"wavlm.{theirs}"


def test_the_videoreward_table_equals_the_published_one():
    for published, theirs in read("videoreward_to_hf")["map"].items():
        ours = rename(published, video_weights.TABLE, video_weights.MODEL)
        assert ours == theirs.removeprefix("(own reward head) ")


def test_the_published_audiobox_fits_without_a_tensor_left_over():
    tensors = on_meta("audiobox_aesthetics")
    assert elements(tensors) == read("audiobox_aesthetics")["_about"]["n_elements"] == 103_859_112
    published = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    network = audiobox_from_state_dict(tensors, "model.safetensors", device="meta")
    assert network.config == AudioBoxConfig()
    back = audio_weights.to_published(network.state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in back.items()} == published


def test_the_published_constants_of_audiobox_are_ours():
    stored = read("audiobox_aesthetics")["_about"]["target_transform"]
    assert {axis: Target(**entry) for axis, entry in stored.items()} == PUBLISHED_TARGETS


def test_the_published_videoreward_fits_merged_without_a_tensor_left_over():
    tensors = on_meta("videoreward")
    assert len(tensors) == 1123
    assert sum(name.endswith("lora_A.default.weight") for name in tensors) == 196
    network = videoalign_from_state_dict(tensors, "model.pth", device="meta")
    assert network.config == VideoAlignConfig()
    merged = network.state_dict()
    assert merged.keys() == {
        name.removeprefix("(own reward head) ")
        for name in read("videoreward_to_hf")["map"].values()
    }
    assert round(elements(merged) * BF16 / 1e9, 2) == 4.42


def test_a_clip_of_five_seconds_becomes_1210_visual_tokens():
    assert len(sample_indices(117, Fraction(24))) == 10
    height, width = target_size(512, 992)
    assert (height, width) == (308, 616)
    assert num_visual_tokens((5, height // 14, width // 14)) == 1210
