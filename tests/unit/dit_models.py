"""Tiny transformers with random weights, shared by tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from hallo_live_core.config import BlockSizes, ScheduleConfig, StreamConfig, TransformerConfig
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import ClipShape, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import LatentBlock, TextContext

TEXT = {"freq_dim": 8, "text_dim": 6, "text_len": 5}
TINY = TransformerConfig(
    video=StreamConfig(in_channels=3, dim=24, ffn_dim=20, num_heads=2, patch=(1, 2, 2), **TEXT),
    audio=StreamConfig(in_channels=4, dim=12, ffn_dim=16, num_heads=1, patch=(1,), **TEXT),
    num_layers=2,
)
SIZES = {"dim": 128, "ffn_dim": 8, "num_heads": 1, "freq_dim": 4, "text_dim": 6}
AS_IN_FILES = TransformerConfig(
    video=StreamConfig(in_channels=48, patch=(1, 2, 2), **SIZES),
    audio=StreamConfig(in_channels=20, patch=(1,), **SIZES),
    num_layers=1,
)
"""With heads as wide as loaders expect: files do not say."""

BLOCKS = BlockSizes(video_latents=2, audio_latents=4, lookahead=0)
CPU = torch.device("cpu")


def tiny_dit(
    config: TransformerConfig = TINY, *, dtype: torch.dtype = torch.float32, **options
) -> DualStreamDiT:
    """The same random weights every time, large enough for every part to show in the output."""
    model = DualStreamDiT(config, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.ndim < 2 or "modulation" in name else parameter[0].numel() ** -0.5
        base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        values = base + scale * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(values)
    return model.requires_grad_(False)


def normal(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tiny_text(batch: int = 1, *, dtype: torch.dtype = torch.float32) -> TextContext:
    """A prompt of three tokens, other for each sample and stream."""
    return TextContext(
        normal(batch, 3, 6, seed=11, dtype=dtype), normal(batch, 3, 6, seed=12, dtype=dtype)
    )


def tiny_latents(
    blocks: int = 2, batch: int = 1, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of whole blocks: 4 x 6 pixels of picture, so 6 tokens per latent."""
    video = normal(batch, blocks * BLOCKS.video_latents, 3, 4, 6, seed=21, dtype=dtype)
    return video, normal(batch, blocks * BLOCKS.audio_latents, 4, seed=22, dtype=dtype)


def tiny_stream(
    model: DualStreamDiT,
    *,
    blocks: int | ClipPlan = 2,
    lookahead: int = 0,
    text: TextContext | None = None,
    seed: int = 5,
    dtype: torch.dtype = torch.float32,
    steps: tuple[int, ...] = (1000, 500),
    gradient: bool = False,
) -> tuple[Denoiser, SeededNoise]:
    """A session and its noise, ready for `stream_blocks`; blocks: how many, or a whole plan."""
    text = text or tiny_text(dtype=dtype)
    sizes = replace(BLOCKS, lookahead=lookahead)
    plan = blocks if isinstance(blocks, ClipPlan) else ClipPlan(sizes, blocks)
    schedule = NoiseSchedule(ScheduleConfig(steps=steps))
    shape = SessionShape(plan, 4, 6, batch=text.video.shape[0])
    state = open_session(model, text, shape, schedule, dtype=dtype, gradient=gradient)
    clip = ClipShape(plan, (3, 4, 6), 4, batch=shape.batch)
    noise = SeededNoise(clip, seed, device=text.video.device, dtype=dtype)
    return Denoiser(model, state, schedule, gradient=gradient), noise


def joined(blocks: list[LatentBlock]) -> tuple[torch.Tensor, torch.Tensor]:
    """Picture and sound of all blocks."""
    return torch.cat([b.video for b in blocks], 1), torch.cat([b.audio for b in blocks], 1)
