"""A shorter first block: the same clip in positions and length, its first latents earlier."""

from dataclasses import replace

import pytest
import torch

from hallo_live_core.config import BlockSizes
from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.errors import RequestError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.request import plan_request
from hallo_live_core.functional.script import Script, ScriptLine
from hallo_live_core.types import Request

SIZES = BlockSizes(video_latents=6, audio_latents=30)
REQUEST = Request("A man says, <S>One.<E>", seconds=2, height=32, width=64, opening_latents=2)


@pytest.fixture(scope="module")
def engine(tiny_models):
    return HalloLive.load(tiny_models, placement=Placement.on("cpu"))


@pytest.mark.parametrize("opening", range(1, 6))
def test_blocks_of_a_clip_with_an_opening_follow_each_other_and_fill_it(opening):
    plan = ClipPlan(SIZES, 4, opening=opening)
    assert [(b.first_video, b.end_video) for b in plan.blocks] == [
        (0, opening), (opening, 6), (6, 12), (12, 18)
    ]  # fmt: skip
    assert all(b.first_audio == 5 * b.first_video for b in plan.blocks)
    assert all(b.end_audio == 5 * b.end_video for b in plan.blocks)
    assert (plan.video_latents, plan.audio_latents) == (18, 90)
    assert [plan.second(b.index) for b in plan.blocks] == [0, None, 1, 2]
    assert [b.is_last for b in plan.blocks] == [False, False, False, True]


@pytest.mark.parametrize("opening", [-1, 6, 7])
def test_an_opening_that_is_no_part_of_a_block_is_refused(opening):
    with pytest.raises(RequestError, match="use one of"):
        ClipPlan(SIZES, 4, opening=opening)


def test_sound_that_does_not_divide_with_the_picture_is_refused():
    with pytest.raises(RequestError, match=r"use one of \[2, 4\]"):
        ClipPlan(BlockSizes(video_latents=6, audio_latents=3), 4, opening=3)


def test_a_window_and_an_opening_are_refused_together():
    with pytest.raises(RequestError, match="exclude each other"):
        plan_request(replace(REQUEST, seconds=0))


def test_the_opening_comes_after_its_own_passes_and_the_clip_is_as_long(engine):
    plain = list(engine.stream(replace(REQUEST, opening_latents=0)))
    seen = []
    chunks = []
    for chunk in engine.stream(REQUEST, on_progress=lambda progress: seen.append(progress.block)):
        if not chunks:
            assert set(seen) == {0}
        chunks.append(chunk)
    assert sum(len(c.frames) for c in chunks) == sum(len(c.frames) for c in plain) == 45
    assert sum(len(c.samples) for c in chunks) == sum(len(c.samples) for c in plain)
    assert [c.frame_time for c in chunks] == [c.frame_time for c in plain]
    assert chunks[-1].is_last


def test_half_a_block_and_its_rest_are_what_a_clip_of_half_blocks_begins_with(engine):
    halves = replace(engine.settings.blocks, video_latents=3, audio_latents=15)
    small = HalloLive(
        transformer=engine._transformer,
        text_encoder=engine._text_encoder,
        placement=engine.placement,
        settings=replace(engine.settings, blocks=halves),
    )
    begun = list(engine.sample(replace(REQUEST, opening_latents=3)))[:2]
    alike = list(small.sample(replace(REQUEST, opening_latents=0)))
    for ours, other in zip(begun, alike, strict=True):
        assert ours.video.shape[1] == 3
        assert torch.equal(ours.video, other.video) and torch.equal(ours.audio, other.audio)


def test_lines_of_a_script_begin_with_their_seconds(engine):
    lines = ["A man says, <S>One.<E>", "A man says, <S>Two.<E>"]
    script = Script([ScriptLine(lines[0], 1), ScriptLine(lines[1])])
    blocks = list(engine.sample(replace(REQUEST, prompt=script.first), next_said=script))
    same = list(engine.sample(replace(REQUEST, prompt=script.first)))
    assert [torch.equal(a.video, b.video) for a, b in zip(blocks, same, strict=True)] == [
        True, True, False
    ]  # fmt: skip
