"""8-bit attention of the package sageattention, where it is installed."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import HalloLiveError, RequestError
from .visibility import Attention, sdpa


def sage_attention(device: torch.device) -> Attention:
    """The package's attention for a device; calls with a mask, which it does not know, stay exact.

    Raises:
        HalloLiveError: the package is not installed.
        RequestError: the device is no CUDA GPU.
    """
    if device.type != "cuda":
        raise RequestError(
            "8-bit attention needs a CUDA GPU", found=device, fix="leave it off on this device"
        )
    try:
        from sageattention import sageattn  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise HalloLiveError(
            "8-bit attention needs the package sageattention",
            found=str(error),
            fix="pip install sageattention, or leave 8-bit attention off",
        ) from error

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, /) -> Tensor:
        if mask is not None:
            return sdpa(q, k, v, mask)
        return sageattn(q, k, v, tensor_layout="HND", is_causal=False)

    return attend
