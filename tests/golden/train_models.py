"""Networks, clips and draws of golden files of the area `train`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hallo_live_core.config import BlockSizes, ScheduleConfig, TransformerConfig
from hallo_live_core.functional.blocks import Block, ClipPlan
from hallo_live_core.functional.noise import ClipShape
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.dit.weights import config_from_state_dict, to_module
from hallo_live_core.types import TextContext
from training.rollout import RolloutShape
from training.trainable import published_parameters
from training.types import Latents, StreamWeights

from .facts import Facts
from .harness import Golden

WIDE = torch.float64

FORWARD, SCORE_GRADIENT, PARAMETER_GRADIENT = 2e-5, 5e-5, 2e-4
"""Largest difference over the largest value, as the README accepts it."""

PREFIX = "model."
"""Of every parameter name in a generator checkpoint."""


def assert_close(found: Tensor, golden: Golden, name: str, tolerance: float = FORWARD) -> None:
    stated = golden[name].double()
    found = found.detach().double()
    assert found.shape == stated.shape, f"{name}: {tuple(found.shape)} {tuple(stated.shape)}"
    error = float((found - stated).abs().max() / stated.abs().max().clamp_min(1e-30))
    assert error <= tolerance, f"{name}: {error:.1e} > {tolerance:.0e}"


def assert_same_gradients(
    golden: Golden, model: nn.Module, kind: str = "grad", norm: str = "grad_norm_all"
) -> None:
    """What lies on the parameters, and its norm; a parameter that got none counts as 0."""
    found = {name: p.grad for name, p in published_parameters(model).items()}
    got = [g for g in found.values() if g is not None]
    total = torch.stack([g.norm() for g in got]).norm()
    assert_close(total, golden, f"out.{norm}", PARAMETER_GRADIENT)
    stated = golden.group(f"out.{kind}")
    assert stated
    for name, expected in stated.items():
        gradient = found[name.removeprefix(PREFIX)]
        gradient = torch.zeros_like(expected) if gradient is None else gradient
        assert_close(gradient, golden, f"out.{kind}.{name}", PARAMETER_GRADIENT)


def load(golden: Golden, role: str) -> DualStreamDiT:
    """One of the file's networks in float64, all of it learning."""
    c = golden.meta["config"]
    weights = golden.group(f"sd.{role}")
    named = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    heads = (c["v_heads"], c["a_heads"])
    found = config_from_state_dict(named, num_heads=heads, text_len=c["text_len"])
    config = replace(
        found,
        video=replace(found.video, eps=c["eps"]),
        audio=replace(found.audio, eps=c["eps"]),
        audio_rope_scale=c["temporal_rope_scaling_factor_audio"],
    )
    assert_stated(config, c)
    model = DualStreamDiT(config, device="meta")
    model.load_state_dict(to_module(named), assign=True)
    return model.requires_grad_(True)


def assert_stated(config: TransformerConfig, c: Facts) -> None:
    """What the file says of the network is what its weights say; there are no variants of norms."""
    found: dict[str, object] = {"layers": config.num_layers, "head_dim": config.video.head_dim}
    for letter, name, stream in (("v", "video", config.video), ("a", "audio", config.audio)):
        found |= {f"{name}_dim": stream.dim, f"{letter}_heads": stream.num_heads}
        found |= {f"{letter}_ffn": stream.ffn_dim, f"{letter}_ch": stream.in_channels}
        found |= {f"patch_size_{name}": list(stream.patch)}
        found |= {"freq_dim": stream.freq_dim, "text_dim": stream.text_dim}
    found |= {"qk_norm": True, "cross_attn_norm": True}
    assert {name: c.get(name, value) for name, value in found.items()} == found


def schedule_of(golden: Golden) -> NoiseSchedule:
    c = golden.meta["config"]
    context = c.get("context_noise", 0)
    return NoiseSchedule(
        ScheduleConfig(shift=c["shift"], steps=tuple(c["steps"]), context_timestep=context)
    )


def blocks_of(golden: Golden) -> BlockSizes:
    c = golden.meta["config"]
    return BlockSizes(c["v_blk"], c["a_blk"], c["lookahead"])


def shape_of(golden: Golden) -> RolloutShape:
    c, batch = golden.meta["config"], len(golden["in.video_noise"])
    plan = ClipPlan.of(c["F"], c["L"], blocks_of(golden))
    clip = ClipShape(plan, (c["v_ch"], c["H"], c["W"]), c["a_ch"], batch=batch)
    return RolloutShape(clip, schedule_of(golden), WIDE)


def text_of(golden: Golden, name: str = "cond") -> TextContext:
    return TextContext(golden[f"in.{name}_video"], golden[f"in.{name}_audio"])


def pair_of(golden: Golden, name: str) -> Latents:
    """name with a place for the stream, such as "in.{}_noise"."""
    return Latents(golden[name.format("video")], golden[name.format("audio")])


def weights_of(golden: Golden) -> StreamWeights:
    c = golden.meta["config"]
    return StreamWeights(c["video_loss_weight"], c["audio_loss_weight"])


class RecordedNoise:
    """The noises that the reference drew in a rollout."""

    def __init__(self, golden: Golden) -> None:
        self.golden = golden

    def initial_video(self, block: Block) -> Tensor:
        return self.golden["in.video_noise"][:, block.first_video : block.end_video]

    def initial_audio(self, block: Block) -> Tensor:
        return self.golden["in.audio_noise"][:, block.first_audio : block.end_audio]

    def fresh(self, block: Block, step: int) -> tuple[Tensor, Tensor]:
        return pair_of(self.golden, f"in.block{block.index}.step{step}.{{}}_renoise")
