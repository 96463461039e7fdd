"""Linear layers whose weights stay in 8 bits, a scale for every row.

Where the device multiplies in 8 bits, the input is rounded to 8 bits as well, every token with a
scale of its own. Elsewhere the weights are widened for the moment of their use: every 8-bit value
is a value of bf16 too, so that nothing but the scale is rounded there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

logger = logging.getLogger(__name__)

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SMALLEST = 1e-12
"""Rows and tokens below this count as zero."""

TRIAL = 16
"""Side of the matrix product that shows whether a device can."""


def multiplies_in_8_bits(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether 8-bit matrix products with a scale per row give `dtype` there, found out by one.

    Most versions of PyTorch have them in bf16 only.
    """
    if device.type != "cuda":
        return False
    side = torch.zeros(TRIAL, TRIAL, device=device, dtype=FORMAT)
    scale = torch.ones(TRIAL, 1, device=device)
    try:
        scaled_product(side, side, scale, scale, None, dtype)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # NotImplementedError is one, too
        logger.warning("%s has no products in 8 bits, weights are widened: %s", device, error)
        return False
    return True


def scaled_product(
    x: Tensor, weight: Tensor, scale: Tensor, rows: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """x weight^T in `dtype`. x: [m, k] with scale [m, 1]; weight: [n, k] with rows [n, 1]."""
    product = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage] - the only door to it
    return product(x, weight.t(), scale_a=scale, scale_b=rows.t(), bias=bias, out_dtype=dtype)


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., n] as 8-bit values [..., n] and float32 scales [..., 1]; value times scale is x."""
    wide = x.to(torch.float32)
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min_(SMALLEST) / LARGEST
    return (wide / scale).to(FORMAT), scale


class ScaledLinear(nn.Linear):
    """`nn.Linear` that also takes 8-bit weights, then with `weight_scale`, float32 [out, 1].

    With weights of full width, and without scales, it is `nn.Linear`.
    """

    weight_scale: Tensor | None
    in_8_bits = False
    """Whether to use the device's 8-bit products; else weights are widened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of nn.Linear
        super().__init__(*args, **kwargs)
        self.register_buffer("weight_scale", None)

    def take_scales(self, layers: Sequence[nn.Linear]) -> None:
        """Scales and products of the layers, if all have scales, whose rows this layer has."""
        scales = [layer.weight_scale for layer in layers if isinstance(layer, ScaledLinear)]
        known = [scale for scale in scales if scale is not None]
        if known:
            self.weight_scale = torch.cat(known)
            self.in_8_bits = all(isinstance(x, ScaledLinear) and x.in_8_bits for x in layers)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in nn.Linear
        """[..., in] to [..., out] in the dtype of the input."""
        x, scale = input, self.weight_scale
        if scale is None:
            return super().forward(x)
        if self.in_8_bits:
            return self._narrow(x, scale)
        out = functional.linear(x, self.weight.to(x.dtype)) * scale.view(-1).to(x.dtype)
        return out if self.bias is None else out + self.bias

    def _narrow(self, x: Tensor, scale: Tensor) -> Tensor:
        tokens, token_scale = rounded_rows(x.reshape(-1, x.shape[-1]))
        out = scaled_product(tokens, self.weight, token_scale, scale, self.bias, x.dtype)
        return out.unflatten(0, x.shape[:-1])


SCALED_OPS = SimpleNamespace(
    Linear=ScaledLinear, LayerNorm=nn.LayerNorm, Conv1d=nn.Conv1d, Conv3d=nn.Conv3d
)
"""Namespace of layers (`attention.Ops`) for a transformer with 8-bit weights."""
