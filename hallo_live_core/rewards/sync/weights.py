"""From the tensors of the two published files to the sizes and weights of our modules.

Both files are flat and our modules have the published names (spec 08 §2.2, §2.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...errors import CheckpointError
from .s3fd import EXTRA_STRIDES, VGG_CONVS, S3FDConfig
from .syncnet import SyncNetConfig

StateDict = Mapping[str, Tensor]

COUNTER = "num_batches_tracked"
"""Batch norms count training steps; files may leave that out, and inference never asks."""

LIP_CONVS = AUDIO_CONVS = (0, 4, 8, 11, 14, 18)


def s3fd_config_from_state_dict(state_dict: StateDict) -> S3FDConfig:
    """Widths of the face detector from the shapes of its weights.

    Raises:
        CheckpointError: the weights are those of another model.
    """
    if "conv1_1.weight" in state_dict:
        raise CheckpointError(
            "This is the face detector of another package: the same shapes, another network",
            found="conv1_1.weight",
            fix="use sfd_face.pth of ByteDance/LatentSync-1.6, folder auxiliary",
        )
    return S3FDConfig(
        vgg=_widths(state_dict, (f"vgg.{i}.weight" for i in VGG_CONVS)),
        extras=_widths(state_dict, (f"extras.{i}.weight" for i in range(len(EXTRA_STRIDES)))),
    )


def syncnet_config_from_state_dict(state_dict: StateDict) -> SyncNetConfig:
    """Widths of SyncNet from the shapes of its weights.

    Raises:
        CheckpointError: the weights are those of another model.
    """
    hidden, embedding = _widths(state_dict, ("netfclip.0.weight", "netfclip.3.weight"))
    return SyncNetConfig(
        lip=_widths(state_dict, (f"netcnnlip.{i}.weight" for i in LIP_CONVS)),
        audio=_widths(state_dict, (f"netcnnaud.{i}.weight" for i in AUDIO_CONVS)),
        hidden=hidden,
        embedding=embedding,
    )


def syncnet_to_module(state_dict: StateDict) -> dict[str, Tensor]:
    """The weights of `SyncNet`; counters of batch norms are added where the file has none."""
    counters = {
        name.replace("running_mean", COUNTER): torch.zeros((), dtype=torch.long)
        for name in state_dict
        if name.endswith("running_mean")
    }
    return counters | dict(state_dict)


def _widths(state_dict: StateDict, names: Iterable[str]) -> tuple[int, ...]:
    """Output channels of the weights of these names."""
    names = tuple(names)
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise CheckpointError(f"The file has no {missing[0]}", found=f"{len(state_dict)} tensors")
    return tuple(state_dict[name].shape[0] for name in names)
