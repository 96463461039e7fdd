"""Whether a fast way through the transformer makes the clip of the plain one; else it is void."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hallo_live_core import Request
from hallo_live_core.engine import HalloLive
from hallo_live_core.models.dit import sdpa
from hallo_live_core.models.dit.lanes import IN_TURN
from hallo_live_core.sampling.graphs import GraphedTransformer
from hallo_live_core.sampling.split import leader
from hallo_live_core.types import LatentBlock


def distance(x: Tensor, y: Tensor) -> float:
    """Relative L2."""
    wide, expected = x.double().cpu(), y.double().cpu()
    return float((wide - expected).norm() / expected.norm())


def distances(found: list[LatentBlock], expected: list[LatentBlock]) -> list[tuple[float, float]]:
    """Of every block: picture and sound."""
    pairs = zip(found, expected, strict=True)
    return [(distance(a.video, b.video), distance(a.audio, b.audio)) for a, b in pairs]


def parity(engine: HalloLive, request: Request) -> list[tuple[float, float]]:
    """How far the engine's latents, made while it decodes, are from those of the plain path.

    Same weights, in whatever format they are, and same noise. The plain path is the network in
    PyTorch's own attention, neither compiled nor recorded, on one device, and without decoding. The
    engine cannot be used afterwards: its network is the plain one.
    """
    text = engine.encode(request.prompt)
    found: list[LatentBlock] = []
    for _ in engine.stream(request, text=text, on_block=lambda block: found.append(_copy(block))):
        pass
    if isinstance(engine._transformer, GraphedTransformer):
        engine._transformer.drop()
    return distances(found, list(plain(engine).sample(request, text=text)))


def plain(engine: HalloLive) -> HalloLive:
    """The same network without what makes it faster."""
    model = leader(engine._transformer)
    model.attention, model.lanes = sdpa, IN_TURN
    for layer in model.layers:
        layer._compiled_call_impl = None
    on = replace(engine.placement, sharers=(), beside=False, decoder=engine.placement.transformer)
    return HalloLive(transformer=model, placement=on, settings=engine.settings)


def shown(blocks: list[tuple[float, float]]) -> str:
    return ", ".join(f"{video:.0e} / {audio:.0e}" for video, audio in blocks)


def _copy(block: LatentBlock) -> LatentBlock:
    """At addresses of its own: what was handed out must not be what is compared."""
    return replace(block, video=block.video.clone(), audio=block.audio.clone())
