"""Weight files of the judges -> ready networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..rewards.sync import weights as sync_weights
from ..rewards.sync.judge import Faces, Missing, SyncJudge
from ..rewards.sync.s3fd import S3FD
from ..rewards.sync.syncnet import SyncNet
from . import identify
from .assemble import assemble, reading
from .build import META
from .catalog import FACE_DETECTOR, SYNCNET, locate
from .files import read_file, take


def load_face_detector(path: Path, *, device: torch.device | str = "cpu") -> S3FD:
    """S3FD from `sfd_face.pth`, in float32 (spec 08 §2.2).

    Raises:
        CheckpointError: the file is missing, damaged or another model.
    """
    file = read_file(path)
    return face_detector_from_state_dict(file.tensors, file.name, device=device)


def face_detector_from_state_dict(
    tensors: dict[str, Tensor], source: str, *, device: torch.device | str = "cpu"
) -> S3FD:
    """S3FD made of these tensors; the dict is emptied.

    Raises:
        CheckpointError: this is another model.
    """
    tensors = take(tensors, source)
    with reading(source, identify.FACE_DETECTOR, tensors), META:
        module = S3FD(sync_weights.s3fd_config_from_state_dict(tensors))
    return assemble(module, tensors, source=source, dtype=torch.float32, device=device)


def load_syncnet(path: Path, *, device: torch.device | str = "cpu") -> SyncNet:
    """SyncNet v2 from `syncnet_v2.model`, in float32 (spec 08 §2.5).

    Raises:
        CheckpointError: the file is missing, damaged or another model.
    """
    file = read_file(path)
    return syncnet_from_state_dict(file.tensors, file.name, device=device)


def syncnet_from_state_dict(
    tensors: dict[str, Tensor], source: str, *, device: torch.device | str = "cpu"
) -> SyncNet:
    """SyncNet made of these tensors; the dict is emptied.

    Raises:
        CheckpointError: this is another model.
    """
    tensors = take(tensors, source)
    with reading(source, identify.SYNCNET, tensors), META:
        module = SyncNet(sync_weights.syncnet_config_from_state_dict(tensors))
    ready = sync_weights.syncnet_to_module(tensors)
    tensors.clear()
    return assemble(module, ready, source=source, dtype=torch.float32, device=device)


def load_sync_judge(
    models: Path,
    *,
    device: torch.device | str = "cpu",
    faces: Faces = "mean",
    missing: Missing = "neutral",
) -> SyncJudge:
    """The lip-sync judge from its two files, anywhere below `models`.

    Raises:
        CheckpointError: a file is missing, damaged or another model.
    """
    paths = locate(models, (FACE_DETECTOR, SYNCNET))
    return SyncJudge(
        load_face_detector(paths[FACE_DETECTOR.key], device=device),
        load_syncnet(paths[SYNCNET.key], device=device),
        faces=faces,
        missing=missing,
    )
