"""Networks, schedules and sessions of golden files of the area `core`."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from hallo_live_core.config import BlockSizes, ScheduleConfig, TransformerConfig
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.schedule import (
    NoiseSchedule,
)
from hallo_live_core.models.dit import (
    DualStreamDiT,
)
from hallo_live_core.models.dit.weights import config_from_state_dict, to_module
from hallo_live_core.sampling.denoiser import open_session
from hallo_live_core.state.session import SessionShape, SessionState
from hallo_live_core.types import TextContext

from .harness import Golden

UNLIMITED = [-1, -1]
"""An attention window that ends nowhere, as every published config has it."""


def load(golden: Golden) -> DualStreamDiT:
    """The network of a golden file, in float64."""
    weights = golden.group("sd")
    video, audio = golden.meta["video_config"], golden.meta["audio_config"]
    found = config_from_state_dict(
        weights, num_heads=(video["num_heads"], audio["num_heads"]), text_len=video["text_len"]
    )
    assert len(weights) == golden.meta.get("n_parameters", len(weights))
    assert_same_sizes(found, golden)
    assert_layout(golden)
    config = replace(
        found,
        video=replace(found.video, eps=video["eps"]),
        audio=replace(found.audio, eps=audio["eps"], text_len=audio["text_len"]),
        audio_rope_scale=audio["temporal_rope_scaling_factor"],
    )
    model = DualStreamDiT(config, device="meta")
    model.load_state_dict(to_module(weights), assign=True)
    return model.requires_grad_(False)


def assert_same_sizes(config: TransformerConfig, golden: Golden) -> None:
    """What the weights say is what the file says."""
    names = ("dim", "ffn_dim", "freq_dim", "in_dim", "text_dim")
    for stream, stated in (
        (config.video, golden.meta["video_config"]),
        (config.audio, golden.meta["audio_config"]),
    ):
        found = (stream.dim, stream.ffn_dim, stream.freq_dim, stream.in_channels, stream.text_dim)
        assert found == tuple(stated[name] for name in names)
        assert list(stream.patch) == stated["patch_size"]
        assert config.num_layers == stated["num_layers"]
        assert stated["out_dim"] == stated["in_dim"]
        assert stated["qk_norm"] and stated["cross_attn_norm"]
        assert stated["window_size"] == UNLIMITED


def assert_layout(golden: Golden) -> None:
    """What the layout says twice agrees."""
    layout, (_, rows, columns) = golden.meta["layout"], golden.meta["video_config"]["patch_size"]
    tokens = (layout["latent_height"] // rows) * (layout["latent_width"] // columns)
    assert tokens == layout["tokens_per_frame"]
    for latents, block in (
        ("video_frames", "video_frames_per_block"),
        ("audio_latents", "audio_latents_per_block"),
    ):
        assert math.ceil(layout[latents] / layout[block]) == layout["num_blocks"]


def schedule_of(golden: Golden) -> NoiseSchedule:
    steps = tuple(golden.meta.get("denoising_step_list", ScheduleConfig().steps))
    return NoiseSchedule(
        ScheduleConfig(
            shift=golden.meta["timestep_shift"],
            num_train_timesteps=golden.meta["num_train_timesteps"],
            steps=steps,
            context_timestep=golden.meta.get("context_noise", 0),
        )
    )


def sizes_of(golden: Golden, lookahead: int) -> BlockSizes:
    layout = golden.meta["layout"]
    return BlockSizes(
        layout["video_frames_per_block"], layout["audio_latents_per_block"], lookahead
    )


def skipped(layer: int | None, num_layers: int) -> int | None:
    """The reference cannot skip its first layer, and skips none that does not exist (01 §7)."""
    return layer if layer is not None and 0 < layer < num_layers else None


def text_of(golden: Golden) -> TextContext:
    return TextContext(golden["in.video_context"], golden["in.audio_context"])


def session_of(
    golden: Golden, model: DualStreamDiT, text: TextContext, lookahead: int, **options
) -> SessionState:
    layout = golden.meta["layout"]
    plan = ClipPlan.of(layout["video_frames"], layout["audio_latents"], sizes_of(golden, lookahead))
    shape = SessionShape(
        plan, layout["latent_height"], layout["latent_width"], batch=text.video.shape[0]
    )
    schedule = schedule_of(golden)
    return open_session(model, text, shape, schedule, dtype=torch.float64, **options)
