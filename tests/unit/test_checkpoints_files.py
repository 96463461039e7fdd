import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hallo_live_core.checkpoints.files import pick, plain_names, read_bytes, read_file, take
from hallo_live_core.errors import CheckpointError

MAPS = Path("/proc/self/maps")
ONE, TWO, THREE = (torch.full((2,), float(n)) for n in (1, 2, 3))


def saved(path, content):
    torch.save(content, path)
    return path


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("must-not-exist",)


def test_a_flat_file_is_taken_as_it_is(tmp_path):
    file = read_file(saved(tmp_path / "flat.pt", {"a.weight": ONE}))
    assert file.name == "flat.pt" and file.metadata == {}
    assert torch.equal(file.tensors["a.weight"], ONE)


@pytest.mark.parametrize(
    ("entries", "ema", "expected"),
    [
        (("generator", "critic", "generator_ema"), True, 3.0),
        (("generator", "critic", "generator_ema"), False, 1.0),
        (("generator", "critic"), True, 1.0),
        (("generator",), False, 1.0),
        (("generator_ema",), False, 3.0),
    ],
)
def test_the_student_is_picked_out_of_a_training_checkpoint(tmp_path, entries, ema, expected):
    values = {"generator": ONE, "critic": TWO, "generator_ema": THREE}
    content = {entry: {"model.x": values[entry]} for entry in entries}
    file = read_file(saved(tmp_path / "model.pt", content), ema=ema)
    assert file.tensors["x"][0] == expected


def test_the_critic_of_a_training_checkpoint_can_be_had_instead(tmp_path):
    content = {"generator": {"model.x": ONE}, "critic": {"model.x": TWO}}
    path = saved(tmp_path / "model.pt", content)
    assert read_file(path, critic=True).tensors["x"][0] == 2.0
    flat = saved(tmp_path / "flat.pt", {"model.x": ONE})
    assert read_file(flat, critic=True).tensors["x"][0] == 1.0
    alone = saved(tmp_path / "alone.pt", {"generator": {"model.x": ONE}})
    with pytest.raises(CheckpointError, match=r"no critic.*generator.*leave model\.critic empty"):
        read_file(alone, critic=True)


def test_wrapper_names_are_stripped_at_any_depth_and_one_leading_model():
    names = [
        "model._fsdp_wrapped_module.a._fsdp_wrapped_module.b._checkpoint_wrapped_module.w",
        "_orig_mod.model.c",
        "model.model.d",
        "plain.model.e",
    ]
    plain = plain_names(dict.fromkeys(names, ONE))
    assert list(plain) == ["a.b.w", "c", "model.d", "plain.model.e"]


def test_two_names_that_become_one_are_refused():
    with pytest.raises(CheckpointError, match="both called a"):
        plain_names({"model.a": ONE, "a": TWO})


def test_safetensors_come_with_their_metadata(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"model.a": ONE}, path, metadata={"who": "me"})
    file = read_file(path)
    assert file.metadata == {"who": "me"} and list(file.tensors) == ["a"]


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells which files are mapped")
@pytest.mark.parametrize("name", ["big.pt", "big.safetensors"])
def test_a_file_is_mapped_into_memory_and_not_read(tmp_path, name):
    path = tmp_path / name
    (save_file if name.endswith("rs") else torch.save)({"a": torch.ones(100_000)}, path)
    file = read_file(path)
    assert str(path) in MAPS.read_text()
    assert file.tensors["a"].sum() == 100_000


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.01])
@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors"])
def test_a_file_that_was_cut_off_is_refused_in_one_line(tmp_path, name, keep):
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save({"a": torch.ones(5000)}, path)
    else:
        save_file({"a": torch.ones(5000)}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(CheckpointError, match=rf"{name} is incomplete or damaged") as caught:
        read_file(path)
    assert "download the file again" in str(caught.value)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"<html>Not found</html>",
        b"PK\x03\x04nonsense",
        *(random.Random(seed).randbytes(300) for seed in range(20)),
    ],
    ids=lambda content: repr(content[:4]),
)
def test_a_file_that_is_something_else_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_file(path)


def test_the_expected_size_of_a_published_file_is_told(tmp_path):
    path = tmp_path / "Wan2.2_VAE.pth"
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match="8 of 2,818,839,170 bytes"):
        read_file(path)


@pytest.mark.parametrize(
    "writer", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))]
)
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    writer({"a": RunsCode()}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        read_file(path)
    assert not (tmp_path / "must-not-exist").exists()


def test_objects_other_than_tensors_are_named(tmp_path):
    path = saved(tmp_path / "evil.pt", {"a": RunsCode()})
    with pytest.raises(CheckpointError, match="which could run code, and was not opened") as caught:
        read_file(path)
    assert "mkdir" in str(caught.value) and "safetensors" in str(caught.value)


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git-lfs pointer"):
        read_file(path)


def test_an_empty_file_is_recognised(tmp_path):
    path = tmp_path / "model.pt"
    path.touch()
    with pytest.raises(CheckpointError, match="is empty"):
        read_file(path)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_file, read_bytes):
        with pytest.raises(CheckpointError, match=r"no file .*nothing\.pt"):
            read(tmp_path / "nothing.pt")


def test_an_unknown_ending_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"use one of \.safetensors, .*\.pth"):
        read_file(path)


@pytest.mark.parametrize("content", [[ONE], ONE, {}, {"a": ONE, "epoch": 3}, {"generator": [1]}])
def test_content_without_a_state_dict_is_refused(content):
    with pytest.raises(CheckpointError, match=r"x\.pt holds no weights of a single network"):
        pick(content, "x.pt")


def test_taking_the_weights_leaves_nothing_behind():
    inner = {"model.a": ONE}
    content = {"generator": inner, "critic": {"b": TWO}, "step": 7}
    assert list(take(content, "x.pt")) == ["a"]
    assert not content and not inner
