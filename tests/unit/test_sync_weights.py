"""The two weight files of the lip-sync judge."""

import pytest
import torch

from hallo_live_core.checkpoints.rewards import (
    load_face_detector,
    load_sync_judge,
    load_syncnet,
    syncnet_from_state_dict,
)
from hallo_live_core.checkpoints.tiny_judges import DETECTOR, LIP_SYNC, write_tiny_judges
from hallo_live_core.errors import CheckpointError

from .sync_stubs import talking_head


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_tiny_judges(tmp_path_factory.mktemp("judges"))


def test_sizes_are_read_from_the_tensors(files):
    judge = load_sync_judge(files)
    assert judge.detector.config == DETECTOR
    assert judge.network.config == LIP_SYNC
    assert not any(p.requires_grad for n in judge.networks for p in n.parameters())
    assert not any(n.training for n in judge.networks)


def test_the_tiny_judge_finds_one_face_in_any_clip(files):
    judge = load_sync_judge(files)
    for size in ((112, 112), (128, 240), (300, 202)):
        score = judge.score(talking_head(size=size, seconds=2.2))
        (face,) = score.details.faces
        assert score.value is not None and len(face.curve.distances) == 31
        assert torch.allclose(face.boxes[0], torch.tensor([4.0, 4, 124, 124]).double(), atol=2)


def test_the_same_seed_writes_the_same_files(files, tmp_path):
    again = write_tiny_judges(tmp_path / "again")
    other = write_tiny_judges(tmp_path / "other", seed=1)
    for file in sorted(files.iterdir()):
        if file.name in ("sfd_face.pth", "syncnet_v2.model"):
            assert file.read_bytes() == (again / file.name).read_bytes()
            assert file.read_bytes() != (other / file.name).read_bytes()


def test_counters_of_batch_norms_may_be_absent(files):
    tensors = torch.load(files / "syncnet_v2.model")
    without = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert len(without) == len(tensors) - 14
    network = syncnet_from_state_dict(without, "x")
    assert network.state_dict().keys() == tensors.keys()


def test_exchanged_files_are_named(files):
    with pytest.raises(CheckpointError, match=r"is not SyncNet v2\. Found: .* the S3FD"):
        load_syncnet(files / "sfd_face.pth")
    with pytest.raises(CheckpointError, match=r"not the S3FD face detector\. Found: .* SyncNet v2"):
        load_face_detector(files / "syncnet_v2.model")


def test_the_detector_of_another_package_is_refused(tmp_path):
    torch.save({"conv1_1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "s3fd.pth")
    with pytest.raises(CheckpointError, match="same shapes, another network"):
        load_face_detector(tmp_path / "s3fd.pth")


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_a_file_must_fit_exactly(files, tmp_path, change):
    tensors = torch.load(files / "sfd_face.pth")
    if change == "missing":
        del tensors["loc.2.bias"]
    elif change == "surplus":
        tensors["loc.6.bias"] = torch.zeros(4)
    else:
        tensors["loc.2.bias"] = torch.zeros(5)
    torch.save(tensors, tmp_path / "sfd_face.pth")
    with pytest.raises(CheckpointError, match=r"loc\.[26]\.bias"):
        load_face_detector(tmp_path / "sfd_face.pth")


def test_missing_files_are_named_with_their_origin(tmp_path):
    with pytest.raises(CheckpointError) as error:
        load_sync_judge(tmp_path)
    for part in ("sfd_face.pth", "syncnet_v2.model", "ByteDance/LatentSync-1.6", "download them"):
        assert part in str(error.value)
