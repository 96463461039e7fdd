"""AudioBox and VideoAlign against the reference's tensors and strings (spec 08)."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch

from hallo_live_core.errors import ShapeError
from hallo_live_core.rewards.audiobox import weights as audio_weights
from hallo_live_core.rewards.audiobox.judge import (
    REWARDED,
    AudioJudge,
    Target,
    rated,
    weighted_mean,
)
from hallo_live_core.rewards.audiobox.network import AestheticHeads, AudioBox
from hallo_live_core.rewards.audiobox.windows import WINDOW, split
from hallo_live_core.rewards.videoalign import weights as video_weights
from hallo_live_core.rewards.videoalign.frames import (
    num_visual_tokens,
    resize,
    sample_indices,
    target_size,
    to_patches,
)
from hallo_live_core.rewards.videoalign.judge import AXES, Norm, normalised
from hallo_live_core.rewards.videoalign.network import VideoAlign, reward_head
from hallo_live_core.rewards.videoalign.prompt import (
    CHAT_TOKENS,
    REWARD_TOKENS,
    VIDEO_PAD,
    as_reference,
    load_template,
    reward_positions,
)

from .filled import filled
from .harness import Golden, assert_max_abs

INT16 = 32_768
LAYERS, RAW, SCORES = 1e-4, 1e-4, 5e-4
REAL_LAYERS, REAL_RAW = 1e-3, 1e-4
HEAD_RAW, HEAD_SCORES = 1e-5, 1e-4
MODEL = 5e-4


def targets_of(golden: Golden) -> dict[str, Target]:
    stored = golden.meta["config"]["target_transform"]
    return {axis: Target(**constants) for axis, constants in stored.items()}


def check_audiobox_head(golden: Golden) -> None:
    tensors = golden.group("sd")
    config = audio_weights.head_config_from_state_dict(tensors)
    heads = AestheticHeads(config, dtype=torch.float64)
    heads.load_state_dict(tensors)
    with torch.no_grad():
        raw = heads(golden["in.layers"], ~golden["in.frame_is_pad"].bool())
    assert_max_abs(raw, golden["out.raw"], "raw", HEAD_RAW)
    targets = targets_of(golden)
    scores = rated(raw, [targets[axis] for axis in config.axes])
    weight, clip_of = golden["in.window_weight"], golden["in.window_clip"]
    for clip, expected in enumerate(golden["out.scores"]):
        mine = clip_of == clip
        mean = weighted_mean(scores[mine], weight[mine])
        assert_max_abs(mean, expected, f"scores of clip {clip}", HEAD_SCORES)


def check_audiobox_tiny(golden: Golden) -> None:
    tensors = golden.group("sd")
    config = audio_weights.config_from_state_dict(tensors)
    stored = golden.meta["config"]["config"]
    assert config.dim == stored["encoder_embed_dim"]
    assert config.num_layers == stored["encoder_layers"]
    assert config.num_heads == stored["encoder_attention_heads"]
    network = AudioBox(config, dtype=torch.float64)
    network.load_state_dict(audio_weights.to_module(tensors))
    clips = [golden[f"in.pcm{i}"].double() / INT16 for i in range(len(golden["out.scores"]))]
    cut = [split(samples) for samples in clips]
    windows = torch.cat([part for part, _ in cut])
    valid = torch.cat([samples for _, samples in cut])
    states, frames = network.hear(windows, valid)
    indices = golden.meta["config"]["layer_frame_indices"]
    expected = golden["out.layer_frames"]
    heard = frames[:, indices]
    for layer, (ours, theirs) in enumerate(zip(states, expected, strict=True)):
        assert_max_abs(ours[:, indices][heard], theirs[heard], f"layer {layer}", LAYERS)
    assert torch.equal(frames.sum(-1), golden["out.valid_frames"])
    assert_max_abs(valid.double() / WINDOW, golden["out.window_weight"], "window weight", 1e-9)
    clip_of = torch.cat([torch.full((len(part),), i) for i, (part, _) in enumerate(cut)])
    assert torch.equal(clip_of, golden["out.window_clip"])
    assert_max_abs(network(windows, valid), golden["out.raw"], "raw", RAW)
    _check_scores(golden, AudioJudge(network, targets_of(golden)), cut)


def _check_scores(golden: Golden, judge: AudioJudge, cut: list) -> None:
    axes = judge.network.config.heads.axes
    for (windows, valid), expected, reward in zip(
        cut, golden["out.scores"], golden["out.audio_reward"], strict=True
    ):
        raw = judge.network(windows, valid)
        scores = weighted_mean(
            rated(raw, [judge.targets[a] for a in axes]), valid.double() / WINDOW
        )
        assert_max_abs(scores, expected, "scores", SCORES)
        total = sum(scores[axes.index(axis)] for axis in REWARDED)
        assert_max_abs(total, reward, "reward", SCORES)


def check_audiobox_real_seeded(golden: Golden) -> None:
    tensors = filled(golden, "audiobox_aesthetics")
    config = audio_weights.config_from_state_dict(tensors)
    network = AudioBox(config, device="meta")
    network.load_state_dict(audio_weights.to_module(tensors), assign=True)
    windows, valid = split(golden["in.pcm"].float() / INT16)
    states, _ = network.hear(windows, valid)
    ours = torch.stack(states)[:, 0, [0, 50, 100]]
    assert_max_abs(ours, golden["out.layer_frames"], "layers", REAL_LAYERS)
    raw = network(windows, valid)[0]
    assert_max_abs(raw, golden["out.raw"], "raw", REAL_RAW)
    targets = targets_of(golden)
    scores = rated(raw, [targets[axis] for axis in config.heads.axes])
    assert_max_abs(scores, golden["out.scores"], "scores", SCORES)


def norms_of(golden: Golden) -> list[Norm]:
    stored = golden.meta["config"]["norm"]
    return [Norm(*stored[axis]) for axis in AXES]


def check_videoalign_sampling(golden: Golden) -> None:
    for case in golden.meta["sampling"]:
        if "error" in case:
            with pytest.raises(ShapeError, match="at least 2 frames"):
                sample_indices(case["total"], case["fps"])
            continue
        indices = sample_indices(case["total"], case["fps"])
        assert indices == case["index"] and len(indices) == case["nframes"]
    for case in golden.meta["resize"]:
        if "error" in case:
            with pytest.raises(ShapeError, match="too narrow"):
                target_size(case["h"], case["w"])
            continue
        assert target_size(case["h"], case["w"]) == tuple(case["out"])


def check_videoalign_frames(golden: Golden) -> None:
    config = golden.meta["config"]
    a, (count, height, width, channels) = config["a"], config["shape"]
    t, y, x, c = np.ogrid[:count, :height, :width, :channels]
    pixels = (a[0] * x + a[1] * y + a[2] * t * (1 + c) + a[3] * c + (x * y) // a[4]) % 256
    size = target_size(height, width)
    assert size == tuple(config["resized_hw"])
    resized = resize(torch.from_numpy(pixels.astype(np.uint8)), size)
    crop, strip = golden["out.resized_crop"], golden["out.resized_frame1_strip"]
    assert_max_abs(resized[0, :, : crop.shape[1], : crop.shape[2]], crop, "crop", 1)
    assert_max_abs(resized[1, :, -strip.shape[1] :], strip, "strip", 1)
    sums = resized.double().sum((2, 3))
    assert_max_abs(sums, golden["out.resized_sum"], "sums", 0.01 * size[0] * size[1])
    patches, grid = to_patches(resized)
    assert [list(grid)] == golden["out.grid_thw"].tolist()
    rows = patches[golden["out.row_index"]]
    assert_max_abs(rows, golden["out.patch_rows"], "patches", 0.02)
    assert_max_abs(patches.mean(1), golden["out.patch_row_mean"], "patch means", 0.02)


def check_videoalign_prompt(golden: Golden) -> None:
    meta, template = golden.meta, load_template()
    assert template.template == meta["templates"][meta["template_in_use"]]
    assert digest(template.template) == meta["template_sha256"][meta["template_in_use"]]
    assert (template.chat_prefix, template.chat_suffix) == (
        meta["chat_prefix"],
        meta["chat_suffix"],
    )
    assert list(meta["special_tokens"]) == list(REWARD_TOKENS)
    assert {name.split(" ")[0] for name in meta["qwen_tokens"]} == set(CHAT_TOKENS)
    reward_ids = tuple(meta["special_tokens"].values())
    for case in meta["cases"]:
        text = template.text(case["prompt"])
        rendered = template.chat_prefix + text + template.chat_suffix
        assert digest(text) == case["text_sha256"]
        assert digest(rendered) == case["rendered_sha256"]
        assert len(rendered) == case["rendered_chars"]
        ids = case["token_ids_one_video_pad"]
        positions = reward_positions(torch.tensor([ids]), reward_ids)
        assert positions.tolist() == [case["reward_token_positions"]]
        assert ids.index(meta["qwen_tokens"][VIDEO_PAD]) == case["video_pad_position"]
    defect = meta["reference_defect_example"]
    prompt = meta["cases"][0]["prompt"]
    assert defect["prompt_line_intended"] in template.text(prompt)
    assert defect["prompt_line_seen_by_model"] in template.text(as_reference(prompt))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_videoalign_head(golden: Golden) -> None:
    reward_ids = (151657, 151658, 151659)
    positions = reward_positions(golden["in.input_ids"], reward_ids)
    raw = reward_head(golden["in.hidden"], positions, golden["sd.rm_head.weight"])
    assert_max_abs(raw, golden["out.reward_raw"], "raw", HEAD_RAW)
    norms = norms_of(golden)
    ours = normalised(raw, norms)
    assert_max_abs(ours, golden["out.reward_norm"], "normalised", HEAD_RAW)
    assert_max_abs(ours.sum(1), golden["out.overall"], "overall", HEAD_RAW)


def described_ids(golden: Golden) -> list[int]:
    """Ids of the video pad and the three reward tokens, which stand in a description only."""
    what = golden.meta["tensors"]["in.input_ids"]["what"]
    found = re.search(r"video pad (\d+).*VQ/MQ/TA = (\d+)/(\d+)/(\d+)", what)
    assert found is not None
    return [int(number) for number in found.groups()]


def check_videoalign_tiny(golden: Golden) -> None:
    settings = golden.meta["config"]["model"]
    settings |= {"model_type": "qwen2_vl", "vision_config": settings["vision"]}
    tensors = golden.group("sd")
    config = video_weights.config_from_state_dict(tensors, settings)
    for ours, theirs in (("dim", "hidden_size"), ("num_kv_heads", "num_key_value_heads")):
        assert getattr(config, ours) == settings[theirs]
    alpha = golden.meta["config"]["lora"]["alpha"]
    ready = video_weights.to_module(tensors, lora_alpha=alpha)
    network = VideoAlign(config, dtype=torch.float64)
    network.load_state_dict(ready)
    ids, mask = golden["in.input_ids"], golden["in.attention_mask"].bool()
    grids = golden["in.video_grid_thw"]
    seen = network.see(golden["in.pixel_values_videos"], grids)
    assert len(seen) == sum(num_visual_tokens(tuple(grid)) for grid in grids.tolist())
    assert_max_abs(seen, golden["out.video_embeds"], "visual tokens", MODEL)
    video_pad, *reward_ids = described_ids(golden)
    hidden = network.read(ids, seen, video_pad)
    expected = golden["out.hidden"]
    assert_max_abs(hidden[mask], expected[mask], "hidden", MODEL)
    raw = network.judge(hidden, reward_positions(ids, tuple(reward_ids)))
    assert_max_abs(raw, golden["out.reward_raw"], "raw", MODEL)
    assert_max_abs(normalised(raw, norms_of(golden)), golden["out.reward_norm"], "norm", MODEL)
    assert (raw - golden["neg.reward_raw_if_mrope"]).abs().max() > 100 * MODEL


CHECKS = {
    "audiobox_head": check_audiobox_head,
    "audiobox_tiny": check_audiobox_tiny,
    "audiobox_real_seeded": check_audiobox_real_seeded,
    "videoalign_sampling": check_videoalign_sampling,
    "videoalign_frames": check_videoalign_frames,
    "videoalign_prompt": check_videoalign_prompt,
    "videoalign_head": check_videoalign_head,
    "videoalign_tiny": check_videoalign_tiny,
}
