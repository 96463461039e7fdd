from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hallo_live_core.config import BlockSizes
from hallo_live_core.errors import RequestError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.rope import (
    audio_angles,
    cos_sin,
    earlier_in_time,
    rotate,
    video_table,
)
from hallo_live_core.functional.schedule import NoiseSchedule, clean_from_flow
from hallo_live_core.functional.window import Window
from hallo_live_core.models.dit import CachedPass
from hallo_live_core.sampling.denoiser import Clean, Denoiser, check_window, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.sampling.split import SplitTransformer
from hallo_live_core.state.fp8_cache import Fp8KVCache, Scaled
from hallo_live_core.state.kv_cache import ConcatCache, KVCache, Slide
from hallo_live_core.state.session import SessionShape, session_nbytes

from .dit_models import BLOCKS, CPU, TINY, joined, normal, tiny_dit, tiny_stream, tiny_text

WINDOW = Window(blocks=3, sink=1)
TOKENS = 6  # of one video latent of `tiny_stream`
PAIRED = BlockSizes(2, 10)  # picture and sound move alike: 0.2 of a video latent per audio latent
STEP = BLOCKS.video_latents * TOKENS


def bounded(blocks, window=WINDOW, *, lookahead=0, sizes=BLOCKS):
    return ClipPlan(replace(sizes, lookahead=lookahead), blocks, window)


def run(blocks, **options):
    return list(stream_blocks(*tiny_stream(tiny_dit(), blocks=blocks, **options)))


# -- which blocks are seen, and where they stand ----------------------------------------------


def test_a_window_keeps_the_first_blocks_and_the_newest():
    seen = [Window(blocks=4, sink=1).seen(block) for block in range(7)]
    assert seen[:4] == [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]
    assert seen[4:] == [(0, 2, 3, 4), (0, 3, 4, 5), (0, 4, 5, 6)]


def test_a_window_without_sink_keeps_only_the_newest():
    assert Window(blocks=3, sink=0).seen(9) == (7, 8, 9)


def test_every_block_beyond_the_window_stands_at_its_last_place():
    assert [WINDOW.place(block) for block in range(6)] == [0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(("blocks", "sink"), [(0, 0), (3, 3), (3, -1)])
def test_a_window_without_room_for_the_block_in_work_is_refused(blocks, sink):
    with pytest.raises(RequestError):
        Window(blocks, sink)


def test_a_plan_needs_memory_for_its_window_only():
    plan = ClipPlan(BLOCKS, 200, WINDOW)
    assert plan.slides and plan.remembered.num_blocks == 3
    assert not ClipPlan(BLOCKS, 3, WINDOW).slides
    placed = plan.place(plan.block(199))
    assert (placed.first_video, placed.end_audio) == (4, 12)
    assert placed.index == 199 and placed.is_last


def test_a_window_that_attention_cannot_see_whole_is_refused_before_it_loses_its_sink():
    check_window(ClipPlan(BLOCKS, 9, WINDOW), TOKENS, attention_window=3 * STEP)
    with pytest.raises(RequestError, match="at most 2 blocks"):
        check_window(ClipPlan(BLOCKS, 9, WINDOW), TOKENS, attention_window=3 * STEP - 1)


# -- what comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize("lookahead", [0, 3])
def test_a_stream_as_long_as_its_window_equals_the_unbounded_one_to_the_bit(lookahead):
    streams = run(bounded(3, lookahead=lookahead)), run(3, lookahead=lookahead)
    for a, b in zip(*map(joined, streams), strict=True):
        assert torch.equal(a, b)


def test_a_longer_stream_begins_like_the_unbounded_one_and_goes_on_differently():
    short, long = run(bounded(4)), run(4)
    for block in range(3):
        assert torch.equal(short[block].video, long[block].video)
        assert torch.equal(short[block].audio, long[block].audio)
    assert not torch.equal(short[3].video, long[3].video)


class CountingOn(Denoiser):
    """The same window by other means: positions count on, and the sink is carried along.

    Keys of all blocks are kept as they were made; those of the first blocks are turned forward when
    they are looked at. The sound is put together from all that was ever made.
    """

    def __init__(self, model, plan, schedule):
        self.seen, plan = plan.window, replace(plan, window=None)
        text, shape = tiny_text(dtype=torch.float64), SessionShape(plan, 4, 6)
        state = open_session(model, text, shape, schedule, dtype=torch.float64)
        state.video_self = state.video_cross = None
        super().__init__(model, state, schedule)
        head = TINY.video.head_dim
        grid = (plan.video_latents, 2, 3)
        self.video_rows = video_table(grid, head, device=CPU, dtype=torch.float64)
        self.audio_rows = cos_sin(audio_angles(plan.audio_horizon, head, TINY.audio_rope_scale))
        self.caches = [[{} for _ in range(TINY.num_layers)] for _ in range(2)]

    def clean(self, block, video, window, timestep, *, gradient=False):
        schedule, past = self.schedule, self.history(block)
        audio, sigma = torch.cat([past, window], dim=1), schedule.sigma(timestep)
        times = (schedule.context, past.shape[1]), (timestep, block.window)
        flow, sound = self.model(video, audio, self.call(block, (timestep, 2), times))
        context = schedule.sigma(schedule.context)
        before = clean_from_flow(past, sound[:, : past.shape[1]], context)
        now = clean_from_flow(window, sound[:, past.shape[1] :], sigma)
        self.now = torch.cat([before, now], dim=1)
        whole = torch.cat([self.state.audio_history[:, : block.first_audio], now], dim=1)
        return Clean(clean_from_flow(video, flow, sigma), whole)

    def settle(self, block, clean):
        context = self.schedule.context
        times = ((context, self.now.shape[1]),)
        self.model.settle(clean.video, self.now, self.call(block, (context, 2), times))

    def history(self, block):
        audio, step = self.state.audio_history, PAIRED.audio_latents
        seen = [audio[:, i * step : (i + 1) * step] for i in self.seen.seen(block.index)[:-1]]
        return torch.cat([audio[:, :0], *seen], dim=1)

    def call(self, block, video_times, audio_times):
        moved = max(0, block.index - self.seen.blocks + 1)
        first = moved * PAIRED.audio_latents
        rotary = SimpleNamespace(
            tokens_per_latent=TOKENS,
            video_rows=lambda f, n: self.video_rows[f * TOKENS : (f + n) * TOKENS],
            audio_rows=lambda n: self.audio_rows[first : first + n],
        )
        state = replace(self.state, rotary=rotary)
        state.video_self, state.video_cross = (
            SimpleNamespace(layer=lambda i, c=c: self.layer(c[i], block.index, moved))
            for c in self.caches
        )
        return CachedPass(state, block.first_video, (video_times,), audio_times)

    def layer(self, kept, index, moved):
        back = earlier_in_time(TINY.video.head_dim, moved * PAIRED.video_latents, torch.float64)
        forward = back * torch.tensor([1.0, -1.0])

        def extend(_start, keys, values):
            kept[index] = keys, values
            seen = self.seen.seen(index)
            k = [rotate(kept[i][0], forward) if i < self.seen.sink else kept[i][0] for i in seen]
            return torch.cat(k, dim=1), torch.cat([kept[i][1] for i in seen], dim=1)

        return SimpleNamespace(extend=extend)


@pytest.mark.parametrize("lookahead", [0, 3])
@pytest.mark.parametrize("window", [WINDOW, Window(4, 2), Window(3, 0), Window(2, 1), Window(1, 0)])
def test_it_equals_positions_that_count_on_with_the_sink_carried_along(window, lookahead):
    model, plan = (
        tiny_dit(dtype=torch.float64),
        bounded(6, window, lookahead=lookahead, sizes=PAIRED),
    )
    denoiser, noise = tiny_stream(model, blocks=plan, dtype=torch.float64)
    other = CountingOn(model, plan, denoiser.schedule)
    moved, counted = (joined(list(stream_blocks(d, noise))) for d in (denoiser, other))
    for a, b in zip(moved, counted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_stopped_stream_can_be_taken_up_again_after_it_has_slid():
    whole = joined(run(bounded(6)))
    denoiser, noise = tiny_stream(tiny_dit(), blocks=bounded(6))
    first = list(islice(stream_blocks(denoiser, noise), 4))
    again = joined([*first[:3], *stream_blocks(denoiser, noise)])
    for a, b in zip(again, whole, strict=True):
        assert torch.equal(a, b)


def test_ranks_that_share_a_stream_slide_together():
    model, plan = tiny_dit(dtype=torch.float64), bounded(6)
    plain, noise = tiny_stream(model, blocks=plan, dtype=torch.float64)
    shape, text = SessionShape(plan, 4, 6), tiny_text(dtype=torch.float64)
    split = SplitTransformer(model, [CPU, torch.device("cpu", 1)])
    opened = split.open(text, shape, plain.schedule, dtype=torch.float64)
    streams = (stream_blocks(d, noise) for d in (plain, Denoiser(*opened, plain.schedule)))
    for a, b in zip(*(joined(list(stream)) for stream in streams), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# -- what it costs ----------------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """Counts operators and the bytes that they write."""

    def __init__(self):
        super().__init__()
        self.calls = self.nbytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        self.calls += 1
        self.nbytes += out.nbytes if isinstance(out, torch.Tensor) else 0
        return out


def test_memory_addresses_and_work_per_block_stay_the_same_over_200_blocks():
    denoiser, noise = tiny_stream(tiny_dit(), blocks=bounded(201), steps=(1000,))
    state, work, held = denoiser.state, [], set()
    stream = stream_blocks(denoiser, noise)
    for _ in range(200):
        with Counted() as counted:
            next(stream)
        work.append((counted.calls, counted.nbytes))
        caches = (state.video_self, state.video_cross)
        places = (x.data_ptr() for c in caches for x in (c.keys, c.values))
        held.add((state.nbytes, *places, state.audio_history.data_ptr()))
    assert len(held) == 1
    assert len(set(work[WINDOW.blocks :])) == 1
    assert state.nbytes == session_nbytes(
        TINY, SessionShape(state.plan, 4, 6, num_timesteps=2), torch.float32
    )


# -- caches -----------------------------------------------------------------------------------


def slide(sink=1, dtype=torch.float32):
    turn = earlier_in_time(12, BLOCKS.video_latents, dtype)
    return Slide(sink * STEP, STEP, turn)


def block(seed, dtype=torch.float32):
    return normal(1, STEP, 2, 12, seed=seed, dtype=dtype), normal(
        1, STEP, 2, 12, seed=seed + 900, dtype=dtype
    )


def test_a_key_moved_up_is_the_key_of_the_same_token_earlier():
    keys = normal(1, STEP, 2, 12, dtype=torch.float64)
    turns = video_table((4, 2, 3), 12, device=CPU, dtype=torch.float64)
    moved = rotate(rotate(keys, turns[STEP:]), earlier_in_time(12, 2, torch.float64))
    torch.testing.assert_close(moved, rotate(keys, turns[:STEP]))


@torch.no_grad()
def test_both_kinds_of_cache_make_room_in_the_same_way():
    buffers = KVCache.allocate((1, 1, 3 * STEP, 2, 12), device=CPU, dtype=torch.float32)
    pieces = ConcatCache(1)
    for number in range(3):
        for cache in (buffers, pieces):
            cache.layer(0).extend(number * STEP, *block(number))
    for number in range(3, 6):
        for cache in (buffers, pieces):
            cache.slide(slide())
        seen = [c.layer(0).extend(2 * STEP, *block(number)) for c in (buffers, pieces)]
        for a, b in zip(*seen, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(seen[0][0][:, :STEP], block(0)[0])
        assert torch.equal(seen[0][1][:, STEP : 2 * STEP], block(number - 1)[1])


@torch.no_grad()
def test_in_8_bits_the_sink_and_all_values_stay_as_they_are_and_keys_are_near():
    cache = Fp8KVCache.allocate((2, 1, 3 * STEP, 2, 12), device=CPU, dtype=torch.float32)
    exact = ConcatCache(2)
    for number in range(8):
        for kind in (cache, exact):
            if number >= 3:
                kind.slide(slide())
            kind.layer(1).extend(min(number, 2) * STEP, *block(number))
    (keys, values), (true, plain) = (c.layer(1).extend(2 * STEP, *block(9)) for c in (cache, exact))
    assert (keys - true).norm() / true.norm() < 0.04
    assert (values - plain).norm() / plain.norm() < 0.03
    assert torch.equal(cache.stored[0].values[1][:, :STEP].float(), in_8_bits(block(0)[0]))


def in_8_bits(x):
    stored = Scaled.allocate(x.shape, CPU)
    stored.write(x)
    return stored.values.float()


@torch.no_grad()
def test_rounding_does_not_add_up_however_long_the_stream():
    half = KVCache.allocate((1, 1, 5 * STEP, 2, 12), device=CPU, dtype=torch.bfloat16)
    exact = KVCache.allocate((1, 1, 5 * STEP, 2, 12), device=CPU, dtype=torch.float64)
    moves = [(half, slide(), torch.bfloat16), (exact, slide(dtype=torch.float64), torch.float64)]
    errors = []
    for number in range(60):
        for cache, step, dtype in moves:
            if number >= 5:
                cache.slide(step)
            cache.layer(0).extend(min(number, 4) * STEP, *block(number, dtype))
        error = half.keys.double() - exact.keys if number >= 4 else torch.zeros(1)
        errors.append(float(error.norm() / exact.keys.norm()))
    assert max(errors[-10:]) < 6e-3
    assert max(errors[-10:]) < 1.05 * max(errors[8:20])


def test_a_session_has_nothing_to_slide_where_all_of_it_fits():
    model, schedule = tiny_dit(), NoiseSchedule()
    shape = SessionShape(ClipPlan(BLOCKS, 3, WINDOW), 4, 6)
    assert open_session(model, tiny_text(), shape, schedule, dtype=torch.float32).slide is None
