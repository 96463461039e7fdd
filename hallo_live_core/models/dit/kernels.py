"""Which attention kernel a device gets: by what it can do and what is installed, never by its name.

All compute the same softmax(q k^T / sqrt(d)) v; they differ in speed, and by rounding.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ...errors import RequestError
from .visibility import Attention, sdpa

AUTO, FA3, FA2, CUDNN, SDPA = "auto", "fa3", "fa2", "cudnn", "sdpa"
ATTENTIONS = (AUTO, FA3, FA2, CUDNN, SDPA)
"""What users may ask for: auto, FlashAttention 3 or 2 (packages), cuDNN, or PyTorch's choice."""

PACKAGES = {FA3: "flash_attn_interface", FA2: "flash_attn"}
"""The modules that bring `flash_attn_func`."""

SPLITS = "num_splits"
"""Argument of FlashAttention 3: parts of the keys that are worked on at once; 0: as it sees fit."""

HOPPER = 9
"""Major capability of the only devices that FlashAttention 3 is written for."""

ADA = (8, 9)
"""From this capability on, cuDNN's attention is tried before PyTorch's flash attention."""

CUDNN_PREFERRED = 91501
"""The first version of cuDNN (9.15.1) that `auto` takes: older ones have faults where a length is
not a multiple of 128, as ours are, and PyTorch does not prefer them either
(pytorch/pytorch#171627)."""

FLASH2 = (8, 0)
"""The least capability of FlashAttention 2."""

HALF = (torch.bfloat16, torch.float16)
"""What flash kernels compute in."""

KEYS_PER_QUERY = 32
"""With at least this many keys for each query, keys are split to fill the device.

The sound's 30 to 150 queries over a clip's 14 880 keys of picture have 99 and more; a
block's own 2976 queries have 5.
"""


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What decides: compute capability (major, minor), None without CUDA; modules installed.

    cudnn: its version, such as 91501 for 9.15.1; 0: there is none.
    """

    capability: tuple[int, int] | None
    packages: frozenset[str]
    cudnn: int = 0

    @classmethod
    def of(cls, device: torch.device) -> Abilities:
        """Those of a device of this machine; AMD's count as without CUDA."""
        cuda = device.type == "cuda" and torch.version.hip is None
        capability = torch.cuda.get_device_capability(device) if cuda else None
        packages = frozenset(p for p in PACKAGES.values() if find_spec(p) is not None)
        return cls(capability, packages, (torch.backends.cudnn.version() or 0) if cuda else 0)

    def runs(self, kernel: str) -> bool:
        """Whether a kernel can be had."""
        if kernel == SDPA:
            return True
        if self.capability is None:
            return False
        if kernel == FA3:
            return self.capability[0] == HOPPER and PACKAGES[FA3] in self.packages
        if kernel == FA2:
            return self.capability >= FLASH2 and PACKAGES[FA2] in self.packages
        return self.capability >= FLASH2

    @property
    def best(self) -> str:
        """The kernel that `auto` means here."""
        if self.runs(FA3):
            return FA3
        recent = self.cudnn >= CUDNN_PREFERRED
        return CUDNN if recent and self.capability is not None and self.capability >= ADA else SDPA


def choose_attention(
    name: str, device: torch.device, abilities: Abilities | None = None
) -> Attention:
    """The attention of that name (`ATTENTIONS`) for a device; abilities are asked of it.

    Raises:
        RequestError: the name is unknown, or the device or its packages cannot do that.
    """
    if name not in ATTENTIONS:
        raise RequestError("Unknown attention", found=name, fix=f"use {', '.join(ATTENTIONS)}")
    abilities = abilities or Abilities.of(device)
    kernel = abilities.best if name == AUTO else name
    if not abilities.runs(kernel):
        raise RequestError(
            f"The attention {kernel} cannot run on {device}",
            found=f"capability {abilities.capability}, "
            f"packages: {', '.join(sorted(abilities.packages)) or 'none'}",
            fix=f"use {AUTO}, which is {abilities.best} here",
        )
    if kernel not in PACKAGES:
        return cudnn_first if kernel == CUDNN else sdpa
    try:
        return flash(import_module(PACKAGES[kernel]).flash_attn_func)
    except Exception as error:  # whatever a package raises that was built for another PyTorch
        without = replace(abilities, packages=abilities.packages - {PACKAGES[kernel]})
        if name != AUTO:
            raise RequestError(
                f"The package {PACKAGES[kernel]} cannot be loaded",
                found=error,
                fix=f"install it anew for torch {torch.__version__}, or use {AUTO}",
            ) from error
        _log.warning("%s cannot be loaded, %s will do: %s", PACKAGES[kernel], without.best, error)
        return choose_attention(name, device, without)


def flash(function: Callable[..., Any]) -> Attention:
    """Attention by a package's `flash_attn_func`, which takes [b, l, n, d] in half precision.

    Where queries are few it splits the keys: version 2 by itself, version 3 if told to judge. Masks
    and other formats go to PyTorch's own attention, since the packages have neither.
    """
    judge = {SPLITS: 0} if SPLITS in signature(function).parameters else {}

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None or q.dtype not in HALF:
            return sdpa(q, k, v, mask)
        out = function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), **judge)
        # Some versions also return the logarithm of the softmax's denominator.
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return attend


def cudnn_first(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's attention, cuDNN's kernel first; for few queries the flash kernel: it splits keys.

    What a kernel cannot do goes to the next.
    """
    few = q.shape[2] * KEYS_PER_QUERY <= k.shape[2]
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    rest = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel([*(order if few else order[::-1]), *rest], set_priority=True):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def one_by_one(attention: Attention, lock: threading.Lock) -> Attention:
    """The same attention, for threads that launch at the same time.

    PyTorch has one order of kernels for the whole process: a thread that changes it while another
    chooses would leave the choice, and so the last bits of a clip, to chance.
    """
    if attention is not cudnn_first:
        return attention

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        with lock:
            return cudnn_first(q, k, v, mask)

    return attend
