"""Writes tiny, untrained judges under the published names and layouts, for trying things out."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ..rewards.sync.detect import PRIOR_STEPS, SIZE_VARIANCE
from ..rewards.sync.s3fd import S3FD, S3FDConfig
from ..rewards.sync.syncnet import SyncNet, SyncNetConfig
from .catalog import FACE_DETECTOR, SYNCNET
from .tiny import save
from .tiny_judges_hf import write_tiny_audio_judge, write_tiny_video_judge

DETECTOR = S3FDConfig(vgg=(4,) * 15, extras=(4,) * 4)
LIP_SYNC = SyncNetConfig(
    lip=(4, 8, 8, 8, 8, 16), audio=(4, 8, 8, 8, 8, 16), hidden=16, embedding=32
)

FACE_LEVEL, FACE_STEP = 3, 32
"""The level of the detector on which the tiny one sees its face, and the step of its priors."""

FACE_SIDE = 30
"""Side of that face in pixels of the network, 120 of the frame: just large enough."""

PIXEL_SPREAD, MFCC_SPREAD = 100.0, 20.0
"""About the size of what enters the branches of SyncNet."""

CERTAIN = 5.0
"""Logit of a sure thing."""


def write_tiny_judges(directory: Path, *, seed: int = 0) -> Path:
    """Write the files of all three judges into `directory`, which is returned.

    Whatever the picture, the tiny detector sees one face, in its upper left corner.

    Raises:
        CheckpointError: a file cannot be written.
        HalloLiveError: a package that it needs is not installed.
    """
    directory = Path(directory)
    generator = torch.Generator().manual_seed(seed)
    save(directory / FACE_DETECTOR.names[0], face_detector(generator))
    save(directory / SYNCNET.names[0], lip_sync(generator))
    write_tiny_audio_judge(directory, generator)
    write_tiny_video_judge(directory, generator)
    return directory


def face_detector(generator: torch.Generator) -> dict[str, Tensor]:
    """A detector whose heads ignore the picture and find one face.

    On its level all features are 1. Beyond the border they are 0, which tells the corner from
    everywhere else.
    """
    tensors = _filled(S3FD(DETECTOR), generator)
    last = f"vgg.{_last_conv(S3FD(DETECTOR).vgg)}"
    for head in ("loc", "conf"):
        for name in tensors:
            if name.startswith(f"{head}."):
                tensors[name].zero_()
    for level in range(6):
        tensors[f"conf.{level}.bias"][:-1] = CERTAIN
    tensors[f"{last}.weight"].zero_()
    tensors[f"{last}.bias"].fill_(1.0)
    face = tensors[f"conf.{FACE_LEVEL}.weight"][1, 0]
    face[0, 1] = face[1, 0] = -2 * CERTAIN  # what lies above, what lies to the left
    tensors[f"conf.{FACE_LEVEL}.bias"].copy_(torch.tensor([0.0, CERTAIN]))
    shrink = math.log(FACE_SIDE / (PRIOR_STEPS * FACE_STEP)) / SIZE_VARIANCE
    tensors[f"loc.{FACE_LEVEL}.bias"][2:] = shrink
    return tensors


def lip_sync(generator: torch.Generator) -> dict[str, Tensor]:
    """A SyncNet whose distances are about as large as those of the published one."""
    tensors = _filled(SyncNet(LIP_SYNC), generator)
    for branch, spread in (("netcnnlip", PIXEL_SPREAD), ("netcnnaud", MFCC_SPREAD)):
        tensors[f"{branch}.1.running_var"].fill_(spread**2)
    return tensors


def _last_conv(layers: nn.Sequential) -> int:
    return max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))


def _filled(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights that keep the size of what passes through; norms that do nothing."""
    tensors = dict(module.state_dict())
    for name, tensor in tensors.items():
        if tensor.ndim >= 2:
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = noise * math.sqrt(2 / noise[0].numel())
        elif name.endswith("bias"):
            tensors[name] = torch.zeros_like(tensor)
    return tensors
