import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hallo_live_core.checkpoints import convert, load_transformer, safetensors_writer
from hallo_live_core.checkpoints.config_json import (
    KEY,
    config_from_metadata,
    config_to_metadata,
)
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.config import HALLO_5B
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit.fusion import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published

from .dit_models import AS_IN_FILES as SMALL


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = to_published(DualStreamDiT(SMALL, device="meta").state_dict())
    return {name: torch.randn(t.shape, generator=generator) for name, t in shapes.items()}


def contents(weights):
    wrapped = {f"model._fsdp_wrapped_module.{k}": v for k, v in weights.items()}
    return {
        "flat": {f"model.{k}": v for k, v in weights.items()},
        "generator": {"generator": wrapped, "critic": wrapped},
        "ema": {"generator": {"model.x": torch.ones(1)}, "generator_ema": wrapped},
    }


@pytest.mark.parametrize("kind", ["flat", "generator", "ema"])
def test_every_kind_of_checkpoint_becomes_the_same_bf16_file(tmp_path, weights, kind):
    source, target = tmp_path / "model.pt", tmp_path / "out" / "student.safetensors"
    torch.save(contents(weights)[kind], source)
    assert convert(source, target) == target
    stored = load_file(target)
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[k], weights[k].bfloat16()) for k in weights)


def test_the_converted_file_carries_its_sizes_and_loads_again(tmp_path, weights):
    source, target = tmp_path / "model.pt", tmp_path / "student.safetensors"
    torch.save(weights, source)
    convert(source, target)
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and metadata["converted_from"] == "model.pt"
    assert config_from_metadata(metadata, "x") == SMALL
    module = load_transformer(target)
    assert module.config == SMALL
    state = to_published(module.state_dict())
    assert all(torch.equal(state[k], weights[k].bfloat16()) for k in weights)


def test_converting_a_converted_file_changes_no_tensor(tmp_path, weights):
    torch.save(weights, tmp_path / "model.pt")
    first = convert(tmp_path / "model.pt", tmp_path / "1.safetensors")
    second = convert(first, tmp_path / "2.safetensors")
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_file_of_another_model_or_an_incomplete_one_is_not_converted(tmp_path, weights):
    torch.save({"conv_pre.bias": torch.ones(1)}, tmp_path / "a.pt")
    torch.save({k: v for k, v in weights.items() if "head.bias" not in k}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match=name):
            convert(tmp_path / name, tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_an_existing_target_is_kept(tmp_path, weights):
    torch.save(weights, tmp_path / "model.pt")
    target = tmp_path / "precious.safetensors"
    target.write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "model.pt", target)
    assert target.read_text() == "mine"


def test_the_target_must_be_called_safetensors(tmp_path):
    with pytest.raises(CheckpointError, match=r"call it out\.safetensors"):
        convert(tmp_path / "model.pt", tmp_path / "out.pt")


def test_an_interrupted_conversion_leaves_no_file(tmp_path, monkeypatch):
    def interrupt(tensor):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors_writer, "_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, metadata={})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = safetensors_writer.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(safetensors_writer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="no room"):
        write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(9)}, metadata={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.arange(6.0).view(2, 3).t(),
        torch.ones(3, dtype=torch.float16),
        torch.arange(4),
        torch.tensor([1, 2], dtype=torch.uint8),
    ],
)
def test_tensors_of_every_shape_and_type_are_written_faithfully(tmp_path, tensor):
    path = tmp_path / "x.safetensors"
    write_safetensors(
        path, {"odd length": torch.ones(3, dtype=torch.uint8), "t": tensor}, metadata={}
    )
    stored = load_file(path)["t"]
    assert stored.dtype == tensor.dtype and torch.equal(stored, tensor)


def test_sizes_survive_the_way_through_json():
    assert config_from_metadata(config_to_metadata(HALLO_5B), "x") == HALLO_5B
    assert config_from_metadata({}, "x") is None


@pytest.mark.parametrize("entry", ["{", "[]", '{"video": 3, "audio": {}}', json.dumps({"a": 1})])
def test_sizes_that_make_no_sense_are_refused(entry):
    with pytest.raises(CheckpointError, match=r"metadata of x\.safetensors"):
        config_from_metadata({KEY: entry}, "x.safetensors")
