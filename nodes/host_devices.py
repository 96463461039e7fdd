"""Calls to ComfyUI about devices: which there are, and what the host would choose."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import torch
from comfy_api.latest import io

from .sockets import ADVANCED

DEFAULT = "default"
"""The choice that leaves a decision to the host."""

CPU = "cpu"


def device_names() -> list[str]:
    """Where a model may live: the host's choice, or any device of this machine."""
    return [DEFAULT, CPU, *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def device_input(tooltip: str, *, optional: bool = True) -> io.Input:
    """The input of a loader that says where its model runs."""
    return io.Combo.Input(
        "device",
        options=device_names(),
        default=DEFAULT,
        optional=optional,
        tooltip=tooltip,
        extra_dict=ADVANCED,
    )


def check_device(choice: str | None) -> bool | str:
    """True, or what to say of a workflow made on a machine with more GPUs."""
    if choice is None or choice in device_names():
        return True
    return f"Device {choice} does not exist here. Fix: choose {DEFAULT}."


def compute_device(choice: str = DEFAULT) -> torch.device:
    """Where the transformer and the judges compute."""
    return _chosen(choice, comfy.model_management.get_torch_device)


def decoder_device(choice: str) -> torch.device:
    """Where the decoders compute."""
    return _chosen(choice, comfy.model_management.vae_device)


def text_options(choice: str) -> dict[str, torch.device]:
    """What the host's text encoders want to know of a device; nothing by default."""
    if choice == DEFAULT:
        return {}
    device = torch.device(choice)
    if device.type == CPU:
        return {"load_device": device, "offload_device": device}
    return {"load_device": device}


def _chosen(choice: str, default: Callable[[], torch.device]) -> torch.device:
    return default() if choice == DEFAULT else torch.device(choice)
