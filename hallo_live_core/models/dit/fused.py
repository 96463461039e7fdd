"""Projections of one input as one matrix product: q, k and v, and k and v of the other stream.

Only the layout of the weights differs: their rows stand one below the other, and what has a name
of its own in files is a part of them (`weights.FUSED`). For inference in one float format: training
wants the published parameters, and a host's scaled 8-bit layers bring one scale each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...functional.rope import rotate
from ...state.session import KeysValues
from .attention import CrossAttention, RMSNorm, SelfAttention, split_heads
from .scaled_linear import ScaledLinear

if TYPE_CHECKING:
    from .fusion import DualStreamDiT


def fuse_projections(model: DualStreamDiT) -> DualStreamDiT:
    """Join the projections of all layers, in place and one after the other; returns the model.

    Weights stay on their devices. Nothing happens to layers that are joined already.
    """
    for layer in model.layers:
        for stream in (layer.video, layer.audio):
            if not isinstance(stream.self_attn, FusedSelfAttention):
                stream.self_attn = FusedSelfAttention(stream.self_attn)
                stream.cross_attn = FusedCrossAttention(stream.cross_attn)
    return model


class FusedSelfAttention(SelfAttention):
    """`SelfAttention` with one product for queries, keys and values."""

    def __init__(self, plain: SelfAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = plain.num_heads
        self.qkv = _joined(plain.q, plain.k, plain.v)
        self.o = plain.o
        self.norm_qk = _NormPair(plain.norm_q, plain.norm_k)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `SelfAttention.project`."""
        qk, v = self.qkv(x).tensor_split((2 * x.shape[-1],), dim=-1)
        qk = rotate(split_heads(self.norm_qk(qk), 2 * self.num_heads), rotary)
        q, k = qk.chunk(2, dim=2)
        return q.to(x.dtype), k, split_heads(v, self.num_heads)


class FusedCrossAttention(CrossAttention):
    """`CrossAttention` with one product for keys and values of the other stream.

    Those of the prompt are made once, and stay as they are.
    """

    def __init__(self, plain: CrossAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = plain.num_heads
        kv_fusion = _joined(plain.k_fusion, plain.v_fusion)
        for name, module in plain.named_children():
            if module not in (plain.k_fusion, plain.v_fusion):
                self.add_module(name, module)
        self.kv_fusion = kv_fusion

    def fusion_keys(self, other: Tensor, rotary: Tensor) -> KeysValues:
        """See `CrossAttention.fusion_keys`."""
        k, v = self.kv_fusion(self.pre_attn_norm_fusion(other)).chunk(2, dim=-1)
        k = rotate(split_heads(self.norm_k_fusion(k), self.num_heads), rotary)
        return k, split_heads(v, self.num_heads)


class _NormPair(RMSNorm):
    """Two norms beside each other: [..., 2 * dim], each half by itself."""

    def __init__(self, first: RMSNorm, second: RMSNorm) -> None:
        nn.Module.__init__(self)
        self.eps = first.eps
        self.weight = _below(first.weight, second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 2 * dim] to [..., 2 * dim]."""
        halves = x.unflatten(-1, (2, -1))
        normed = functional.rms_norm(halves, halves.shape[-1:], eps=self.eps)
        return normed.flatten(-2) * self.weight.to(x)


def _joined(*linears: nn.Linear) -> nn.Linear:
    """A layer of the same kind, whose rows are those of all."""
    first = linears[0]
    rows = sum(linear.out_features for linear in linears)
    joined = type(first)(first.in_features, rows, device="meta", dtype=first.weight.dtype)
    joined.weight = _below(*(linear.weight for linear in linears))
    joined.bias = _below(*(linear.bias for linear in linears))
    if isinstance(joined, ScaledLinear):
        joined.take_scales(linears)
    return joined


def _below(*parameters: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([p.detach() for p in parameters]), requires_grad=False)
