"""Layers as compiled graphs: what stands between two matrix products becomes one kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fusion import DualStreamDiT

VARIANTS = 256
"""Block shapes that a process may compile; PyTorch stops at 8 by itself, and at 256 in any case.

Every block of a clip sees more of the past than the one before, so it is a shape of its own, and so
is each size of picture: room for fifty sizes with five blocks.
"""


def compile_blocks(
    model: DualStreamDiT,
    backend: str | Callable[..., Any] = "inductor",
    *,
    whole: bool = True,
) -> None:
    """Compile every layer, in place, when it is first called with a shape.

    Layers share what is compiled: a clip of five blocks needs five variants, whichever layer and
    step. The last layer of a context pass is left as it is, since it runs a part only.

    whole: a layer becomes one graph, or the call fails; else what no compiler knows, such as a host
    that fetches weights on the way, parts it into several.
    """
    from torch._dynamo import config  # slow to import

    config.cache_size_limit = max(config.cache_size_limit, VARIANTS)
    for layer in model.layers:
        layer.compile(backend=backend, fullgraph=whole, dynamic=False)
