"""Checks of schedule, solver tables, masks, rotation, norms and the embedding of sound."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from hallo_live_core.config import StreamConfig
from hallo_live_core.functional.masks import BlockCausal
from hallo_live_core.functional.rope import (
    audio_angles,
    axis_widths,
    cos_sin,
    rotary_angles,
    rotate,
    video_table,
)
from hallo_live_core.functional.schedule import (
    add_noise,
    clean_from_flow,
    flow_from_clean,
)
from hallo_live_core.functional.solvers import euler_table, unipc_table
from hallo_live_core.models.dit.attention import RMSNorm
from hallo_live_core.models.dit.modality import AudioEmbedding
from hallo_live_core.models.dit.modulation import sinusoid

from .core_models import schedule_of
from .harness import Golden, assert_max_abs, assert_rel_l2


def check_scheduler(golden: Golden) -> None:
    schedule, meta = schedule_of(golden), golden.meta
    assert (meta["sigma_min"], meta["sigma_max"], meta["extra_one_step"]) == (0, 1, True)
    for name, found in {
        "sigmas": schedule.sigmas,
        "timesteps": schedule.timesteps,
        "warped_steps": torch.tensor(schedule.steps),
    }.items():
        assert_table(found, golden[f"out.{name}"], name)
    # Near zero a weight is the difference of two float32 exponentials, so the whole is compared.
    assert_rel_l2(schedule.loss_weights, golden["out.loss_weights"], "loss_weights")
    t = golden["in.t"].float()
    torch.testing.assert_close(schedule.index(t), golden["out.index"], rtol=0, atol=0)
    sigma = schedule.sigmas_at(t)
    for stream in ("video", "audio"):
        noisy, flow = golden[f"in.x_t.{stream}"], golden[f"in.velocity.{stream}"]
        clean = golden[f"out.x0.{stream}"]
        assert_rel_l2(clean_from_flow(noisy, flow, sigma), clean, "x0")
        # At the smallest sigma the difference of two stored float32 tensors is divided by 0.005.
        back = flow_from_clean(noisy, clean, sigma)
        assert_rel_l2(back, golden[f"out.velocity_back.{stream}"], "velocity", tol=2e-5)
        assert_rel_l2(add_noise(clean, flow, sigma), golden[f"out.add_noise.{stream}"], "noise")
    for solver, table in (("euler", euler_table), ("unipc", unipc_table)):
        for name in [n for n in golden.tensors if n.startswith(f"out.{solver}")]:
            steps = int(name.split(".")[1].removeprefix(solver))
            found = table(steps, golden.meta["timestep_shift"])
            stated = golden[name]
            values = found.sigmas if name.endswith("sigmas") else found.timesteps
            if not stated.is_floating_point():
                assert list(values) == stated.tolist(), name
            assert_table(torch.tensor(values), stated, name)


def assert_table(found: Tensor, stated: Tensor, name: str) -> None:
    assert found.shape == stated.shape, name
    torch.testing.assert_close(
        found.double(), stated.double(), rtol=1e-6, atol=1e-9, msg=lambda m: f"{name}: {m}"
    )


def check_masks(golden: Golden) -> None:
    for name, layout in golden.meta["layouts"].items():
        for mask, rule, queries, keys in masks_of(layout):
            picture = rule.picture(queries, keys)
            stated = golden[f"mask.{name}.{mask}"].bool()
            assert torch.equal(picture, stated), f"mask.{name}.{mask}"
            real = BlockCausal(rule.q, rule.kv, rule.lookahead).picture(queries, keys)
            assert torch.equal(real, stated[:, :keys]), f"mask.{name}.{mask} of real keys"


def masks_of(layout: dict) -> Iterator[tuple[str, BlockCausal, int, int]]:
    s, a = layout["tokens_per_frame"], layout["audio_latents"]
    v, vb, ab = (
        layout["video_frames"] * s,
        layout["video_frames_per_block"] * s,
        layout["audio_latents_per_block"],
    )
    yield "video_self", BlockCausal(vb, vb, zero_padding=True), v, v
    yield "audio_self", BlockCausal(ab, ab, zero_padding=True), a, a
    for lookahead in layout["lookaheads"]:
        rule = BlockCausal(vb, ab, lookahead, zero_padding=True)
        yield f"L{lookahead}.video_to_audio", rule, v, a
        yield f"L{lookahead}.audio_to_video", BlockCausal(ab, vb, zero_padding=True), a, v


def check_primitives(golden: Golden) -> None:
    check_rope(golden)
    t, stated = golden["in.sinusoid.t"], golden["out.sinusoid"]
    assert_rel_l2(sinusoid(t, stated.shape[-1], torch.float64), stated, "sinusoid")
    check_norms(golden)
    check_audio_embedding(golden)


def check_rope(golden: Golden) -> None:
    head_dim, scale = golden.meta["head_dim"], golden.meta["audio_rope_scale"]
    video, audio = golden["in.rope.video"], golden["in.rope.audio"]
    stated = golden.meta["tensors"]["in.rope.video"]["what"]  # "... grid (F,H,W)=(2, 3, 4)"
    frames, height, width = map(int, re.findall(r"\d+", stated.split("=")[1]))
    for name in [n for n in golden.tensors if ".start" in n]:
        start = int(name.rsplit("start", 1)[1])
        if name.startswith("out.rope.video"):
            grid = (start + frames, height, width)
            table = video_table(grid, head_dim, device=video.device, dtype=video.dtype)
            found = rotate(video, table[start * height * width :])
        else:
            table = cos_sin(audio_angles(start + audio.shape[1], head_dim, scale))
            found = rotate(audio, table[start:])
        assert_rel_l2(found, golden[name], name)
    stated = golden["out.rope.video.angles"]
    rows = [rotary_angles(stated.shape[0], group) for group in axis_widths(head_dim)]
    assert_rel_l2(cos_sin(torch.cat(rows, dim=-1)), stated, "video angles")
    stated = golden["out.rope.audio.angles"]
    turning = audio_angles(stated.shape[0], head_dim, scale)[:, : stated.shape[1]]
    assert_rel_l2(cos_sin(turning), stated, "audio angles")


def check_norms(golden: Golden) -> None:
    x, weight, bias = (golden[f"in.norm.{n}"] for n in ("x", "weight", "bias"))
    norm = RMSNorm(x.shape[-1], 1e-6)
    norm.load_state_dict({"weight": weight}, assign=True)
    layer = torch.nn.functional.layer_norm
    shape = x.shape[-1:]
    small = golden["in.norm.x_small"]
    for name, found in {
        "rms": norm(x),
        "rms_small": norm(small),
        "layer": layer(x, shape, eps=1e-6),
        "layer_small": layer(small, shape, eps=1e-6),
        "layer_affine": layer(x, shape, weight, bias, 1e-6),
    }.items():
        assert_rel_l2(found, golden[f"out.norm.{name}"], name)
    x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    for name, found in {
        "rms_bf16": norm.bfloat16()(x),
        "layer_affine_bf16": layer(x, shape, weight, bias, 1e-6),
    }.items():
        assert_max_abs(found, golden[f"out.norm.{name}"], name, tol=0)


def check_audio_embedding(golden: Golden) -> None:
    weights = golden.group("in.audio_embed")
    x = weights.pop("x")
    dim, channels, _ = weights["0.weight"].shape
    config = StreamConfig(in_channels=channels, dim=dim, ffn_dim=1, num_heads=1, patch=(1,))
    embedding = AudioEmbedding(config, ops=torch.nn)
    embedding.load_state_dict(weights, assign=True)
    assert_rel_l2(embedding(x), golden["out.audio_embed"], "audio_embed")


CHECKS = {
    "scheduler": check_scheduler,
    "masks": check_masks,
    "primitives": check_primitives,
}
