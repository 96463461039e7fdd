"""Checks of training: what one step of each phase computes, and its gradients (spec 06)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from hallo_live_core.functional.solvers import euler_table, unipc_table
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.sampling.teacher import Guidance, TeacherSettings
from hallo_live_core.state.kv_cache import HistoryGradient
from hallo_live_core.types import TextContext
from training.draws import RolloutDraw, ScoreDraw
from training.losses.critic import critic_loss
from training.losses.dmd import DMDSettings, ask_scores, dmd_loss, stream_gradients
from training.losses.ode import clean_prediction, noisy_clips, ode_loss, predict
from training.ode_sampling import sample_trajectory
from training.rollout import (
    RolloutSettings,
    roll_out,
    roll_out_for_gradient,
)
from training.schedules import (
    ScoreTimeSettings,
    exit_interval,
    guidance_range,
    score_range,
    score_timesteps,
)
from training.scores import clean_of, noised, predict_flow
from training.types import Latents, Prompts

from .core_models import skipped
from .harness import Golden
from .train_models import (
    FORWARD,
    SCORE_GRADIENT,
    RecordedNoise,
    assert_close,
    assert_same_gradients,
    blocks_of,
    load,
    pair_of,
    schedule_of,
    shape_of,
    text_of,
    weights_of,
)

VARIANTS: tuple[tuple[HistoryGradient, bool, str], ...] = (
    ("straight_through", False, "grad"),
    ("detached", False, "grad_nohist"),
    ("detached", True, "grad_nohist"),
)
"""How history lets gradients through, whether blocks are recomputed, and what to compare with."""


def assert_pair(golden: Golden, found: Latents, name: str, tolerance: float = FORWARD) -> None:
    for stream, tensor in zip(("video", "audio"), found, strict=True):
        assert_close(tensor, golden, name.format(stream), tolerance)


def check_ode_sampling(golden: Golden) -> None:
    c = golden.meta["config"]
    teacher = load(golden, "real_score").requires_grad_(False)
    settings = TeacherSettings(
        num_steps=c["sample_steps"],
        solver=c["solver"],
        shift=c["shift"],
        video_guidance=c["video_guidance_scale"],
        audio_guidance=c["audio_guidance_scale"],
        skip_layer=skipped(c["slg_layer"], teacher.config.num_layers),
    )
    guidance = Guidance(
        TextContext.shared(golden["in.cond"][None]),
        TextContext(golden["in.uncond_video"][None], golden["in.uncond_audio"][None]),
    )
    noise = Latents(
        rearrange(golden["in.video_noise"], "c f h w -> 1 f c h w"), golden["in.audio_noise"][None]
    )
    stored = tuple(c["stored_states"])
    found = sample_trajectory(teacher, noise, guidance, settings, stored)
    assert_pair(golden, found, "out.{}_ode")
    make = {"euler": euler_table, "unipc": unipc_table}[settings.solver]
    table = make(settings.num_steps, settings.shift)
    assert_close(torch.tensor(table.sigmas), golden, "out.sigmas", 1e-6)
    assert_close(torch.tensor(table.timesteps), golden, "out.timesteps", 1e-6)


def check_ode_init(golden: Golden) -> None:
    check_ode_variant(golden, "out", zero_padding=True)
    if "out.nopad.loss" in golden:
        check_ode_variant(golden, "out.nopad", zero_padding=False)


def check_ode_variant(golden: Golden, prefix: str, *, zero_padding: bool) -> None:
    student, schedule, blocks = load(golden, "generator"), schedule_of(golden), blocks_of(golden)
    trajectory, text = pair_of(golden, "in.{}_ode"), text_of(golden)
    states = golden["in.video_index"][:, :: blocks.video_latents]
    spread = states.repeat_interleave(blocks.audio_latents, dim=1)
    assert torch.equal(spread, golden["in.audio_index"])
    assert_close(torch.tensor(schedule.steps), golden, "in.step_list", 1e-6)
    noisy = noisy_clips(trajectory, states, blocks, schedule)
    flow = predict(student, noisy, text, blocks, zero_padding=zero_padding)
    clean = clean_prediction(noisy, flow, schedule)
    assert_pair(golden, clean, f"{prefix}.{{}}_x0")
    loss = ode_loss(
        student,
        trajectory,
        states,
        text,
        blocks=blocks,
        schedule=schedule,
        weights=weights_of(golden),
        zero_padding=zero_padding,
    )
    loss.total.backward()
    assert_close(loss.total, golden, f"{prefix}.loss")
    kind = prefix.removeprefix("out").removeprefix(".")
    kind = f"{kind}." if kind else ""
    assert_same_gradients(golden, student, f"{kind}grad", f"{kind}grad_norm_all")
    if not kind:
        assert_pair(golden, noisy.latents, "out.{}_noisy")
        assert_pair(golden, noisy.times, "out.{}_timestep")
        assert_pair(golden, flow, "out.{}_flow")
        assert_close(loss.metrics["video_loss"], golden, "out.video_loss")
        assert_close(loss.metrics["audio_loss"], golden, "out.audio_loss")
        assert_close(loss.metrics["video_errors"], golden, "out.unnormalized_loss")


def check_self_rollout(golden: Golden) -> None:
    c, shape, text = golden.meta["config"], shape_of(golden), text_of(golden)
    exits = tuple(int(e) for e in golden["in.exit_flags"])
    if c["same_step_across_blocks"]:
        exits = exits[:1] * shape.clip.plan.num_blocks
        interval = exit_interval(shape.schedule, exits[0])
        assert list(interval) == golden["out.denoised_from_to"].tolist()
    draw = RolloutDraw(RecordedNoise(golden), exits)
    for history, recompute, kind in VARIANTS:
        student = load(golden, "generator")
        calls = record_calls(student)
        settings = RolloutSettings(history_gradient=history, recompute=recompute)
        rollout = roll_out_for_gradient(student, text, shape, draw, settings)
        assert_pair(golden, rollout.latents, "out.{}")
        check_calls(golden, calls, recompute)
        squares = sum(x.square().sum() for x in rollout.latents)
        assert_close(squares, golden, "out.sum_of_squares")
        rollout.backward(Latents(*(2 * x for x in rollout.latents)))
        assert_same_gradients(golden, student, kind, f"{kind}_norm_all")
    assert_pair(golden, roll_out(student, text, shape, draw), "out.{}")


Calls = list[tuple[bool, float, int]]
"""Of every call: whether it built a graph, the timestep of the picture, audio latents."""


def record_calls(student: DualStreamDiT) -> Calls:
    calls: Calls = []
    forward, settle = student.forward, student.settle

    def note(audio: Tensor, how) -> None:
        times = how.video_times
        first = float(times.flatten()[0]) if isinstance(times, Tensor) else times[0][0]
        calls.append((torch.is_grad_enabled(), first, audio.shape[1]))

    def recorded(video, audio, how):
        note(audio, how)
        return forward(video, audio, how)

    def recorded_settle(video, audio, how):
        note(audio, how)
        return settle(video, audio, how)

    student.forward, student.settle = recorded, recorded_settle
    return calls


def check_calls(golden: Golden, calls: Calls, recompute: bool) -> None:
    """The reference also makes a clean pass after the last block; we leave it out."""
    graph, times, lengths = (list(column) for column in zip(*calls, strict=True))
    stated, context = golden["out.call_grad_enabled"].tolist(), schedule_of(golden).context
    assert stated[-1] == 0
    assert graph == ([False] * len(calls) if recompute else [bool(x) for x in stated[:-1]])
    assert_close(torch.tensor([*times, context]), golden, "out.call_video_timestep", 1e-6)
    assert [*lengths, lengths[-1]] == golden["out.call_audio_len"].tolist()


def score_times_of(golden: Golden) -> ScoreTimeSettings:
    c = golden.meta["config"]
    settings = ScoreTimeSettings(
        shift=c["shift"],
        lowest=c.get("min_score_timestep", 0),
        from_exit=c.get("ts_schedule", True),
        up_to_exit=c.get("ts_schedule_max", False),
    )
    assert settings.clamp == (c["min_step"], c["max_step"])
    return settings


def check_dmd_generator_step(golden: Golden) -> None:
    c, shape = golden.meta["config"], shape_of(golden)
    exit_index, decoupled = int(golden["in.exit_index"]), c["use_decoupled_dmd"]
    interval = exit_interval(shape.schedule, exit_index)
    assert list(interval) == golden["out.denoised_from_to"].tolist()
    times = score_times_of(golden)
    draw = ScoreDraw(
        golden["in.raw_timestep"],
        pair_of(golden, "in.dmd_{}_noise"),
        golden["in.raw_timestep_ca"] if decoupled else None,
    )
    low, high = score_range(times, interval)
    assert ((low <= draw.raw) & (draw.raw < high)).all()
    settings = DMDSettings(c["video_guidance_scale"], c["audio_guidance_scale"], decoupled)
    teacher = load(golden, "real_score").requires_grad_(False)
    critic = load(golden, "fake_score")
    prompts = Prompts(text_of(golden), text_of(golden, "uncond"))
    exits = (exit_index,) * shape.clip.plan.num_blocks
    for history, recompute, kind in VARIANTS:
        student = load(golden, "generator")
        rollout = roll_out_for_gradient(
            student,
            prompts.positive,
            shape,
            RolloutDraw(RecordedNoise(golden), exits),
            RolloutSettings(history_gradient=history, recompute=recompute),
        )
        clips = rollout.latents
        assert_pair(golden, clips, "out.{}")
        scores = ask_scores(
            teacher, critic, clips, prompts, draw, schedule=shape.schedule, times=times
        )
        gradients = stream_gradients(clips, scores, settings)
        loss = dmd_loss(gradients, weights_of(golden))
        rollout.backward(loss.gradient)
        assert_same_gradients(golden, student, kind, f"{kind}_norm_all")
    assert all(p.grad is None for p in critic.parameters())
    check_noising(golden, clips, draw, times)
    if decoupled:
        low, high = guidance_range(times, interval)
        assert ((low <= draw.guidance_raw) & (draw.guidance_raw < high)).all()
        assert_pair(golden, scores.guide, "out.real_ca_cond_{}_x0")
        assert_pair(golden, scores.guide_away, "out.real_ca_uncond_{}_x0")
    assert_pair(golden, scores.fake, "out.fake_{}_x0")
    assert_pair(golden, scores.towards, "out.real_cond_{}_x0")
    assert_pair(golden, scores.away, "out.real_uncond_{}_x0")
    for stream, found in zip(("video", "audio"), gradients, strict=True):
        assert_close(found.raw, golden, f"out.{stream}_grad_raw", SCORE_GRADIENT)
        assert_close(found.normalised, golden, f"out.{stream}_grad", SCORE_GRADIENT)
        name = f"out.{stream}_gradient_norm"
        assert_close(loss.metrics[f"{stream}_gradient"], golden, name, SCORE_GRADIENT)
        assert_close(loss.metrics[f"{stream}_loss"], golden, f"out.{stream}_loss", SCORE_GRADIENT)
    assert_close(loss.metrics["loss"], golden, "out.loss", SCORE_GRADIENT)
    assert loss.metrics["nonfinite"] == 0


def check_noising(
    golden: Golden, clips: Latents, draw: ScoreDraw, times: ScoreTimeSettings
) -> None:
    for raw, ending in ((draw.raw, ""), (draw.guidance_raw, "_ca")):
        if raw is None:
            continue
        timesteps = score_timesteps(raw, times)
        assert_close(timesteps, golden, f"out.timestep{ending}", 1e-6)
        noisy = noised(clips, draw.noise, timesteps, schedule_of(golden))
        assert_pair(golden, noisy, f"out.{{}}_noisy{ending}")


def check_critic_step(golden: Golden) -> None:
    critic, schedule = load(golden, "fake_score"), schedule_of(golden)
    times, clips, text = score_times_of(golden), pair_of(golden, "in.{}"), text_of(golden)
    draw = ScoreDraw(golden["in.raw_timestep"], pair_of(golden, "in.{}_noise"))
    check_noising(golden, clips, draw, times)
    timesteps = score_timesteps(draw.raw, times)
    noisy = noised(clips, draw.noise, timesteps, schedule)
    flow = predict_flow(critic, noisy, text, timesteps)
    assert_pair(golden, flow, "out.{}_flow", SCORE_GRADIENT)
    assert_pair(golden, clean_of(noisy, flow, timesteps, schedule), "out.{}_x0")
    loss = critic_loss(
        critic, clips, text, draw, schedule=schedule, times=times, weights=weights_of(golden)
    )
    loss.total.backward()
    assert_close(loss.metrics["video_loss"], golden, "out.video_loss")
    assert_close(loss.metrics["audio_loss"], golden, "out.audio_loss")
    assert_close(loss.total, golden, "out.loss")
    assert_same_gradients(golden, critic)


CHECKS = {
    "ode_sampling": check_ode_sampling,
    "ode_init": check_ode_init,
    "self_rollout": check_self_rollout,
    "dmd_generator_step": check_dmd_generator_step,
    "critic_step": check_critic_step,
}
