"""One transformer on two devices: the same clip, and no rank left behind."""

import threading
from dataclasses import replace

import pytest
import torch

from hallo_live_core.config import ScheduleConfig
from hallo_live_core.errors import RequestError, ShapeError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.functional.window import Window
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.first_frame import pin_first_frame
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.sampling.split import (
    SplitTransformer,
    cut_runs,
    replica,
    run_together,
    shares,
)
from hallo_live_core.state.exchange import Exchange, Part, RankStopped
from hallo_live_core.state.session import SessionShape
from hallo_live_core.threads import StandingThread

from .dit_models import BLOCKS, CPU, joined, normal, tiny_dit, tiny_stream, tiny_text

WIDE = torch.float64
SCHEDULE = NoiseSchedule(ScheduleConfig(steps=(1000, 500)))
DEVICES = (CPU, torch.device("cpu", 1))


def split_stream(
    model, *, ranks=2, latents=BLOCKS.video_latents, lookahead=0, batch=1, schedule=SCHEDULE, **plan
):
    """As `tiny_stream`, on several ranks; and the plain one for comparison."""
    sizes = replace(BLOCKS, video_latents=latents, lookahead=lookahead)
    _, noise = tiny_stream(model, dtype=WIDE)
    text = tiny_text(batch, dtype=WIDE)
    shape = SessionShape(ClipPlan(sizes, **{"num_blocks": 3, **plan}), 4, 6, batch=batch)
    clip = replace(noise.shape, plan=shape.plan, batch=batch)
    noises = [type(noise)(clip, 5, device=CPU, dtype=WIDE) for _ in range(2)]
    state = open_session(model, text, shape, schedule, dtype=WIDE)
    devices = [DEVICES[i % 2] for i in range(ranks)]
    network, first = SplitTransformer(model, devices).open(text, shape, schedule, dtype=WIDE)
    return (Denoiser(model, state, schedule), noises[0]), (
        Denoiser(network, first, schedule),
        noises[1],
    )


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def rank_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("hallo-live-rank")]


@pytest.mark.parametrize("lookahead", [0, 3])
@pytest.mark.parametrize(
    ("ranks", "latents", "batch"), [(2, 2, 1), (2, 3, 1), (3, 5, 1), (2, 2, 2)]
)
def test_ranks_that_share_the_picture_make_the_clip_of_one(ranks, latents, batch, lookahead):
    model = tiny_dit(dtype=WIDE)
    plain, split = split_stream(
        model, ranks=ranks, latents=latents, batch=batch, lookahead=lookahead
    )
    assert_same(joined(list(stream_blocks(*split))), joined(list(stream_blocks(*plain))))
    assert not rank_threads()


def test_a_cache_in_8_bits_loses_the_same_on_one_rank_and_on_two():
    model = tiny_dit(dtype=WIDE)
    exact, noise = split_stream(model)[0]
    text, plan = tiny_text(dtype=WIDE), exact.state.plan
    shape = SessionShape(plan, 4, 6, fp8_cache=True)
    expected = joined(list(stream_blocks(exact, noise)))
    state = open_session(model, text, shape, SCHEDULE, dtype=WIDE)
    alone = joined(list(stream_blocks(Denoiser(model, state, SCHEDULE), noise)))
    network, state = SplitTransformer(model, DEVICES).open(text, shape, SCHEDULE, dtype=WIDE)
    shared = joined(list(stream_blocks(Denoiser(network, state, SCHEDULE), noise)))
    assert_same(shared, alone)
    assert not torch.allclose(alone[0], expected[0], rtol=1e-9, atol=1e-9)


def test_a_clip_longer_than_its_window_slides_on_every_rank():
    plain, split = split_stream(tiny_dit(dtype=WIDE), num_blocks=6, window=Window(blocks=3, sink=1))
    assert_same(joined(list(stream_blocks(*split))), joined(list(stream_blocks(*plain))))


@pytest.mark.parametrize("context", [0.0, 50.0])
def test_a_given_first_frame_is_known_to_every_rank(context):
    model, picture = tiny_dit(dtype=WIDE), normal(1, 1, 3, 4, 6, dtype=WIDE)
    schedule = NoiseSchedule(ScheduleConfig(steps=(1000, 500), context_timestep=context))
    runs = split_stream(model, latents=3, num_blocks=2, schedule=schedule)
    for denoiser, _ in runs:
        shape = SessionShape(denoiser.state.plan, 4, 6)
        pin_first_frame(model, denoiser.state, shape, picture)
    plain, split = [joined(list(stream_blocks(*run))) for run in runs]
    assert_same(split, plain)
    assert torch.equal(split[0][:, :1], picture)


def test_every_rank_ends_with_the_whole_cache():
    (plain, noise), (split, other) = split_stream(tiny_dit(dtype=WIDE), ranks=2)
    list(stream_blocks(plain, noise))
    list(stream_blocks(split, other))
    settled = 2 * BLOCKS.video_latents * 6
    for rank in split.model._ranks:
        for name in ("video_self", "video_cross"):
            found, expected = getattr(rank.state, name), getattr(plain.state, name)
            assert_same(
                [x[:, :, :settled] for x in (found.keys, found.values)],
                [x[:, :, :settled] for x in (expected.keys, expected.values)],
            )


def test_a_rank_works_in_the_same_thread_in_every_pass():
    """Where cuDNN keeps its plans."""
    (_, _), (split, noise) = split_stream(tiny_dit(dtype=WIDE), num_blocks=2)
    seen = [set() for _ in split.model._ranks]
    for rank, threads in zip(split.model._ranks, seen, strict=True):
        rank.model.blocks[0].register_forward_hook(
            lambda *_, threads=threads: threads.add(threading.get_ident())
        )
    list(stream_blocks(split, noise))
    assert [len(threads) for threads in seen] == [1, 1] and seen[0] == {threading.get_ident()}


def test_a_rank_computes_only_its_own_part_of_the_picture():
    (_, _), (split, noise) = split_stream(tiny_dit(dtype=WIDE), latents=3, num_blocks=1)
    seen = []
    for rank in split.model._ranks:
        rank.model.blocks[0].video.ffn.register_forward_hook(
            lambda _, given, __: seen.append(given[0].shape[1])
        )
    list(stream_blocks(split, noise))
    assert sorted(seen) == [6, 6, 12, 12]  # two steps; one rank has one latent, one has two


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_one_rank_ends_all_and_reaches_the_caller(broken):
    (_, _), (split, noise) = split_stream(tiny_dit(dtype=WIDE))

    def fail(*_):
        raise MemoryError("no room on this rank")

    split.model._ranks[broken].model.blocks[1].video.ffn.register_forward_hook(fail)
    with pytest.raises(MemoryError, match="no room on this rank"):
        list(stream_blocks(split, noise))
    assert not rank_threads()


def test_a_failed_pass_leaves_nothing_behind_for_the_next():
    (plain, noise), (split, other) = split_stream(tiny_dit(dtype=WIDE), num_blocks=2)
    expected = joined(list(stream_blocks(plain, noise)))

    def fail(*_):
        raise MemoryError

    hook = split.model._ranks[1].model.blocks[1].register_forward_hook(fail)
    with pytest.raises(MemoryError):
        list(stream_blocks(split, other))
    hook.remove()
    assert_same(joined(list(stream_blocks(split, other))), expected)


def test_a_copy_on_the_same_device_shares_the_weights():
    model = tiny_dit()
    other = replica(model, CPU)
    assert other is not model and other.blocks[0] is not model.blocks[0]
    for (name, a), (twin, b) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert name == twin and a.data_ptr() == b.data_ptr()


@pytest.mark.parametrize(
    ("latents", "ranks", "expected"),
    [(6, 2, [(0, 3), (3, 6)]), (3, 2, [(0, 2), (2, 3)]), (7, 3, [(0, 3), (3, 5), (5, 7)])],
)
def test_latents_are_shared_as_equally_as_can_be(latents, ranks, expected):
    assert shares(latents, ranks) == expected


def test_timesteps_are_cut_where_the_latents_are():
    runs = ((0.0, 1), (937.5, 5))
    assert cut_runs(runs, 0, 3) == ((0.0, 1), (937.5, 2))
    assert cut_runs(runs, 3, 6) == ((937.5, 3),)
    row = torch.tensor([[0.0, 1.0, 2.0]])
    assert torch.equal(cut_runs(row, 1, 3), row[:, 1:3])


def test_what_cannot_be_shared_is_refused_in_one_line():
    model = tiny_dit()
    with pytest.raises(RequestError, match="at least two devices"):
        SplitTransformer(model, [CPU])
    with pytest.raises(ShapeError, match="fewer video latents than ranks"):
        shares(1, 2)
    shape = SessionShape(ClipPlan(BLOCKS, 1), 4, 6)
    schedule = NoiseSchedule()
    with pytest.raises(RequestError, match=r"2 latents, 3 devices"):
        SplitTransformer(model, [CPU] * 3).open(tiny_text(), shape, schedule, dtype=torch.float32)


def part(start, tokens, value):
    return Part(start, torch.full((1, tokens, 1, 1), value), torch.full((1, tokens, 1, 1), -value))


def test_every_rank_gets_every_part_at_its_place():
    exchange = Exchange(3)
    parts = [part(10, 2, 1.0), part(12, 1, 2.0), part(13, 1, 3.0)]
    wholes = [part(10, 4, 0.0) for _ in parts]
    threads = [StandingThread(f"rank {rank}") for rank in (1, 2)]
    run_together(lambda rank: exchange.gather(rank, parts[rank], wholes[rank]), threads)
    for whole in wholes:
        assert whole.keys.flatten().tolist() == [1.0, 1.0, 2.0, 3.0]
        assert whole.values.flatten().tolist() == [-1.0, -1.0, -2.0, -3.0]


def test_a_rank_that_waits_for_one_that_stopped_stops_too():
    exchange = Exchange(2)
    exchange.stop(1)
    with pytest.raises(RankStopped, match="Another rank"):
        exchange.gather(0, part(0, 1, 1.0), part(0, 2, 0.0))


def test_a_gpu_copy_waits_for_its_source_and_keeps_the_memory_until_then(monkeypatch):
    """With a stand-in for CUDA: the order of calls, which a CPU cannot get wrong by itself."""
    calls = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_event(self, event):
            calls.append(f"wait for {event}")

    class Current:
        def __init__(self, stream):
            pass

        def __enter__(self):
            calls.append("on the copying stream")

        def __exit__(self, *_):
            calls.append("back")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", Current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: calls.append("keep"))
    monkeypatch.setattr(Part, "put_into", lambda self, whole: calls.append("copy"))
    exchange = Exchange(2)
    exchange._boxes[1, 0].put(part(1, 1, 2.0)._replace(written="its kernels"))
    exchange.gather(0, part(0, 1, 1.0), part(0, 2, 0.0))
    own = ["copy"]
    received = ["on the copying stream", "wait for its kernels", "keep", "keep", "copy", "back"]
    assert calls == own + received
