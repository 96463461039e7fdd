from dataclasses import replace

import pytest
import torch

from hallo_live_core.errors import HalloLiveError, PromptError, RequestError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.script import Script, ScriptLine, script_of_text
from hallo_live_core.functional.window import Window
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import PassDone, stream_blocks, stream_passes
from hallo_live_core.sampling.split import SplitTransformer
from hallo_live_core.state.session import SessionShape, session_nbytes
from hallo_live_core.types import LatentBlock, TextContext

from .dit_models import BLOCKS, CPU, TINY, joined, normal, tiny_dit, tiny_stream, tiny_text

OTHER = TextContext(normal(1, 3, 6, seed=31), normal(1, 3, 6, seed=32))
WINDOW = Window(blocks=3, sink=1)


# -- lines ------------------------------------------------------------------------------------


def test_lines_begin_at_whole_blocks_one_after_the_other():
    script = Script([ScriptLine("a", 2), ScriptLine("b", 1.2), ScriptLine("c")])
    assert [script(block) for block in range(6)] == ["a", None, "b", None, "c", None]
    assert script.first == "a" and script.seconds == 0


def test_a_script_whose_lines_all_end_has_a_length():
    assert Script([ScriptLine("a", 2), ScriptLine("b", 1.2)]).seconds == 4


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", 10**9])
def test_a_line_of_no_length_is_refused(seconds):
    with pytest.raises(RequestError, match="A line must last"):
        ScriptLine("a", seconds)


def test_a_number_too_long_to_write_out_is_refused_as_any_other():
    with pytest.raises(RequestError, match="Found: a number of thousands of digits"):
        ScriptLine("a", 10**5000)


def test_only_the_last_line_may_be_without_end():
    with pytest.raises(RequestError, match="line 1 has no seconds"):
        Script([ScriptLine("a"), ScriptLine("b", 2)])


@pytest.mark.parametrize("count", [0, 1001])
def test_a_script_of_no_line_or_too_many_is_refused(count):
    with pytest.raises(RequestError, match="1 to 1000 lines"):
        Script([ScriptLine("a", 1)] * count)


def test_a_line_with_broken_tags_is_refused():
    with pytest.raises(PromptError, match="<S>"):
        ScriptLine("He says <S>hello.", 3)


@pytest.mark.parametrize("seconds", ["2s", "2,5", "-1", ".5", "1e9"])
def test_seconds_that_are_no_number_are_refused_and_not_spoken(seconds):
    with pytest.raises(RequestError, match=r"Line 2 of the script.*no number of seconds.*Fix: "):
        script_of_text(f"1 | One.\n{seconds} | Two.", "A man.")


def test_a_bar_among_words_is_left_to_them():
    script = script_of_text("1.5 | 3 | 4\nEither | or", "A man.")
    assert [line.seconds for line in script.lines] == [1.5, None]
    assert "3 | 4" in script.lines[0].said and "Either | or" in script.lines[1].said


# -- what a new prompt changes ----------------------------------------------------------------


def told(plan, script, *, keeps_video=False, model=None):
    """Blocks of a stream whose prompt changes as `script` (block -> text) says."""
    return [e for e in events(plan, script, keeps_video, model) if isinstance(e, LatentBlock)]


def events(plan, script, keeps_video=False, model=None):
    model = model or tiny_dit()
    denoiser, noise = tiny_stream(model, blocks=plan)
    if keeps_video:
        shape = SessionShape(plan, 4, 6, keeps_video=True)
        text, schedule = tiny_text(), denoiser.schedule
        state = open_session(model, text, shape, schedule, dtype=torch.float32)
        denoiser = Denoiser(model, state, schedule)
    return list(stream_passes(denoiser, noise, next_text=script.get))


@pytest.mark.parametrize("keeps_video", [False, True])
@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("lookahead", [0, 3])
def test_a_new_prompt_changes_later_blocks_and_only_those(window, keeps_video, lookahead):
    plan = ClipPlan(replace(BLOCKS, lookahead=lookahead), 6, window)
    plain, other = told(plan, {}), told(plan, {4: OTHER}, keeps_video=keeps_video)
    for block in range(4):
        assert torch.equal(plain[block].video, other[block].video)
        assert torch.equal(plain[block].audio, other[block].audio)
    for block in (4, 5):
        assert not torch.allclose(plain[block].video, other[block].video)
        assert not torch.allclose(plain[block].audio, other[block].audio)


def test_the_same_prompt_again_changes_nothing():
    plan = ClipPlan(BLOCKS, 4, WINDOW)
    pairs = zip(joined(told(plan, {})), joined(told(plan, {2: tiny_text()})), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_looking_back_takes_a_context_pass_for_every_remembered_block():
    plan = ClipPlan(BLOCKS, 6, WINDOW)
    plain, looking = events(plan, {1: OTHER, 4: OTHER}), events(plan, {1: OTHER, 4: OTHER}, True)
    count = [sum(isinstance(e, PassDone) for e in run) for run in (plain, looking)]
    assert count[1] - count[0] == 1 + 2
    assert not torch.allclose(*(joined_of(run)[0][:, -2:] for run in (plain, looking)))


def joined_of(run):
    return joined([event for event in run if isinstance(event, LatentBlock)])


def test_looking_back_under_another_prompt_is_remembering_it_under_that_prompt():
    """Without sound, whose history every pass computes anew, the caches would say nothing else."""
    model, plan = tiny_dit(dtype=torch.float64), ClipPlan(BLOCKS, 3)
    shape = SessionShape(plan, 4, 6, keeps_video=True)
    text, other = (TextContext(t.video.double(), t.audio.double()) for t in (tiny_text(), OTHER))
    plain, noise = tiny_stream(model, blocks=plan, dtype=torch.float64)
    sessions = [
        open_session(model, t, shape, plain.schedule, dtype=torch.float64) for t in (text, other)
    ]
    changed, there = (Denoiser(model, state, plain.schedule) for state in sessions)
    stream = stream_blocks(changed, noise)
    first, _, _ = next(stream), next(stream), stream.close()
    there.state.video_history.copy_(changed.state.video_history)
    there.state.audio_history.copy_(changed.state.audio_history)
    changed.say(other)
    for denoiser in (changed, there):
        denoiser.recall(plan.block(0))
    caches = [(s.state.video_self, s.state.video_cross) for s in (changed, there)]
    for a, b in zip(*caches, strict=True):
        tokens = first.video.shape[1] * 6
        torch.testing.assert_close(a.keys[:, :, :tokens], b.keys[:, :, :tokens])
        torch.testing.assert_close(a.values[:, :, :tokens], b.values[:, :, :tokens])


def test_a_session_that_keeps_no_picture_cannot_look_back():
    denoiser, _ = tiny_stream(tiny_dit())
    with pytest.raises(HalloLiveError, match="keeps no picture"):
        denoiser.recall(denoiser.state.plan.block(0))


def test_the_bytes_of_a_session_that_looks_back_are_foretold():
    shape = SessionShape(ClipPlan(BLOCKS, 9, WINDOW), 4, 6, batch=2, keeps_video=True)
    schedule = tiny_stream(tiny_dit())[0].schedule
    state = open_session(tiny_dit(), tiny_text(2), shape, schedule, dtype=torch.float32)
    found = session_nbytes(TINY, replace(shape, num_timesteps=3), torch.float32)
    assert state.nbytes == found


def test_all_ranks_of_a_split_transformer_read_the_new_prompt():
    model, plan = tiny_dit(dtype=torch.float64), ClipPlan(BLOCKS, 4)
    plain, noise = tiny_stream(model, blocks=plan, dtype=torch.float64)
    split = SplitTransformer(model, [CPU, torch.device("cpu", 1)])
    text, shape = tiny_text(dtype=torch.float64), SessionShape(plan, 4, 6)
    opened = split.open(text, shape, plain.schedule, dtype=torch.float64)
    denoisers = plain, Denoiser(*opened, plain.schedule)
    runs = [list(stream_passes(d, noise, next_text={2: OTHER}.get)) for d in denoisers]
    for a, b in zip(*map(joined_of, runs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
