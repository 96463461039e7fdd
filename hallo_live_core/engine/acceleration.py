"""How the transformer's work is carried out, applied to a loaded one."""

from __future__ import annotations

import torch

from ..config import Acceleration
from ..errors import RequestError
from ..models.dit import DualStreamDiT
from ..models.dit.compilation import compile_blocks
from ..models.dit.kernels import choose_attention
from ..models.dit.lanes import SideStream
from ..sampling.graphs import GraphedTransformer
from ..sampling.split import Opener, SplitTransformer


def accelerate(
    model: DualStreamDiT | SplitTransformer, how: Acceleration
) -> DualStreamDiT | Opener:
    """The same transformer, faster; what it predicts changes by rounding only.

    Raises:
        RequestError: the device cannot do that.
    """
    if isinstance(model, SplitTransformer):
        for network, device in zip(model.models, model.devices, strict=True):
            network.attention = choose_attention(how.attention, device)
        return model
    device = next(model.parameters()).device
    model.attention = choose_attention(how.attention, device)
    if how.audio_beside:
        model.lanes = SideStream(device)
    if how.compile_blocks:
        compile_blocks(model)
    return GraphedTransformer(model, device) if how.graphs else model


def check_acceleration(how: Acceleration, device: torch.device, *, split: bool) -> None:
    """Refuse what cannot work, before anything is loaded; split: over several devices.

    Raises:
        RequestError: the device cannot do that, or two of the settings exclude each other.
    """
    choose_attention(how.attention, device)
    if device.type != "cuda" and (how.audio_beside or how.graphs):
        raise RequestError(
            "A second stream and recorded passes take a GPU",
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
            "A split transformer can be neither compiled nor recorded, and has no second stream",
            found=how,
            fix="leave these settings off, or use one device",
        )
