"""Nearest-neighbour doubling and a 3x3 convolution, folded into one 2x2 convolution.

Of the nine pixels that the 3x3 kernel sees in a doubled picture many are the same pixel of the
small one. An even output row 2 y sees rows y - 1, y, y, an odd row 2 y + 1 sees y, y, y + 1, and
zero padding beyond the doubled picture is zero padding beyond the small one. So each of the four
output phases (row parity, column parity) is a 2x2 convolution of the small picture, with sums of
the 3x3 kernel's taps: exact algebra with 4/9 of the products, and the doubled picture is never
written. All four are output channels of one convolution (spec 03 §6).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...functional.precision import at_least_float32

PHASES = 4
"""Row parity (the slower one) and column parity."""

FOLDED_KERNEL = 2

_TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
"""[parity, tap of the folded kernel, tap of the 3-kernel]: which taps fall on the same pixel."""

_TAPS_BACK = (((1, 0), (0, 0)), ((0, 1), (0, -1)), ((0, 0), (0, 1)))
"""[tap of the 3-kernel, parity, tap of the folded kernel]: the inverse."""


def fold_kernel(weight: Tensor) -> Tensor:
    """[o, i, 3, 3] -> [4 o, i, 2, 2], the phases one after the other; sums in float32 or wider."""
    wide, taps = _wide(weight, _TAPS)
    folded = torch.einsum("pta,qub,oiab->pqoitu", taps, taps, wide)
    return folded.flatten(0, 2).to(weight.dtype)


def unfold_kernel(folded: Tensor) -> Tensor:
    """[4 o, i, 2, 2] -> [o, i, 3, 3], the inverse of `fold_kernel` up to rounding."""
    wide, back = _wide(folded, _TAPS_BACK)
    phases = wide.unflatten(0, (2, 2, -1))
    return torch.einsum("apt,bqu,pqoitu->oiab", back, back, phases).to(folded.dtype)


def fold_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """A layer of the same class that makes all phases of doubling and `conv` (3x3, padding 1).

    [n, i, h, w] -> [n, 4 o, h + 1, w + 1]: with padding on all sides there is one row and one
    column of positions more than each phase needs; `phase` cuts.
    """
    return _replaced(conv, fold_kernel(conv.weight), _bias_of(conv).repeat(PHASES))


def unfold_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """The inverse of `fold_conv`."""
    return _replaced(conv, unfold_kernel(conv.weight), _bias_of(conv).unflatten(0, (PHASES, -1))[0])


def phase(phases: Tensor, row: int, column: int) -> Tensor:
    """[..., 4 o, t, h + 1, w + 1] -> what belongs at [row::2, column::2]: [..., o, t, h, w]."""
    height, width = phases.shape[-2] - 1, phases.shape[-1] - 1
    one = phases.unflatten(1, (PHASES, -1))[:, 2 * row + column]
    return one[..., row : row + height, column : column + width]


def _wide(weight: Tensor, taps: tuple[tuple[tuple[int, ...], ...], ...]) -> tuple[Tensor, Tensor]:
    wide = weight.to(at_least_float32(weight.dtype))
    return wide, torch.tensor(taps, device=wide.device, dtype=wide.dtype)


def _bias_of(conv: nn.Conv2d) -> Tensor:
    return cast(Tensor, conv.bias)


def _replaced(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The class of `conv` (a host may have its own) with other weights."""
    out_channels, in_channels, kernel, _ = weight.shape
    layer = type(conv)(
        in_channels, out_channels, kernel, padding=1, device="meta", dtype=weight.dtype
    )
    needs_gradient = conv.weight.requires_grad
    if conv.weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous(memory_format=torch.channels_last)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=needs_gradient)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=needs_gradient)
    return layer.train(conv.training)
