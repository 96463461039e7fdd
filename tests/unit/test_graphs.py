"""Recorded passes, with a stand-in for CUDA graphs: what is recorded, replayed, and let go."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from hallo_live_core.errors import HalloLiveError, RequestError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.functional.window import Window
from hallo_live_core.models.dit import fuse_projections
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.first_frame import pin_first_frame
from hallo_live_core.sampling.graphs import CudaRecorder, GraphedTransformer
from hallo_live_core.sampling.sampler import stream_blocks, stream_passes
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import LatentBlock, TextContext

from .dit_models import BLOCKS, CPU, joined, normal, tiny_dit, tiny_stream

SCHEDULE = NoiseSchedule()
SHAPE = SessionShape(ClipPlan(BLOCKS, 3), 4, 6)
WIDE = torch.float64


class FakeRecorder:
    """Replaying does the work again, on what stands at the recorded addresses by then."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def record(self, work):
        self.recorded += 1
        answer = work()

        def replay():
            self.replayed += 1
            again = work()
            for old, new in zip(answer or (), again or (), strict=True):
                old.copy_(new)

        for tensor in answer or ():
            tensor.fill_(torch.nan)  # recording computes nothing
        return answer, replay


def prompt(seed=1):
    return TextContext.shared(normal(1, 3, 6, seed=seed, dtype=WIDE))


def graphed(model=None):
    recorder = FakeRecorder()
    return GraphedTransformer(model or tiny_dit(dtype=WIDE), CPU, recorder), recorder


def noise(seed=5, shape=SHAPE):
    _, source = tiny_stream(tiny_dit(dtype=WIDE), dtype=WIDE)
    clip = replace(source.shape, plan=shape.plan)
    return type(source)(clip, seed, device=CPU, dtype=WIDE)


def clip(transformer, text, *, seed=5, shape=SHAPE, first_frame=None, next_text=None):
    """All blocks of a clip; `transformer` is a plain or a recorded one."""
    if isinstance(transformer, GraphedTransformer):
        network, state = transformer.open(text, shape, SCHEDULE, dtype=WIDE)
    else:
        network = transformer
        state = open_session(transformer, text, shape, SCHEDULE, dtype=WIDE)
    if first_frame is not None:
        pin_first_frame(tiny_dit(dtype=WIDE), state, shape, first_frame)
    denoiser = Denoiser(network, state, SCHEDULE)
    events = stream_passes(denoiser, noise(seed, shape), next_text=next_text)
    return joined([event for event in events if isinstance(event, LatentBlock)])


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prepared", [lambda model: model, fuse_projections])
def test_clips_one_after_the_other_are_what_they_are_without_recordings(prepared):
    transformer, recorder = graphed(prepared(tiny_dit(dtype=WIDE)))
    for seed in (1, 2, 3):
        assert_same(
            clip(transformer, prompt(seed), seed=seed),
            clip(tiny_dit(dtype=WIDE), prompt(seed), seed=seed),
        )
    assert recorder.replayed > 0


def test_every_block_and_every_context_pass_is_recorded_once():
    transformer, recorder = graphed()
    clip(transformer, prompt())
    assert recorder.recorded == 3  # four passes of a block: one as it is, and then recorded
    assert recorder.replayed == 3 * 3
    clip(transformer, prompt())
    assert recorder.recorded == 3 + 2  # no context pass after the last block
    clip(transformer, prompt())
    assert recorder.recorded == 3 + 2
    assert recorder.replayed == 3 * 3 + 2 * (3 * 4 + 2)


def test_a_session_stays_where_it_is_for_the_next_clip():
    transformer, _ = graphed()
    places = []
    for seed in (1, 2):
        _, state = transformer.open(prompt(seed), SHAPE, SCHEDULE, dtype=WIDE)
        keys = [*state.text.video_keys, *state.text.audio_keys]
        places.append(
            [state.video_self.keys.data_ptr(), *(t.data_ptr() for pair in keys for t in pair)]
        )
        assert state.next_block == 0 and not state.audio_history.any()
        clip(transformer, prompt(seed))
    assert places[0] == places[1]


@pytest.mark.parametrize(
    "shape",
    [
        replace(SHAPE, fp8_cache=True),
        replace(SHAPE, plan=ClipPlan(BLOCKS, 5, Window(2, 1))),
        replace(SHAPE, plan=ClipPlan(replace(BLOCKS, lookahead=2), 3)),
    ],
    ids=["past in 8 bits", "window", "look-ahead"],
)
def test_every_kind_of_session_can_be_recorded(shape):
    transformer, recorder = graphed()
    for seed in (1, 2, 3):
        assert_same(
            clip(transformer, prompt(seed), seed=seed, shape=shape),
            clip(tiny_dit(dtype=WIDE), prompt(seed), seed=seed, shape=shape),
        )
    assert recorder.replayed > recorder.recorded


def test_another_shape_begins_anew():
    transformer, recorder = graphed()
    clip(transformer, prompt())
    larger = replace(SHAPE, width=8)
    assert_same(
        clip(transformer, prompt(), shape=SHAPE), clip(tiny_dit(dtype=WIDE), prompt(), shape=SHAPE)
    )
    before = recorder.recorded
    network, state = transformer.open(prompt(), larger, SCHEDULE, dtype=WIDE)
    assert state.rotary.tokens_per_latent == 2 * 4
    assert network is not None and recorder.recorded == before


def test_a_prompt_may_change_on_the_way():
    transformer, _ = graphed()
    for _ in range(3):
        change = {"next_text": lambda block: prompt(9) if block == 1 else None}
        assert_same(
            clip(transformer, prompt(), **change), clip(tiny_dit(dtype=WIDE), prompt(), **change)
        )


def test_a_clip_may_begin_with_a_picture_and_the_next_without():
    transformer, _ = graphed()
    picture = normal(1, 1, 3, 4, 6, seed=3, dtype=WIDE)
    for first_frame in (None, picture, picture, None):
        assert_same(
            clip(transformer, prompt(), first_frame=first_frame),
            clip(tiny_dit(dtype=WIDE), prompt(), first_frame=first_frame),
        )


def test_weights_that_have_moved_are_recorded_anew():
    transformer, recorder = graphed()
    clip(transformer, prompt())
    before = recorder.recorded
    clip(transformer, prompt())
    grown = recorder.recorded - before
    weight = transformer.models[0].blocks[0].video.ffn[0].weight
    weight.data = weight.data * 2
    clip(transformer, prompt())
    changed = tiny_dit(dtype=WIDE)
    changed.blocks[0].video.ffn[0].weight.data *= 2
    assert recorder.recorded == before + grown + 3
    assert_same(clip(transformer, prompt()), clip(changed, prompt()))


def test_dropping_lets_go_of_everything_and_ends_the_clip_in_work():
    transformer, _ = graphed()
    network, state = transformer.open(prompt(), SHAPE, SCHEDULE, dtype=WIDE)
    blocks = stream_blocks(Denoiser(network, state, SCHEDULE), noise())
    next(blocks)
    transformer.drop()
    with pytest.raises(HalloLiveError, match="the model was moved"):
        next(blocks)
    transformer.drop()
    assert_same(clip(transformer, prompt()), clip(tiny_dit(dtype=WIDE), prompt()))


def test_a_second_clip_ends_the_first():
    transformer, _ = graphed()
    network, state = transformer.open(prompt(), SHAPE, SCHEDULE, dtype=WIDE)
    blocks = stream_blocks(Denoiser(network, state, SCHEDULE), noise())
    next(blocks)
    clip(transformer, prompt(2))
    with pytest.raises(HalloLiveError, match="Another clip"):
        next(blocks)


def test_without_a_gpu_there_are_no_recordings():
    with pytest.raises(RequestError, match="need a GPU"):
        GraphedTransformer(tiny_dit(), CPU)


def test_recordings_share_one_stream_which_has_the_priority_of_the_callers(monkeypatch):
    """With a stand-in for CUDA; recorded kernels run with the priority they were recorded with."""
    made, used = [], []

    def stream(device, priority):
        made.append((device, priority))
        return len(made)

    def graph(graph, *, pool, stream, capture_error_mode):
        used.append((pool, stream, capture_error_mode))
        return nullcontext()

    stand_ins = {
        "graph_pool_handle": lambda: "pool",
        "current_stream": lambda _: SimpleNamespace(priority=-1),
        "Stream": stream,
        "CUDAGraph": lambda: SimpleNamespace(replay="replay"),
        "device": lambda _: nullcontext(),
        "graph": graph,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    gpu = torch.device("cuda", 1)
    recorder = CudaRecorder(gpu)
    assert [recorder.record(lambda n=n: n) for n in (1, 2)] == [(1, "replay"), (2, "replay")]
    assert made == [(gpu, -1)]
    assert used == [("pool", 1, "thread_local")] * 2
