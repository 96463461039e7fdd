"""How the transformer's work is carried out, applied to a loaded one."""

from __future__ import annotations

import threading
from dataclasses import replace

import torch

from ..config import Acceleration
from ..errors import RequestError
from ..models.dit import DualStreamDiT
from ..models.dit.compilation import compile_blocks
from ..models.dit.kernels import AUTO, Abilities, choose_attention, one_by_one
from ..models.dit.lanes import SideStream
from ..models.dit.sage import sage_attention
from ..models.dit.visibility import Attention
from ..sampling.graphs import GraphedTransformer
from ..sampling.split import Opener, SplitTransformer


def accelerate(
    model: DualStreamDiT | SplitTransformer, how: Acceleration, *, sage: bool = False
) -> DualStreamDiT | Opener:
    """The same transformer, faster; what it predicts changes by rounding only, unless `sage` asks
    for attention in 8 bits.

    Raises:
        RequestError: the device cannot do that.
    """
    if isinstance(model, SplitTransformer):
        lock = threading.Lock()
        for network, device in zip(model.models, model.devices, strict=True):
            network.attention = one_by_one(_attention(how, device, sage=sage), lock)
        return model
    device = next(model.parameters()).device
    model.attention = _attention(how, device, sage=sage)
    if how.audio_beside:
        model.lanes = SideStream(device)
    if how.compile_blocks:
        compile_blocks(model)
    return GraphedTransformer(model, device) if how.graphs else model


def check_acceleration(
    how: Acceleration, device: torch.device, *, split: bool, sage: bool = False
) -> None:
    """Refuse what cannot work, before anything is loaded; split: over several devices.

    Raises:
        RequestError: the device cannot do that, or two of the settings exclude each other.
        HalloLiveError: the package for attention in 8 bits is not installed.
    """
    _attention(how, device, sage=sage)
    if sage and how.attention != AUTO:
        raise RequestError(
            "Two attention kernels are chosen at once",
            found=f"{how.attention}, and attention in 8 bits",
            fix="choose one of them",
        )
    if device.type != "cuda" and (how.audio_beside or how.graphs):
        raise RequestError(
            "A second stream and recorded passes need a GPU",
            found=device,
            fix="leave them off, or use cuda",
        )
    if how.compile_blocks and how.audio_beside:
        raise RequestError(
            "A compiled layer cannot use two CUDA streams",
            found="compiled blocks and audio beside video",
            fix="choose one of them",
        )
    if split and (how.compile_blocks or how.audio_beside or how.graphs):
        raise RequestError(
            "A split transformer cannot be compiled, recorded or given a second stream",
            found=how,
            fix="leave these settings off, or use one device",
        )


def _attention(how: Acceleration, device: torch.device, *, sage: bool) -> Attention:
    """Compiled layers get PyTorch's own kernels unless others are asked for by name: compilers do
    not know the functions of every package."""
    if sage:
        return sage_attention(device)
    abilities = Abilities.of(device)
    if how.compile_blocks and how.attention == AUTO:
        abilities = replace(abilities, packages=frozenset())
    return choose_attention(how.attention, device, abilities)
