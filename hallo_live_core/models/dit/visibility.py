"""What the queries of one attention see: the only thing in which the three ways to run differ.

Queries, keys and values come as [b, l, n, d]; keys may be wider than values, since rotation leaves
them in float32. Every object here turns them into attention output [b, l, n * d].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...functional.masks import BlockCausal
from ...state.kv_cache import LayerCache


class Attention(Protocol):
    """softmax(q k^T / sqrt(d)) v, the one function that a host may replace."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, /) -> Tensor:
        """q, k, v: [b, n, l, d]; mask: bool [b, 1, 1, keys], True where seen."""
        ...


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's own attention, which picks the best kernel that the device has."""
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Visible(Protocol):
    """What the queries of one attention may see."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Attend to the keys that may be seen."""
        ...

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Attend to all keys that are handed in: the prompt."""
        ...


@dataclass(frozen=True, slots=True)
class _WithKernel:
    """What sees the prompt, whatever else it sees."""

    attention: Attention

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Visible`."""
        return _attend(self.attention, q, k, v)


@dataclass(frozen=True, slots=True)
class Everything(_WithKernel):
    """All keys of this call; with `key_mask` [b, keys] only those of real tokens (ragged batch).

    With `window`, only the newest keys.
    """

    key_mask: Tensor | None = None
    window: int | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Visible`."""
        first = 0 if self.window is None else max(0, k.shape[1] - self.window)
        mask = None if self.key_mask is None else self.key_mask[:, None, None, first:]
        return _attend(self.attention, q, k[:, first:].to(q.dtype), v[:, first:], mask)


@dataclass(frozen=True, slots=True)
class Blockwise(_WithKernel):
    """A clip seen at once, block-causal: each block of queries sees a prefix of the keys.

    So there is no mask, and every kernel may be used.
    """

    rule: BlockCausal

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Visible`."""
        k = k.to(q.dtype)
        parts: list[Tensor] = []
        for prefix in self.rule.prefixes(q.shape[1], k.shape[1]):
            keys, values = k[:, : prefix.keys], v[:, : prefix.keys]
            if prefix.zeros:
                keys, values = _zeros_after(keys, prefix.zeros), _zeros_after(values, prefix.zeros)
            parts.append(_attend(self.attention, q[:, prefix.first : prefix.end], keys, values))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True, slots=True)
class Cached(_WithKernel):
    """The settled past and the keys of this call, which stand at token `start` of the cache."""

    cache: LayerCache
    start: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `Visible`."""
        return _attend(self.attention, q, *self.cache.extend(self.start, k, v))

    def remember(self, k: Tensor, v: Tensor) -> None:
        """Put keys and values into the cache without attending."""
        self.cache.extend(self.start, k, v)


@dataclass(frozen=True, slots=True)
class Views:
    """What is visible in the four attentions of one layer."""

    video_self: Visible
    audio_self: Visible
    video_to_audio: Visible
    audio_to_video: Visible


def _attend(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    out = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
    return out.transpose(1, 2).flatten(2)


def _zeros_after(x: Tensor, count: int) -> Tensor:
    return functional.pad(x, (0, 0, 0, 0, 0, count))
