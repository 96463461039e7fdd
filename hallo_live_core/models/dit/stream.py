"""One stream's half of a layer: it looks at itself, meets prompt and other stream, then thinks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...config import StreamConfig
from ...state.session import KeysValues, TimeRows
from .attention import CrossAttention, Ops, SelfAttention
from .modulation import (
    BlockModulation,
    ModulationTable,
    add_gated,
    block_modulation,
    modulated_norm,
)
from .visibility import Visible


@dataclass(frozen=True, slots=True)
class LayerInput:
    """What one stream brings to one layer besides its tokens.

    projection: [b, g, 6, dim], the embedded timestep of each of g equal groups of tokens.
    rotary: [l, d/2, 2]. text: prompt tokens [b, text_len, dim], or their keys and values.
    """

    projection: Tensor
    rotary: Tensor
    text: Tensor | KeysValues


@dataclass(frozen=True, slots=True)
class StreamInput:
    """What one stream brings to all layers of a call; without `text_keys` layers make their own."""

    times: TimeRows
    rotary: Tensor
    text: Tensor
    text_keys: tuple[KeysValues, ...] = ()

    def layer(self, index: int) -> LayerInput:
        """The part that layer number `index` needs."""
        text = self.text_keys[index] if self.text_keys else self.text
        return LayerInput(self.times.projection, self.rotary, text)


class StreamBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward of one stream in one layer."""

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
        place = {"device": device, "dtype": dtype}
        self.eps = config.eps
        self.modulation = ModulationTable(6, config.dim, **place)
        self.self_attn = SelfAttention(config, ops=ops, **place)
        self.norm3 = ops.LayerNorm(config.dim, eps=config.eps, **place)
        self.cross_attn = CrossAttention(config, other_dim, ops=ops, **place)
        self.ffn = nn.Sequential(
            ops.Linear(config.dim, config.ffn_dim, **place),
            nn.GELU(approximate="tanh"),
            ops.Linear(config.ffn_dim, config.dim, **place),
        )

    def modulate(self, given: LayerInput) -> BlockModulation:
        """Shifts, scales and gates of this layer."""
        return block_modulation(self.modulation, given.projection)

    def look(self, x: Tensor, mod: BlockModulation, rotary: Tensor, visible: Visible) -> Tensor:
        """Self-attention. x: [b, l, dim]."""
        normed = modulated_norm(x, mod.shift_1, mod.scale_1, self.eps)
        return add_gated(x, mod.gate_1, self.self_attn(normed, rotary, visible))

    def meet(self, x: Tensor, given: LayerInput, other: KeysValues, visible: Visible) -> Tensor:
        """Cross-attention to the prompt and to `other` (`cross_attn.fusion_keys`); no gate."""
        text = given.text
        keys = self.cross_attn.text_keys(text) if isinstance(text, Tensor) else text
        return x + self.cross_attn(self.norm3(x), given.rotary, keys, other, visible)

    def think(self, x: Tensor, mod: BlockModulation) -> Tensor:
        """Feed-forward."""
        normed = modulated_norm(x, mod.shift_2, mod.scale_2, self.eps)
        return add_gated(x, mod.gate_2, self.ffn(normed))
