import itertools

import pytest

from hallo_live_core.config import BlockSizes
from hallo_live_core.errors import RequestError
from hallo_live_core.functional.blocks import ClipPlan

SIZES = BlockSizes(6, 30, lookahead=4)


def test_the_published_clip_is_five_blocks():
    plan = ClipPlan.of(30, 150, SIZES)
    assert plan.num_blocks == 5
    assert (plan.video_latents, plan.audio_latents, plan.audio_horizon) == (30, 150, 154)


def test_a_block_knows_its_latents_and_how_far_it_hears():
    block = ClipPlan.of(30, 150, SIZES).block(2)
    assert (block.first_video, block.end_video, block.num_video) == (12, 18, 6)
    assert (block.first_audio, block.end_audio, block.num_audio) == (60, 90, 30)
    assert (block.window, block.audio_horizon, block.is_last) == (34, 94, False)


def test_blocks_follow_each_other_without_gap():
    blocks = ClipPlan(SIZES, 4).blocks
    assert [b.index for b in blocks] == [0, 1, 2, 3]
    for before, after in itertools.pairwise(blocks):
        assert before.end_video == after.first_video and before.end_audio == after.first_audio
    assert [b.is_last for b in blocks] == [False, False, False, True]


def test_positions_are_plain_ints():
    block = ClipPlan(SIZES, 3).block(1)
    assert type(block.first_video) is int and type(block.end_audio) is int


@pytest.mark.parametrize(("video", "audio"), [(29, 150), (30, 149), (30, 120), (0, 0), (6, 60)])
def test_latents_that_are_not_the_same_whole_blocks_are_refused(video, audio):
    with pytest.raises(RequestError, match="whole number of blocks"):
        ClipPlan.of(video, audio, SIZES)


@pytest.mark.parametrize("sizes", [BlockSizes(0, 30), BlockSizes(6, 0)])
def test_empty_blocks_are_refused(sizes):
    with pytest.raises(RequestError, match="at least one"):
        ClipPlan(sizes, 1)


def test_a_negative_lookahead_is_refused():
    with pytest.raises(RequestError, match="look-ahead"):
        ClipPlan(BlockSizes(6, 30, -1), 1)


def test_the_last_block_needs_no_context_pass():
    assert ClipPlan(SIZES, 5).num_passes(steps=4) == 24
