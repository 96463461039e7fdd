"""The judge of the picture, on a tiny untrained network."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest
import torch

from hallo_live_core.checkpoints.rewards_hf import load_video_judge
from hallo_live_core.checkpoints.tiny_judges_hf import PICTURE, write_tiny_video_judge
from hallo_live_core.errors import Cancelled, HalloLiveError, ShapeError
from hallo_live_core.rewards.base import Clip
from hallo_live_core.rewards.videoalign.frames import (
    MAX_PIXELS,
    MEAN,
    STD,
    num_visual_tokens,
    resize,
    sample_indices,
    target_size,
    to_patches,
)
from hallo_live_core.rewards.videoalign.judge import NO_PROMPT, PUBLISHED_NORM, VideoJudge
from hallo_live_core.rewards.videoalign.network import VideoAlign, reward_head

AXES = ("VQ", "MQ", "TA")
CLOSE, BF16 = 1e-4, 0.05


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video_judge")
    write_tiny_video_judge(folder, torch.Generator().manual_seed(0))
    return folder


@pytest.fixture(scope="module")
def judge(models):
    return load_video_judge(models)


def clip_of(frames=24, height=56, width=84, prompt="A woman waves.", seed=0, fps=24) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, height, width, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Clip(pixels, Fraction(fps), prompt=prompt)


def raw(score) -> dict[str, float]:
    return {part.name: part.raw for part in score.components}


def test_the_reward_is_the_sum_of_three_normalised_values(judge):
    score = judge.score(clip_of())
    assert score.judge == "video" and tuple(raw(score)) == AXES
    assert score.value == pytest.approx(sum(part.normalised for part in score.components))
    for part, norm in zip(score.components, PUBLISHED_NORM, strict=True):
        assert part.normalised == pytest.approx((part.raw - norm.mean) / norm.std)
        assert part.verdict in ("good", "doubtful", "bad")


def test_only_the_alignment_depends_on_the_prompt(judge):
    one, other = (raw(judge.score(clip_of(prompt=p))) for p in ("A cat sleeps.", "Two dogs run."))
    assert one["VQ"] == pytest.approx(other["VQ"], abs=CLOSE)
    assert one["MQ"] == pytest.approx(other["MQ"], abs=CLOSE)
    assert abs(one["TA"] - other["TA"]) > 100 * CLOSE


def test_without_a_prompt_the_alignment_is_left_out_and_that_is_said(judge):
    score, full = judge.score(clip_of(prompt=" \n")), judge.score(clip_of())
    assert tuple(raw(score)) == ("VQ", "MQ") and score.reasons == (NO_PROMPT,)
    expected = sum(part.normalised for part in full.components[:2])
    assert score.value == pytest.approx(expected, abs=CLOSE)


def test_clips_of_any_size_judged_together_get_the_scores_they_get_alone(judge):
    clips = [
        clip_of(prompt="Short."),
        clip_of(frames=1),
        clip_of(60, 200, 100, "A much longer prompt, so that the rows differ in length.", seed=1),
        clip_of(9, 60, 60, "x", seed=2),
    ]
    together = judge.score_batch(clips)
    for clip, score in zip(clips, together, strict=True):
        alone = judge.score(clip)
        assert raw(score) == pytest.approx(raw(alone), abs=CLOSE)
        assert (score.reasons, score.details) == (alone.reasons, alone.details)


def test_more_clips_than_fit_in_a_pass_keep_their_order(judge):
    clips = [clip_of(4, seed=i) for i in range(5)]
    together = [raw(score) for score in judge.score_batch(clips)]
    assert together[4] == pytest.approx(raw(judge.score(clips[4])), abs=CLOSE)
    assert together[3] != together[4]


def test_details_say_what_was_looked_at(judge):
    details = judge.score(clip_of(48)).details
    assert details.frames == (0, 16, 31, 47)
    assert (details.height, details.width) == target_size(56, 84)
    assert details.num_tokens > num_visual_tokens((2, details.height // 14, details.width // 14))


def test_a_single_frame_gives_a_reason_and_no_number(judge):
    score = judge.score(clip_of(frames=1))
    assert score.value is None and score.components == ()
    assert score.reasons == ("a single picture has no motion to judge",)


def test_a_picture_far_too_narrow_is_refused_before_the_network_runs(judge):
    with pytest.raises(ShapeError, match=r"too narrow.*402x2"):
        judge.score_batch([clip_of(), clip_of(2, 2, 402)])


def test_progress_tells_looking_from_judging_and_a_stop_ends_the_work(judge):
    seen = []
    judge.score(clip_of(), on_progress=seen.append)
    assert [(p.stage, p.done, p.total) for p in seen] == [
        ("look", 0, 1),
        ("look", 1, 1),
        ("judge", 1, 1),
    ]
    with pytest.raises(Cancelled):
        judge.score(clip_of(), should_stop=lambda: True)


def test_the_reference_mode_shows_the_prompt_as_a_printed_list(judge):
    reference = VideoJudge(judge.network, judge.tokenizer, judge.norms, reference=True)
    theirs = raw(reference.score(clip_of(prompt="A cat.")))
    ours = raw(judge.score(clip_of(prompt="['A cat.']")))
    assert theirs == pytest.approx(ours, abs=CLOSE)


@pytest.mark.parametrize(
    ("frames", "fps", "count"),
    [(117, 24, 10), (300, 60, 10), (75, 15, 10), (2, 24, 2), (3, 24, 2), (24, 24, 4)],
)
def test_two_frames_a_second_are_looked_at_whatever_the_frame_rate(frames, fps, count):
    indices = sample_indices(frames, Fraction(fps))
    assert len(indices) == count
    assert (indices[0], indices[-1]) == (0, frames - 1)
    assert indices == sorted(set(indices))


def test_frames_that_would_round_to_an_odd_number_of_pairs_are_kept():
    assert len(sample_indices(117, 24)) == 10  # 9.75 frames; rounding down would give 8


def test_a_very_long_clip_is_looked_at_more_sparsely():
    assert len(sample_indices(24 * 60 * 20, 24)) == 768


@pytest.mark.parametrize("size", [(2160, 3840), (512, 992), (8, 8), (30, 5000)])
def test_frames_become_whole_cells_of_bounded_area(size):
    height, width = target_size(*size)
    assert height % 28 == width % 28 == 0
    assert 28 * 28 <= height * width <= MAX_PIXELS


def test_a_resized_flat_picture_stays_flat():
    frames = torch.full((2, 50, 70, 3), 77, dtype=torch.uint8)
    assert resize(frames, (28, 56)).unique().tolist() == [77]


def test_patches_run_through_cells_and_hold_colours_before_frames():
    frames = torch.zeros(2, 3, 28, 56, dtype=torch.uint8)
    frames[1, 2, 15, 3] = 255  # frame 1, blue, second patch row, first patch column
    patches, grid = to_patches(frames)
    assert grid == (1, 2, 4) and patches.shape == (8, 1176)
    white = (1 - MEAN[2]) / STD[2]
    ((row, column),) = (patches - white).abs().lt(1e-5).nonzero().tolist()
    assert row == 2  # of the four patches of the first cell
    assert column == ((2 * 2 + 1) * 14 + 1) * 14 + 3


def test_frequencies_are_the_same_however_the_network_is_built_and_stay_float32():
    on_cpu = dict(VideoAlign(PICTURE).named_buffers())
    on_meta = dict(VideoAlign(PICTURE, device="meta", dtype=torch.bfloat16).named_buffers())
    assert on_cpu.keys() == on_meta.keys() and on_cpu
    for name, buffer in on_cpu.items():
        assert torch.equal(buffer, on_meta[name]) and buffer.dtype is torch.float32
        assert buffer[0] == 1 and buffer[-1] < buffer[0]


def test_bf16_weights_judge_nearly_as_float32_ones(judge, models):
    coarse = load_video_judge(models, dtype=torch.bfloat16)
    assert {p.dtype for p in coarse.network.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in coarse.network.buffers()} == {torch.float32}
    expected = raw(judge.score(clip_of()))
    assert raw(coarse.score(clip_of())) == pytest.approx(expected, abs=BF16)


def test_the_head_computes_in_float32_from_bf16_and_under_autocast():
    hidden = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    exact = hidden[:, [1, 3]].bfloat16().float() @ weight.bfloat16().float().T
    with torch.autocast("cpu", torch.bfloat16):
        got = reward_head(hidden.bfloat16(), torch.tensor([[1, 3]]), weight.bfloat16())
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, exact[..., 0])


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.qwen2_vl.modeling_qwen2_vl", None)
    with pytest.raises(HalloLiveError, match=r"pip install \"hallo-live\[rewards\]\""):
        VideoAlign(PICTURE, device="meta")
