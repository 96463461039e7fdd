"""What makes a loaded video decoder faster on a device without changing what it computes."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from .decoder import WanVideoDecoder
from .layers import SMALLEST_NORM, ChannelNorm, NormKernel, use_channels_last

PROBE_SHAPE = (2, 48, 2, 3, 5)
"""Of the video with which a kernel is tried before it is used."""

PROBE_TOLERANCE = 2.0**-7
"""Relative; one step of bf16."""

PROBE_FLOOR = 1e-3
"""Values below this are compared absolutely."""

FAULTY_CUDNN = range(90800, 91500)
"""Versions 9.8 to 9.14 of cuDNN convolve video wrongly in 16 bits at some sizes
(pytorch/pytorch#163539); PyTorch 2.9 avoids them, slowly and with far more memory (#166643).
"""

_log = logging.getLogger(__name__)


def tune(decoder: nn.Module, device: torch.device) -> None:
    """Prepare a decoder for the device that it will compute on; its weights may lie elsewhere.

    Everywhere: folded up-sampling. On CUDA: channels-last weights and, if Triton is there and gives
    what the plain formula gives, norm and SiLU in one kernel.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        use_channels_last(decoder)
    if isinstance(decoder, WanVideoDecoder):
        if on_gpu:
            warn_of_cudnn(torch.backends.cudnn.version())
        decoder.fold_upsampling()
        use_norm_kernel(decoder, find_norm_kernel(device) if on_gpu else None)


def warn_of_cudnn(version: int | None) -> None:
    """Say so where the installed cuDNN is one of those that spoil or slow the decoder."""
    if version is not None and version in FAULTY_CUDNN:
        _log.warning(
            "cuDNN %d.%d has faults in 16-bit convolutions over time, or PyTorch goes without it, "
            "slowly: install cuDNN 9.15 or newer (nvidia-cudnn-cu12 or -cu13)",
            version // 10_000,
            version // 100 % 100,
        )


def use_norm_kernel(module: nn.Module, kernel: NormKernel | None) -> None:
    """Have all norms of a network computed by `kernel` where they can be; None: nowhere."""
    for norm in module.modules():
        if isinstance(norm, ChannelNorm):
            norm.kernel = kernel


def find_norm_kernel(device: torch.device) -> NormKernel | None:
    """The fused norm, if Triton is installed and it has been `proven` on this device."""
    try:
        from .norm_triton import norm_silu
    except ImportError:
        return None
    return proven(norm_silu, device)


def proven(kernel: NormKernel, device: torch.device) -> NormKernel | None:
    """The kernel, once it has shown on `device` that it equals the plain norm; else None."""
    try:
        error = largest_error(kernel, device)
    except Exception as failure:  # whatever a compiler on a machine we have not seen may raise
        _log.warning("The fused norm does not run on %s, the plain one will: %s", device, failure)
        return None
    if not error <= PROBE_TOLERANCE:
        _log.warning("The fused norm is wrong by %g on %s: the plain one will run", error, device)
        return None
    return kernel


def largest_error(kernel: NormKernel, device: torch.device) -> float:
    """Largest relative difference between a kernel and the plain norm, in bf16."""
    elements = torch.Size(PROBE_SHAPE).numel()
    x = torch.linspace(-2, 3, elements).view(PROBE_SHAPE).to(device, torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    norm = ChannelNorm(PROBE_SHAPE[1], device=device, dtype=torch.bfloat16).requires_grad_(False)
    expected, actual = torch.empty_like(x), torch.empty_like(x)
    norm.silu_into(x, expected)
    kernel(x, norm.gamma, actual, SMALLEST_NORM)
    difference: Tensor = (actual.float() - expected.float()).abs()
    return float((difference / expected.float().abs().clamp_min(PROBE_FLOOR)).max())
