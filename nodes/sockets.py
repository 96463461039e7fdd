"""What travels between our nodes on sockets of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from comfy_api.latest import io

from ..hallo_live_core import StandingThread, decoding_thread

CATEGORY = "HalloLive"
"""Where the nodes stand in the menu."""

ADVANCED = {"advanced": True}
"""Folds an input away in frontends that can; older ones ignore it."""

Model = io.Custom("HALLOLIVE_MODEL")
Vae = io.Custom("HALLOLIVE_VAE")


@dataclass(frozen=True)
class LoadedModel:
    """Value of HALLOLIVE_MODEL: the transformer in the host's memory manager.

    dtype is the format it computes in; its weights may be stored smaller. fp8_cache: runs keep
    what they remember in 8 bits.
    """

    patcher: Any
    dtype: torch.dtype
    fp8_cache: bool = False


@dataclass(frozen=True)
class LoadedVae:
    """Value of HALLOLIVE_VAE: both decoders in the host's memory manager.

    dtype is that of the video decoder and encoder; the audio decoder always computes in float32.
    open_encoder loads the other half of the video VAE. decoding: the thread that decodes beside
    the passes of every run with these decoders.
    """

    video: Any
    audio: Any
    dtype: torch.dtype
    open_encoder: Callable[[], Any]
    decoding: StandingThread = field(default_factory=decoding_thread, compare=False)

    @cached_property
    def encoder(self) -> Any:
        """The encoder in the host's memory manager, loaded when it is first asked for."""
        return self.open_encoder()
