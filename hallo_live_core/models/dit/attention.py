"""Attention of one stream: to itself, and to text and the other stream at once (spec 01 §4)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import StreamConfig
from ...functional.rope import rotate
from ...state.session import KeysValues
from .visibility import Visible


class Ops(Protocol):
    """A namespace of layers: `torch.nn`, or one of `comfy.ops`, which may page weights in and out.

    So nobody here reads a weight of its layers directly.
    """

    Linear: Any
    LayerNorm: Any
    Conv1d: Any
    Conv3d: Any


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width.

    In half precision it is computed in float32 and rounded, then weighted (spec 01 §7).
    """

    def __init__(
        self,
        dim: int,
        eps: float,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        return functional.rms_norm(x, x.shape[-1:], eps=self.eps) * self.weight.to(x)


class SelfAttention(nn.Module):
    """Tokens of one stream look at tokens of the same stream."""

    def __init__(
        self,
        config: StreamConfig,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dim, self.num_heads = config.dim, config.num_heads
        place = {"device": device, "dtype": dtype}
        self.q = ops.Linear(dim, dim, **place)
        self.k = ops.Linear(dim, dim, **place)
        self.v = ops.Linear(dim, dim, **place)
        self.o = ops.Linear(dim, dim, **place)
        self.norm_q = RMSNorm(dim, config.eps, **place)
        self.norm_k = RMSNorm(dim, config.eps, **place)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b, l, n, d]; queries and keys turned, keys not yet rounded."""
        q = rotate(split_heads(self.norm_q(self.q(x)), self.num_heads), rotary).to(x.dtype)
        k = rotate(split_heads(self.norm_k(self.k(x)), self.num_heads), rotary)
        return q, k, split_heads(self.v(x), self.num_heads)

    def forward(self, x: Tensor, rotary: Tensor, visible: Visible) -> Tensor:
        """x: [b, l, dim]; rotary: [l, d/2, 2]. Returns [b, l, dim]."""
        return self.o(visible.attend(*self.project(x, rotary)))


class CrossAttention(nn.Module):
    """Tokens of one stream look at the prompt and at the other stream, with one query for both.

    Two attentions, added before one output projection. Only the second is rotated: each side by
    its own positions. The keys of the other stream are made by this stream's projections.
    """

    def __init__(
        self,
        config: StreamConfig,
        other_dim: int,
        *,
        ops: Ops,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dim, self.num_heads = config.dim, config.num_heads
        place = {"device": device, "dtype": dtype}
        self.q = ops.Linear(dim, dim, **place)
        self.k = ops.Linear(dim, dim, **place)
        self.v = ops.Linear(dim, dim, **place)
        self.o = ops.Linear(dim, dim, **place)
        self.norm_q = RMSNorm(dim, config.eps, **place)
        self.norm_k = RMSNorm(dim, config.eps, **place)
        self.pre_attn_norm_fusion = ops.LayerNorm(other_dim, eps=config.eps, **place)
        self.k_fusion = ops.Linear(other_dim, dim, **place)
        self.v_fusion = ops.Linear(other_dim, dim, **place)
        self.norm_k_fusion = RMSNorm(dim, config.eps, **place)

    def text_keys(self, text: Tensor) -> KeysValues:
        """Keys and values [b, text_len, n, d] of prompt tokens [b, text_len, dim]."""
        k = split_heads(self.norm_k(self.k(text)), self.num_heads)
        return k, split_heads(self.v(text), self.num_heads)

    def fusion_keys(self, other: Tensor, rotary: Tensor) -> KeysValues:
        """Keys and values of the other stream's tokens [b, l, other_dim]; keys not yet rounded."""
        other = self.pre_attn_norm_fusion(other)
        k = rotate(split_heads(self.norm_k_fusion(self.k_fusion(other)), self.num_heads), rotary)
        return k, split_heads(self.v_fusion(other), self.num_heads)

    def forward(
        self, x: Tensor, rotary: Tensor, text: KeysValues, other: KeysValues, visible: Visible
    ) -> Tensor:
        """x: [b, l, dim]; text, other: what the two methods above return. Returns [b, l, dim]."""
        q = split_heads(self.norm_q(self.q(x)), self.num_heads)
        seen = visible.attend(rotate(q, rotary).to(x.dtype), *other)
        return self.o(visible.attend_all(q, *text) + seen)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[b, l, n * d] to [b, l, n, d], a view."""
    return x.unflatten(-1, (num_heads, -1))
