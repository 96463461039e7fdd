"""Streams without end, with a window, and with a script, on the tiny models."""

from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise

import pytest
import torch

from hallo_live_core import HalloLive, Placement, PromptError, Request, RequestError
from hallo_live_core.functional.script import Script, ScriptLine

PROMPT = "A woman in a kitchen says, <S>Coffee first.<E> <AUDCAP>A warm voice.<ENDAUDCAP>"
OTHER = "A woman in a kitchen says, <S>And now tea.<E> <AUDCAP>A cold voice.<ENDAUDCAP>"
REQUEST = Request(prompt=PROMPT, seconds=4, seed=3, height=32, width=64)
OPEN = replace(REQUEST, seconds=0, window_blocks=2)
BESIDE = torch.device("cpu", 1)


@pytest.fixture(scope="module")
def engine(tiny_models) -> HalloLive:
    return HalloLive.load(tiny_models, placement=Placement.on("cpu"))


def stop_after(blocks: int):
    """A `should_finish` that is asked once for every block."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= blocks


def clip(chunks):
    chunks = list(chunks)
    return torch.cat([c.frames for c in chunks]), torch.cat([c.samples for c in chunks])


def test_a_stream_without_end_goes_on_until_it_is_finished_and_is_then_complete(engine):
    progress = []
    chunks = list(engine.stream(OPEN, on_progress=progress.append, should_finish=stop_after(4)))
    frames, samples = clip(chunks)
    assert len(frames) == 24 * 4 - 3 and chunks[-1].is_last
    assert len(samples) == engine.clock_for(OPEN).samples_for_frames(len(frames))
    assert {(p.num_blocks, p.total) for p in progress} == {(0, 0)}
    assert max(p.block for p in progress) == 3


def test_its_blocks_are_those_of_a_long_clip_with_the_same_window(engine):
    short = clip(engine.stream(OPEN, should_finish=stop_after(4)))
    long = clip(islice(engine.stream(replace(OPEN, seconds=60)), 24))
    assert torch.equal(short[0], long[0])
    common = len(long[1]) - 16_000
    assert torch.equal(short[1][:common], long[1][:common])


def test_a_window_as_long_as_the_clip_changes_nothing(engine):
    plain, bounded = (clip(engine.stream(r)) for r in (REQUEST, replace(REQUEST, window_blocks=4)))
    for a, b in zip(plain, bounded, strict=True):
        assert torch.equal(a, b)
    assert engine.clock_for(replace(REQUEST, window_blocks=4)) == engine.clock


def test_without_a_window_long_clips_are_as_before(engine):
    assert engine.check(replace(REQUEST, seconds=34)).window is None
    assert engine.clock_for(replace(REQUEST, seconds=34)) == engine.clock


def test_the_times_of_chunks_follow_the_sound_once_the_window_moves(engine):
    chunks = list(engine.stream(replace(REQUEST, window_blocks=2)))
    lengths = [
        (later.frame_time - chunk.frame_time, len(chunk.frames))
        for chunk, later in pairwise(chunks)
    ]
    assert all(time == Fraction(n, 24) for time, n in lengths[:12])
    assert all(time == Fraction(n, 25) for time, n in lengths[12:])
    steady = list(engine.stream(replace(REQUEST, window_blocks=2, constant_rate=True)))
    assert all(c.frame_time == Fraction(c.first_frame, 24) for c in steady)


def test_memory_for_a_day_is_memory_for_its_window(engine):
    day = replace(REQUEST, seconds=86_400, window_blocks=5)
    requests = (day, replace(REQUEST, seconds=5), replace(REQUEST, seconds=0))
    cpu = torch.device("cpu")
    of_a_day, of_a_clip, without_end = (engine.memory(r).run_on(cpu) for r in requests)
    assert of_a_day - of_a_clip < 1024
    assert without_end == of_a_day


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": 35}, "a window of 5 blocks"),
        ({"seconds": 0, "window_blocks": 35}, "at most 34 blocks"),
        ({"window_blocks": -1}, "at least one block"),
        ({"window_blocks": 3, "sink_blocks": 3}, "leave no room"),
        ({"seconds": 0, "sink_blocks": 5}, "leave no room"),
        ({"window_blocks": 2.5}, "whole number"),
        ({"seconds": 0, "correlated_noise": True}, "drawn at once"),
        ({"seconds": 9, "window_blocks": 8, "height": 1024, "width": 2048}, "at most 2 blocks"),
    ],
)
def test_windows_that_cannot_work_are_refused_in_one_line(engine, change, words):
    with pytest.raises(RequestError, match=words) as caught:
        engine.check(replace(REQUEST, **change))
    assert "\n" not in str(caught.value)


def test_a_clip_with_correlated_noise_may_have_a_window(engine):
    engine.check(replace(REQUEST, seconds=9, window_blocks=5, correlated_noise=True))


@pytest.mark.parametrize("looks_back", [False, True])
def test_a_script_changes_what_comes_after_its_lines_begin(engine, looks_back):
    script = Script([ScriptLine(PROMPT, 2), ScriptLine(OTHER, 2)])
    request = replace(REQUEST, looks_back=looks_back)
    plain, _ = clip(engine.stream(request))
    told, _ = clip(engine.stream(request, next_said=script))
    assert torch.equal(plain[:45], told[:45])
    assert not torch.equal(plain[45:], told[45:])


def test_what_is_said_may_be_encoded_before(engine):
    texts = [engine.encode(prompt) for prompt in (PROMPT, OTHER)]
    script = Script([ScriptLine(text, 2) for text in texts])
    by_text = clip(engine.stream(REQUEST, text=texts[0], next_said=script))
    words = Script([ScriptLine(prompt, 2) for prompt in (PROMPT, OTHER)])
    for a, b in zip(by_text, clip(engine.stream(REQUEST, next_said=words)), strict=True):
        assert torch.equal(a, b)


def test_a_prompt_that_is_wrong_is_refused_before_the_stream_begins():
    with pytest.raises(PromptError):
        Script([ScriptLine(PROMPT, 2), ScriptLine("<S>open", 2)])


def test_decoding_beside_gives_the_same_stream(engine, tiny_models):
    other = HalloLive.load(tiny_models, placement=Placement.on("cpu", decoder=BESIDE))
    streams = [e.stream(OPEN, should_finish=stop_after(3)) for e in (engine, other)]
    for a, b in zip(*map(clip, streams), strict=True):
        assert torch.equal(a, b)
