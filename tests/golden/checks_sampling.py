"""Checks of whole clips: the student's stream and the teacher's loop."""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from hallo_live_core.functional.blocks import Block
from hallo_live_core.functional.schedule import clean_from_flow
from hallo_live_core.functional.solvers import NUM_TRAIN_TIMESTEPS, euler_table, unipc_table
from hallo_live_core.models.dit import CachedPass, DualStreamDiT
from hallo_live_core.sampling.denoiser import Clean, Denoiser
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.sampling.teacher import (
    Guidance,
    TeacherSettings,
    TeacherState,
    guided_flow,
    teacher_states,
)
from hallo_live_core.types import TextContext

from .core_models import load, schedule_of, session_of, skipped
from .harness import Golden, assert_rel_l2


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

    def clean(
        self, block: Block, video: Tensor, window: Tensor, timestep: float, **options
    ) -> Clean:
        name = f"{self.prefix}.block{block.index}.step{self.step}"
        full = torch.cat([self.state.audio_history[:, : block.first_audio], window], dim=1)
        told = torch.full(full.shape[:2], timestep, dtype=torch.float64)
        told[:, : block.first_audio] = self.schedule.context
        self.compare("mid", f"{name}.input_video", video)
        self.compare("mid", f"{name}.input_audio", full)
        self.compare("mid", f"{name}.audio_timestep", told)
        clean = super().clean(block, video, window, timestep, **options)
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
        told = torch.full(clean.audio.shape[:2], context, dtype=torch.float64)
        self.compare("mid", f"{name}.audio_timestep", told)
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
    heard = f"out.{name}.step{len(denoiser.schedule.steps) - 1}.audio_x0"
    if heard in golden:
        denoiser.context(last, Clean(video, golden[heard]))


def check_teacher_sampling(golden: Golden) -> None:
    model, meta = load(golden), golden.meta
    assert meta["num_train_timesteps"] == NUM_TRAIN_TIMESTEPS
    guidance = Guidance(
        TextContext.shared(golden["in.pos_context"][None]),
        TextContext(golden["in.video_neg_context"][None], golden["in.audio_neg_context"][None]),
    )
    for name in sorted({n.split(".")[1] for n in golden.tensors if n.startswith("out.")}):
        solver, _, kind = name.partition("_")
        assert kind in ("", "i2v"), name
        given = replace(guidance, first_frame=first_frame(golden)) if kind else guidance
        settings = TeacherSettings(
            num_steps=meta["steps"],
            solver=solver,
            shift=meta["timestep_shift"],
            video_guidance=meta["video_guidance"],
            audio_guidance=meta["audio_guidance"],
            skip_layer=skipped(meta["slg_layer"], len(model.blocks)),
        )
        noise = rearrange(golden["in.video_noise"], "c f h w -> 1 f c h w")
        states = list(teacher_states(model, noise, golden["in.audio_noise"][None], given, settings))
        check_trajectory(golden, name, states)
        check_guided(golden, name, model, states, given, settings)


def first_frame(golden: Golden) -> Tensor:
    return rearrange(golden["in.first_frame_latent"], "c f h w -> 1 f c h w")


def check_trajectory(golden: Golden, name: str, states: list[TeacherState]) -> None:
    videos = [rearrange(s.video[0], "f c h w -> c f h w") for s in states]
    audios = [s.audio[0] for s in states]
    assert_rel_l2(videos[-1], golden[f"out.{name}.video"], f"{name} video")
    assert_rel_l2(audios[-1], golden[f"out.{name}.audio"], f"{name} audio")
    for stream, found in (("video", videos), ("audio", audios)):
        if f"out.{name}.traj_{stream}" in golden:
            stated = golden[f"out.{name}.traj_{stream}"]
            assert_rel_l2(torch.stack(found), stated, f"{name} {stream} trajectory")


def check_guided(
    golden: Golden,
    name: str,
    model: DualStreamDiT,
    states: list[TeacherState],
    given: Guidance,
    settings: TeacherSettings,
) -> None:
    """The guided flow of every step, and the table that the steps are taken from."""
    if f"mid.{name}.guided_video" not in golden:
        return
    table = (euler_table if settings.solver == "euler" else unipc_table)(
        settings.num_steps, settings.shift
    )
    assert_rel_l2(torch.tensor(table.sigmas), golden[f"mid.{name}.sigmas"], "sigmas", tol=1e-6)
    stated = golden[f"mid.{name}.timesteps"]
    assert_rel_l2(torch.tensor(table.timesteps), stated, "timesteps", tol=1e-6)
    texts, pinned = (given.positive, given.negative), given.first_frame is not None
    for step, timestep in enumerate(table.timesteps):
        video, audio = guided_flow(model, states[step], timestep, texts, settings, pinned)
        found = rearrange(video[0], "f c h w -> c f h w")
        assert_rel_l2(found, golden[f"mid.{name}.guided_video"][step], f"{name} guided video")
        assert_rel_l2(audio[0], golden[f"mid.{name}.guided_audio"][step], f"{name} guided audio")


CHECKS = {
    "rollout": check_rollout,
    "teacher_sampling": check_teacher_sampling,
}
