"""Who may look at whom when a clip is seen at once: block-causal with look-ahead (spec 01 §6.2).

A query of block b sees the keys of blocks 0..b and `lookahead` keys more: always a prefix of the
keys. So the network needs no mask, only the length of each block's prefix; the dense mask is a
picture of the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PADDING_MULTIPLE = 128
"""The reference pads keys with zeros to a multiple of this and lets some of them be seen."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Queries [first, end) see the first `keys` keys, and `zeros` zero keys of the padding."""

    first: int
    end: int
    keys: int
    zeros: int = 0


@dataclass(frozen=True, slots=True)
class BlockCausal:
    """q, kv: tokens per block on either side; lookahead: keys seen beyond the own block.

    `zero_padding` shows the reference's zero keys, for comparison only (spec 01 §6.2).
    """

    q: int
    kv: int
    lookahead: int = 0
    zero_padding: bool = False

    def prefixes(self, num_queries: int, num_keys: int) -> tuple[Prefix, ...]:
        """One entry per block of queries; the last block may be incomplete."""
        padded = _padded(num_keys) if self.zero_padding else num_keys
        found: list[Prefix] = []
        for block, first in enumerate(range(0, num_queries, self.q)):
            horizon = min((block + 1) * self.kv + self.lookahead, padded)
            keys = min(horizon, num_keys)
            end = min(first + self.q, num_queries)
            found.append(Prefix(first, end, keys, horizon - keys))
        return tuple(found)

    def picture(self, num_queries: int, num_keys: int) -> Tensor:
        """Dense bool [num_queries, keys], True where allowed; with `zero_padding`, padded keys."""
        columns = _padded(num_keys) if self.zero_padding else num_keys
        seen = [
            torch.full((p.end - p.first,), p.keys + p.zeros)
            for p in self.prefixes(num_queries, num_keys)
        ]
        return torch.arange(columns) < torch.cat(seen)[:, None]


def _padded(count: int) -> int:
    return -(-count // PADDING_MULTIPLE) * PADDING_MULTIPLE
