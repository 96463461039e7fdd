"""Checks of single network calls: at once, block by block, as teacher."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from hallo_live_core.functional.schedule import (
    clean_from_flow,
)
from hallo_live_core.models.dit import (
    CachedPass,
    DualStreamDiT,
    MaskedPass,
    TeacherPass,
    sdpa,
    stack_ragged,
    unstack_ragged,
)
from hallo_live_core.state.session import SessionState
from hallo_live_core.types import TextContext

from .core_models import load, schedule_of, session_of, sizes_of, skipped, text_of
from .harness import Golden, assert_rel_l2


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


def check_cached_forward(golden: Golden) -> None:
    model, text, lookahead = load(golden), text_of(golden), golden.meta["lookahead"]
    state = session_of(golden, model, text, lookahead)
    attended = record_attention(model)
    run_calls(golden, model, state, "out")
    check_caches(golden, state)
    check_audio_keys(golden, attended[-ATTENTIONS_PER_LAYER * len(model.blocks) :])
    model.attention = sdpa
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
        how = CachedPass(state, start_of(golden, call), *times)
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


def start_of(golden: Golden, call: int) -> int:
    """First video latent of a call; samples of a batch go in step."""
    (start,) = golden[f"in.call{call}.video_start_frame"].unique().tolist()
    return start


def count_calls(golden: Golden) -> int:
    calls = 0
    while f"in.call{calls}.video" in golden:
        calls += 1
    return calls


def check_caches(golden: Golden, state: SessionState) -> None:
    calls = range(count_calls(golden))
    frames = max(start_of(golden, i) + golden[f"in.call{i}.video"].shape[1] for i in calls)
    end = frames * golden.meta["layout"]["tokens_per_frame"]
    for kind, cache in (("video_self", state.video_self), ("video_cross", state.video_cross)):
        for layer in range(cache.keys.shape[0]):
            keys, values = cache.keys[layer, :, :end], cache.values[layer, :, :end]
            check_keys(golden, f"cache.layer{layer}.{kind}", keys, values)


def check_keys(golden: Golden, name: str, keys: Tensor, values: Tensor) -> None:
    """keys, values: [b, l, n, d], all that the calls wrote; behind it the reference has zeros."""
    for kind, found in (("k", keys), ("v", values)):
        if f"{name}.{kind}" in golden:
            stated = golden[f"{name}.{kind}"]
            assert_rel_l2(found, stated[:, : found.shape[1]], f"{name}.{kind}")
            assert not stated[:, found.shape[1] :].any(), f"{name}.{kind}: more was written"


ATTENTIONS_PER_LAYER = 6
AUDIO_SELF, VIDEO_TO_AUDIO = 0, 4
"""Their places in the order in which a layer attends."""


def record_attention(model: DualStreamDiT) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [b, l, n, d] of every attention from now on."""
    seen: list[tuple[Tensor, Tensor]] = []

    def record(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        seen.append((k.transpose(1, 2), v.transpose(1, 2)))
        return sdpa(q, k, v, mask)

    model.attention = record
    return seen


def check_audio_keys(golden: Golden, attended: list[tuple[Tensor, Tensor]]) -> None:
    """The audio caches of the reference hold what the last call attended to; we keep none."""
    for layer in range(len(attended) // ATTENTIONS_PER_LAYER):
        for kind, place in (("audio_self", AUDIO_SELF), ("audio_cross", VIDEO_TO_AUDIO)):
            keys, values = attended[layer * ATTENTIONS_PER_LAYER + place]
            check_keys(golden, f"cache.layer{layer}.{kind}", keys, values)


def check_teacher_forward(golden: Golden) -> None:
    model = load(golden)
    slg = skipped(golden.meta["slg_layer"], len(model.blocks))
    for entry in ("timestep_shift", "num_train_timesteps"):
        golden.meta.get(entry)  # of a schedule, but these calls are told timesteps
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
    others = range(1, sum(name.startswith("in.ragged.video") for name in golden.tensors) + 1)
    videos = [golden["in.video"][0], *(golden[f"in.ragged.video{i}"] for i in others)]
    audios = [golden["in.audio"][0], *(golden[f"in.ragged.audio{i}"] for i in others)]
    video, audio, sizes = stack_ragged([rearrange(v, "c f h w -> f c h w") for v in videos], audios)
    text, count = text_of(golden), len(videos)
    text = TextContext(text.video[:count], text.audio[:count])
    how = TeacherPass(text, golden["in.t"][:count], first_frame_clean=first_clean, ragged=sizes)
    for i, (v, a) in enumerate(unstack_ragged(*model(video, audio, how), sizes)):
        found = rearrange(v, "f c h w -> c f h w")
        assert_rel_l2(found, golden[f"out.{name}.video_flow{i}"], f"{name} video {i}")
        assert_rel_l2(a, golden[f"out.{name}.audio_flow{i}"], f"{name} audio {i}")


CHECKS = {
    "masked_forward": check_masked_forward,
    "cached_forward": check_cached_forward,
    "teacher_forward": check_teacher_forward,
}
