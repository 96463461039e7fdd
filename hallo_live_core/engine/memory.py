"""What a run takes of which device's memory, known before anything is allocated.

Weights, caches and the state of the video decoder are exact. Activations and workspaces are
estimates that lie above what the networks' own tensors need at most; what libraries take for
themselves is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ..config import StreamSettings, TransformerConfig
from ..devices import Placement
from ..functional.blocks import ClipPlan
from ..functional.request import plan_request
from ..models.video_vae.interface import VideoDecoder
from ..models.video_vae.latents import SPATIAL_COMPRESSION
from ..state.session import SessionShape, cache_nbytes, session_nbytes
from ..types import Request

ACTIVATION_WIDTHS = 14
"""Tensors of model width that one layer holds at a time, besides the hidden layer of its MLP."""

AUDIO_WORKSPACE = 50 * 10**6
"""Bytes that the published audio decoder takes to render a block and what is before it."""

DECODING_STREAMS = 2
"""CUDA streams that decode beside the passes (`decoding.turns`): each keeps a workspace."""

TRANSFORMER, VIDEO, AUDIO, TEXT = "transformer", "video decoder", "audio decoder", "text encoder"
"""The parts, as tables name them."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that takes memory. exact: not an estimate."""

    name: str
    nbytes: int
    device: torch.device
    is_weights: bool
    exact: bool


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Everything that a run needs at once."""

    needs: tuple[Need, ...]

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where something is needed, in order of the parts."""
        return tuple(dict.fromkeys(need.device for need in self.needs))

    def run_on(self, device: torch.device) -> int:
        """Bytes besides weights on one device."""
        return sum(
            need.nbytes for need in self.needs if need.device == device and not need.is_weights
        )

    def total_on(self, device: torch.device) -> int:
        """Bytes on one device, weights included."""
        return sum(need.nbytes for need in self.needs if need.device == device)


@dataclass(frozen=True, slots=True)
class PartSizes:
    """What must be known of the parts; weights in bytes by part, those that are absent left out."""

    transformer: TransformerConfig | None
    video_decoder: VideoDecoder | None
    weights: Mapping[str, int]


def memory_budget(
    parts: PartSizes, request: Request, settings: StreamSettings, placement: Placement
) -> MemoryBudget:
    """All needs of one clip with these parts.

    Raises:
        RequestError: the request cannot work.
    """
    return MemoryBudget(
        (
            *_weights(parts, placement),
            *_transformer(parts, request, settings, placement),
            *_decoders(parts, request, placement),
        )
    )


def session_shape(request: Request, plan: ClipPlan, settings: StreamSettings) -> SessionShape:
    """The session that a request opens."""
    height, width = latent_size(request)
    return SessionShape(
        plan,
        height,
        width,
        fp8_cache=settings.fp8_cache,
        keeps_video=request.looks_back,
    )


def latent_size(request: Request) -> tuple[int, int]:
    """Height and width of the video latents."""
    return request.height // SPATIAL_COMPRESSION, request.width // SPATIAL_COMPRESSION


def weight_nbytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def activation_nbytes(
    config: TransformerConfig, shape: SessionShape, dtype: torch.dtype, *, ranks: int = 1
) -> int:
    """Estimate of what the longest pass of the transformer holds besides weights and session.

    ranks: how many devices share the picture's tokens, by whole latents.
    """
    latents = -(-shape.plan.sizes.video_latents // ranks)
    tokens = latents * shape.tokens_per_latent(config) + shape.plan.remembered.audio_horizon
    width = config.video.ffn_dim + ACTIVATION_WIDTHS * config.video.dim
    return shape.batch * tokens * width * dtype.itemsize


def _weights(parts: PartSizes, placement: Placement) -> Iterator[Need]:
    where = {
        TRANSFORMER: (placement.transformer, *placement.sharers),
        VIDEO: (placement.decoder,),
        AUDIO: (placement.decoder,),
        TEXT: (placement.text_encoder,),
    }
    for part, nbytes in parts.weights.items():
        for device in where[part]:
            yield Need(f"weights of the {part}", nbytes, device, is_weights=True, exact=True)


def _transformer(
    parts: PartSizes, request: Request, settings: StreamSettings, placement: Placement
) -> Iterator[Need]:
    config, dtype = parts.transformer, placement.dtype
    if config is None:
        return
    plan = plan_request(request, settings, rope_rows=config.rope_rows)
    shape = session_shape(request, plan, settings)
    devices = (placement.transformer, *placement.sharers)
    caches = cache_nbytes(config, shape, dtype)
    rest = session_nbytes(config, shape, dtype) - caches
    activations = activation_nbytes(config, shape, dtype, ranks=len(devices))
    for device in devices:
        for name, nbytes, exact in (
            ("caches of keys and values", caches, True),
            ("prompt and tables of a session", rest, True),
            ("activations of a pass", activations, False),
        ):
            yield Need(name, nbytes, device, is_weights=False, exact=exact)


def _decoders(parts: PartSizes, request: Request, placement: Placement) -> Iterator[Need]:
    device, dtype = placement.decoder, placement.decoder_dtype
    if (video := parts.video_decoder) is not None:
        size = (1, *latent_size(request))
        state = video.state_nbytes(*size, dtype)
        streams = DECODING_STREAMS if placement.decodes_by_priority else 1
        work = (video.working_nbytes(*size, dtype) - state) * streams
        yield Need("state of the video decoder", state, device, is_weights=False, exact=True)
        yield Need("workspace of the video decoder", work, device, is_weights=False, exact=False)
    if AUDIO in parts.weights:
        yield Need(
            "workspace of the audio decoder",
            AUDIO_WORKSPACE,
            device,
            is_weights=False,
            exact=False,
        )
