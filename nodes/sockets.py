"""What travels between our nodes on sockets of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io

CATEGORY = "HalloLive"
"""Where the nodes stand in the menu."""

ADVANCED = {"advanced": True}
"""Folds an input away in frontends that can; older ones ignore it."""

Model = io.Custom("HALLOLIVE_MODEL")
Vae = io.Custom("HALLOLIVE_VAE")


@dataclass(frozen=True)
class LoadedModel:
    """Value of HALLOLIVE_MODEL: the transformer in the host's memory manager.

    dtype is the format it computes in; its weights may be stored smaller.
    """

    patcher: Any
    dtype: torch.dtype


@dataclass(frozen=True)
class LoadedVae:
    """Value of HALLOLIVE_VAE: both decoders in the host's memory manager.

    dtype is that of the video decoder; the audio decoder always computes in float32.
    """

    video: Any
    audio: Any
    dtype: torch.dtype
