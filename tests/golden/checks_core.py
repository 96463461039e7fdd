"""Checks of the area `core`: transformer, schedule, masks, streaming and teacher sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from hallo_live_core.config import BlockSizes, ScheduleConfig, StreamConfig, TransformerConfig
from hallo_live_core.functional.blocks import Block, ClipPlan
from hallo_live_core.functional.masks import BlockCausal
from hallo_live_core.functional.rope import (
    audio_angles,
    axis_widths,
    cos_sin,
    rotary_angles,
    rotate,
    video_angles,
)
from hallo_live_core.functional.schedule import (
    NoiseSchedule,
    add_noise,
    clean_from_flow,
    flow_from_clean,
)
from hallo_live_core.functional.solvers import euler_table, unipc_table
from hallo_live_core.models.dit import (
    CachedPass,
    DualStreamDiT,
    MaskedPass,
    TeacherPass,
    stack_ragged,
    unstack_ragged,
)
from hallo_live_core.models.dit.attention import RMSNorm
from hallo_live_core.models.dit.modality import AudioEmbedding
from hallo_live_core.models.dit.modulation import sinusoid
from hallo_live_core.models.dit.weights import config_from_state_dict, to_module
from hallo_live_core.sampling.denoiser import Clean, Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.sampling.teacher import (
    Guidance,
    TeacherSettings,
    TeacherState,
    teacher_states,
)
from hallo_live_core.state.session import SessionShape, SessionState
from hallo_live_core.types import TextContext

from .harness import Golden, assert_max_abs, assert_rel_l2

WIDE = {"device": torch.device("cpu"), "dtype": torch.float64}


def load(golden: Golden) -> DualStreamDiT:
    """The network of a golden file, in float64."""
    weights = golden.group("sd")
    video, audio = golden.meta["video_config"], golden.meta["audio_config"]
    config = config_from_state_dict(
        weights, num_heads=(video["num_heads"], audio["num_heads"]), text_len=video["text_len"]
    )
    assert_same_sizes(config, golden)
    model = DualStreamDiT(config, device="meta")
    model.load_state_dict(to_module(weights), assign=True)
    return model.requires_grad_(False)


def assert_same_sizes(config: TransformerConfig, golden: Golden) -> None:
    """What the weights say is what the file says."""
    for stream, stated in (
        (config.video, golden.meta["video_config"]),
        (config.audio, golden.meta["audio_config"]),
    ):
        found = (stream.dim, stream.ffn_dim, stream.freq_dim, stream.in_channels, stream.text_dim)
        assert found == tuple(
            stated[k] for k in ("dim", "ffn_dim", "freq_dim", "in_dim", "text_dim")
        )
        assert list(stream.patch) == stated["patch_size"] and stream.eps == stated["eps"]
        assert config.num_layers == stated["num_layers"]
    assert config.audio_rope_scale == golden.meta["audio_config"]["temporal_rope_scaling_factor"]


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


def text_of(golden: Golden) -> TextContext:
    return TextContext(golden["in.video_context"], golden["in.audio_context"])


def assert_x0(golden: Golden, name: str, noisy: Tensor, flow: Tensor, t: Tensor) -> None:
    if name in golden:
        clean = clean_from_flow(noisy, flow, schedule_of(golden).sigmas_at(t.float()))
        assert_rel_l2(clean, golden[name], name)


def check_masked_forward(golden: Golden) -> None:
    model = load(golden)
    seen = record_middle(model)
    video, audio = golden["in.video"], golden["in.audio"]
    times = golden["in.video_timestep"], golden["in.audio_timestep"]
    for position, lookahead in enumerate(golden.meta["lookaheads"]):
        for zero_padding, prefix in (
            (True, f"out.L{lookahead}"),
            (False, f"out.L{lookahead}.clamped"),
        ):
            if f"{prefix}.video_flow" not in golden:
                continue
            how = MaskedPass(text_of(golden), *times, sizes_of(golden, lookahead), zero_padding)
            flows = model(video, audio, how)
            if position == 0 and zero_padding:
                check_middle(golden, seen)
            for stream, noisy, flow, t in zip(
                ("video", "audio"), (video, audio), flows, times, strict=True
            ):
                assert_rel_l2(flow, golden[f"{prefix}.{stream}_flow"], f"{prefix}.{stream}_flow")
                assert_x0(golden, f"{prefix}.{stream}_x0", noisy, flow, t)


def record_middle(model: DualStreamDiT) -> dict[str, Tensor]:
    """Outputs of named modules of the latest call, under the names of the golden file."""
    seen: dict[str, Tensor] = {}

    def record(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _m, _i, out: seen.__setitem__(name, out))

    for stream in ("video", "audio"):
        modality = getattr(model, stream)
        for part in ("time_embedding", "time_projection", "text_embedding"):
            record(f"mid.{stream}.{part}", getattr(modality, part))
        record(f"mid.{stream}.patch_embedding", modality.patch_embedding)
        for i, block in enumerate(model.blocks):
            for part in ("self_attn", "cross_attn", "ffn"):
                record(f"mid.{stream}.block{i}.{part}", getattr(getattr(block, stream), part))
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda _m, _i, out, i=i: seen.update(
                {f"mid.video.block{i}.out": out[0], f"mid.audio.block{i}.out": out[1]}
            )
        )
    return seen


def check_middle(golden: Golden, seen: dict[str, Tensor]) -> None:
    for name in golden.tensors:
        if not name.startswith("mid."):
            continue
        found = seen[name]
        if name.endswith(("time_embedding", "time_projection")):
            found = found.flatten(0, 1)
        if name == "mid.video.patch_embedding":
            found = rearrange(found, "b d f h w -> b (f h w) d")
        assert_rel_l2(found, golden[name], name)


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


def check_cached_forward(golden: Golden) -> None:
    model, text, lookahead = load(golden), text_of(golden), golden.meta["lookahead"]
    state = session_of(golden, model, text, lookahead)
    run_calls(golden, model, state, "out")
    check_caches(golden, state)
    if "out.win.call0.video_flow" in golden:
        window = golden.meta["window_tokens"]
        run_calls(
            golden, model, session_of(golden, model, text, lookahead, window=window), "out.win"
        )
    again = session_of(golden, model, text, lookahead)
    run_calls(golden, model, again, "out", settle_clean=True)


def run_calls(
    golden: Golden,
    model: DualStreamDiT,
    state: SessionState,
    prefix: str,
    settle_clean: bool = False,
) -> None:
    """The calls of the file in order; with `settle_clean`, clean ones by the trimmed pass."""
    for call in range(count_calls(golden)):
        video, audio = golden[f"in.call{call}.video"], golden[f"in.call{call}.audio"]
        times = golden[f"in.call{call}.video_timestep"], golden[f"in.call{call}.audio_timestep"]
        start = int(golden[f"in.call{call}.video_start_frame"].flatten()[0])
        how = CachedPass(state, start, *times)
        if settle_clean and not any(t.any() for t in times):
            model.settle(video, audio, how)
            continue
        flows = model(video, audio, how)
        for stream, noisy, flow, t in zip(
            ("video", "audio"), (video, audio), flows, times, strict=True
        ):
            name = f"{prefix}.call{call}.{stream}"
            assert_rel_l2(flow, golden[f"{name}_flow"], f"{name}_flow")
            assert_x0(golden, f"{name}_x0", noisy, flow, t)


def count_calls(golden: Golden) -> int:
    calls = 0
    while f"in.call{calls}.video" in golden:
        calls += 1
    return calls


def check_caches(golden: Golden, state: SessionState) -> None:
    """Video caches; the audio caches of the reference are scratch that we do not have."""
    for kind, cache in (("video_self", state.video_self), ("video_cross", state.video_cross)):
        for layer in range(state.video_self.keys.shape[0]):
            name = f"cache.layer{layer}.{kind}"
            if f"{name}.k" in golden:
                filled = golden[f"{name}.k"].shape[1]
                assert_rel_l2(cache.keys[layer][:, :filled], golden[f"{name}.k"], f"{name}.k")
                assert_rel_l2(cache.values[layer][:, :filled], golden[f"{name}.v"], f"{name}.v")


class RecordedNoise:
    """The noises that the reference drew."""

    def __init__(self, golden: Golden, lookahead: int) -> None:
        self.golden, self.prefix = golden, f"in.L{lookahead}"

    def initial_video(self, block: Block) -> Tensor:
        return self.golden[f"{self.prefix}.video_noise"][:, block.first_video : block.end_video]

    def initial_audio(self, block: Block) -> Tensor:
        return self.golden[f"{self.prefix}.audio_noise"][:, block.first_audio : block.end_audio]

    def fresh(self, block: Block, step: int) -> tuple[Tensor, Tensor]:
        name = f"{self.prefix}.block{block.index}.renoise{step}"
        return self.golden[f"{name}.video"], self.golden[f"{name}.audio"]


class CheckingDenoiser(Denoiser):
    """Compares the input and the clean estimate of every call with the reference."""

    golden: Golden
    prefix: str
    step = 0

    def clean(self, block: Block, video: Tensor, window: Tensor, timestep: float) -> Clean:
        name = f"{self.prefix}.block{block.index}.step{self.step}"
        full = torch.cat([self.state.audio_history[:, : block.first_audio], window], dim=1)
        self.compare("mid", f"{name}.input_video", video)
        self.compare("mid", f"{name}.input_audio", full)
        clean = super().clean(block, video, window, timestep)
        self.compare("out", f"{name}.video_x0", clean.video)
        self.compare("out", f"{name}.audio_x0", clean.audio)
        self.step += 1
        return clean

    def settle(self, block: Block, clean: Clean) -> None:
        self.context(block, clean)
        super().settle(block, clean)

    def context(self, block: Block, clean: Clean) -> None:
        """The context pass in full, with the outputs that we discard."""
        name, self.step = f"{self.prefix}.block{block.index}.context", 0
        self.compare("mid", f"{name}.input_video", clean.video)
        self.compare("mid", f"{name}.input_audio", clean.audio)
        context = self.schedule.context
        runs = (((context, block.num_video),), ((context, clean.audio.shape[1]),))
        flows = self.model(
            clean.video, clean.audio, CachedPass(self.state, block.first_video, *runs)
        )
        sigma = self.schedule.sigma(context)
        self.compare("out", f"{name}.video_x0", clean_from_flow(clean.video, flows[0], sigma))
        self.compare("out", f"{name}.audio_x0", clean_from_flow(clean.audio, flows[1], sigma))

    def compare(self, kind: str, name: str, found: Tensor) -> None:
        if f"{kind}.{name}" in self.golden:
            assert_rel_l2(found, self.golden[f"{kind}.{name}"], f"{kind}.{name}")


def check_rollout(golden: Golden) -> None:
    model = load(golden)
    for lookahead in golden.meta["lookaheads"]:
        text = TextContext.shared(golden[f"in.L{lookahead}.context"])
        state = session_of(golden, model, text, lookahead)
        denoiser = CheckingDenoiser(model, state, schedule_of(golden))
        denoiser.golden, denoiser.prefix = golden, f"L{lookahead}"
        steps = denoiser.schedule.steps
        for found, stated in zip(steps, golden.meta["warped_timesteps"], strict=True):
            assert abs(found - stated) <= 1e-6 * stated
        videos, audios = [], []
        for latents in stream_blocks(denoiser, RecordedNoise(golden, lookahead)):
            videos.append(latents.video)
            audios.append(latents.audio)
            assert latents.audio_ahead.shape[1] == lookahead
        for stream, parts in (("video", videos), ("audio", audios)):
            name = f"out.L{lookahead}.{stream}_latents"
            assert_rel_l2(torch.cat(parts, dim=1), golden[name], name)
        check_last_context(golden, denoiser, videos[-1], lookahead)


def check_last_context(
    golden: Golden, denoiser: CheckingDenoiser, video: Tensor, lookahead: int
) -> None:
    """The reference also runs a context pass after the last block; we leave it out."""
    last = denoiser.state.plan.blocks[-1]
    name = f"L{lookahead}.block{last.index}"
    audio = golden[f"out.{name}.step{len(denoiser.schedule.steps) - 1}.audio_x0"]
    denoiser.context(last, Clean(video, audio))


def check_teacher_forward(golden: Golden) -> None:
    model, slg = load(golden), golden.meta["slg_layer"]
    video, audio = rearrange(golden["in.video"], "b c f h w -> b f c h w"), golden["in.audio"]
    text, t = text_of(golden), golden["in.t"]
    for name, options in {
        "plain": {},
        "slg": {"skip_layer": slg},
        "clean": {"first_frame_clean": True},
        "clean_slg": {"first_frame_clean": True, "skip_layer": slg},
    }.items():
        if f"out.{name}.video_flow" not in golden:
            continue
        flow_video, flow_audio = model(video, audio, TeacherPass(text, t, **options))
        found = rearrange(flow_video, "b f c h w -> b c f h w")
        assert_rel_l2(found, golden[f"out.{name}.video_flow"], name)
        assert_rel_l2(flow_audio, golden[f"out.{name}.audio_flow"], name)
    for name, clean in (("ragged", False), ("ragged_clean", True)):
        check_ragged(golden, model, name, clean)


def check_ragged(golden: Golden, model: DualStreamDiT, name: str, first_clean: bool) -> None:
    if f"out.{name}.video_flow0" not in golden:
        return
    videos = [golden["in.video"][0], golden["in.ragged.video1"]]
    audios = [golden["in.audio"][0], golden["in.ragged.audio1"]]
    video, audio, sizes = stack_ragged([rearrange(v, "c f h w -> f c h w") for v in videos], audios)
    how = TeacherPass(text_of(golden), golden["in.t"], first_frame_clean=first_clean, ragged=sizes)
    for i, (v, a) in enumerate(unstack_ragged(*model(video, audio, how), sizes)):
        found = rearrange(v, "f c h w -> c f h w")
        assert_rel_l2(found, golden[f"out.{name}.video_flow{i}"], f"{name} video {i}")
        assert_rel_l2(a, golden[f"out.{name}.audio_flow{i}"], f"{name} audio {i}")


def check_teacher_sampling(golden: Golden) -> None:
    model, meta = load(golden), golden.meta
    guidance = Guidance(
        TextContext.shared(golden["in.pos_context"][None]),
        TextContext(golden["in.video_neg_context"][None], golden["in.audio_neg_context"][None]),
    )
    first_frame = rearrange(golden["in.first_frame_latent"], "c f h w -> 1 f c h w")
    for name, solver, given in (
        ("euler", "euler", guidance),
        ("unipc", "unipc", guidance),
        ("euler_i2v", "euler", replace(guidance, first_frame=first_frame)),
    ):
        if f"out.{name}.video" not in golden:
            continue
        settings = TeacherSettings(
            num_steps=meta["steps"],
            solver=solver,
            shift=meta["timestep_shift"],
            video_guidance=meta["video_guidance"],
            audio_guidance=meta["audio_guidance"],
            skip_layer=meta["slg_layer"],
        )
        noise = rearrange(golden["in.video_noise"], "c f h w -> 1 f c h w")
        states = teacher_states(model, noise, golden["in.audio_noise"][None], given, settings)
        check_trajectory(golden, name, list(states))


def check_trajectory(golden: Golden, name: str, states: list[TeacherState]) -> None:
    videos = [rearrange(s.video[0], "f c h w -> c f h w") for s in states]
    audios = [s.audio[0] for s in states]
    assert_rel_l2(videos[-1], golden[f"out.{name}.video"], f"{name} video")
    assert_rel_l2(audios[-1], golden[f"out.{name}.audio"], f"{name} audio")
    for stream, found in (("video", videos), ("audio", audios)):
        stated = golden[f"out.{name}.traj_{stream}"]
        assert_rel_l2(torch.stack(found), stated, f"{name} {stream} trajectory")
        guided = f"mid.{name}.guided_{stream}"
        if guided in golden and name == "euler":
            sigmas = golden[f"mid.{name}.sigmas"]
            steps = sigmas.diff().reshape(-1, *(1,) * (stated.ndim - 1))
            assert_rel_l2(torch.stack(found).diff(dim=0) / steps, golden[guided], guided, tol=1e-5)


def check_scheduler(golden: Golden) -> None:
    schedule = schedule_of(golden)
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
    height, width = 3, 4
    frames = video.shape[1] // (height * width)
    for name in [n for n in golden.tensors if ".start" in n]:
        start = int(name.rsplit("start", 1)[1])
        if name.startswith("out.rope.video"):
            table = cos_sin(video_angles(start + frames, height, width, head_dim))
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
    half = norm.bfloat16()(x.bfloat16())
    assert_max_abs(half, golden["out.norm.rms_bf16"], "rms_bf16", tol=0)


def check_audio_embedding(golden: Golden) -> None:
    weights = golden.group("in.audio_embed")
    x = weights.pop("x")
    dim, channels, _ = weights["0.weight"].shape
    config = StreamConfig(in_channels=channels, dim=dim, ffn_dim=1, num_heads=1, patch=(1,))
    embedding = AudioEmbedding(config, ops=torch.nn)
    embedding.load_state_dict(weights, assign=True)
    assert_rel_l2(embedding(x), golden["out.audio_embed"], "audio_embed")


CHECKS = {
    "masked_forward": check_masked_forward,
    "cached_forward": check_cached_forward,
    "rollout": check_rollout,
    "teacher_forward": check_teacher_forward,
    "teacher_sampling": check_teacher_sampling,
    "scheduler": check_scheduler,
    "masks": check_masks,
    "primitives": check_primitives,
}
