from itertools import islice

import pytest
import torch

from hallo_live_core.sampling.sampler import PassDone, denoise_block, stream_blocks, stream_passes
from hallo_live_core.types import LatentBlock, TextContext

from .dit_models import TINY, joined, tiny_dit, tiny_stream, tiny_text

STEPS = 2


def run(model=None, **options):
    return list(stream_blocks(*tiny_stream(model or tiny_dit(), **options)))


@pytest.mark.parametrize("lookahead", [0, 3, 9])
def test_blocks_come_in_order_with_all_their_latents(lookahead):
    blocks = run(blocks=3, lookahead=lookahead)
    assert [b.index for b in blocks] == [0, 1, 2]
    assert [b.first_video_latent for b in blocks] == [0, 2, 4]
    assert [b.first_audio_latent for b in blocks] == [0, 4, 8]
    assert [b.is_last for b in blocks] == [False, False, True]
    for block in blocks:
        assert block.video.shape == (1, 2, 3, 4, 6)
        assert block.audio.shape == (1, 4, 4)
        assert block.audio_ahead.shape == (1, lookahead, 4)
        assert torch.isfinite(block.video).all() and torch.isfinite(block.audio).all()


def test_every_network_call_is_reported_and_the_last_block_needs_no_context_pass():
    denoiser, noise = tiny_stream(tiny_dit(), blocks=3)
    events = list(stream_passes(denoiser, noise))
    passes = [event.block for event in events if isinstance(event, PassDone)]
    assert passes == [0, 0, 0, 1, 1, 1, 2, 2]
    assert len(passes) == denoiser.state.plan.num_passes(STEPS)


def test_a_block_is_handed_over_before_its_context_pass():
    kinds = [type(event) for event in stream_passes(*tiny_stream(tiny_dit(), blocks=2))]
    assert kinds[: STEPS + 2] == [PassDone, PassDone, LatentBlock, PassDone]


@pytest.mark.parametrize("after", range(6))
def test_a_run_can_be_left_after_any_network_call(after):
    model, calls = tiny_dit(), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    stream = stream_passes(*tiny_stream(model, blocks=2))
    passes = (event for event in stream if isinstance(event, PassDone))
    assert len(list(islice(passes, after))) == min(after, 5)
    assert len(calls) == min(after, 5)


def test_a_stopped_run_can_be_taken_up_again():
    model = tiny_dit()
    whole = run(model, blocks=3)
    denoiser, noise = tiny_stream(model, blocks=3)
    first = list(islice(stream_blocks(denoiser, noise), 2))
    rest = list(stream_blocks(denoiser, noise))
    assert [b.index for b in rest] == [1, 2]
    for a, b in zip(joined([first[0], *rest]), joined(whole), strict=True):
        assert torch.equal(a, b)


def test_a_seed_gives_the_same_clip_in_any_batch():
    model, texts = tiny_dit(), tiny_text(3)
    batch = joined(run(model, lookahead=2, text=texts, seed=5))
    for sample in range(3):
        one = TextContext(texts.video[sample : sample + 1], texts.audio[sample : sample + 1])
        alone = joined(run(model, lookahead=2, text=one, seed=5 + sample))
        for together, single in zip(batch, alone, strict=True):
            torch.testing.assert_close(together[sample : sample + 1], single, rtol=1e-4, atol=1e-5)


def test_a_longer_clip_begins_like_the_shorter_one():
    model = tiny_dit()
    short, long = run(model, blocks=2), run(model, blocks=3)
    assert torch.equal(short[1].video, long[1].video)
    assert torch.equal(short[1].audio, long[1].audio)


def test_later_blocks_depend_on_earlier_ones():
    model = tiny_dit()
    denoiser, noise = tiny_stream(model, blocks=2)
    stream = stream_blocks(denoiser, noise)
    next(stream)
    second = next(stream)
    other, noise = tiny_stream(model, blocks=2)
    stream = stream_blocks(other, noise)
    next(stream)
    other.state.audio_history[:, :4] += 1.0
    assert not torch.allclose(next(stream).video, second.video)


def test_handed_over_latents_do_not_change_while_the_stream_goes_on():
    denoiser, noise = tiny_stream(tiny_dit(), blocks=2, lookahead=2)
    stream = stream_blocks(denoiser, noise)
    block = next(stream)
    kept = [x.clone() for x in (block.video, block.audio, block.audio_ahead)]
    next(stream)
    for now, before in zip((block.video, block.audio, block.audio_ahead), kept, strict=True):
        assert torch.equal(now, before)


def test_no_gradient_is_kept_while_streaming():
    model = tiny_dit().requires_grad_(True)
    assert not any(b.video.requires_grad or b.audio.requires_grad for b in run(model))


def test_the_callers_gradient_mode_is_left_alone():
    for _ in stream_blocks(*tiny_stream(tiny_dit())):
        assert torch.is_grad_enabled()


def test_a_self_rollout_may_leave_a_block_early_and_with_gradient():
    model = tiny_dit().requires_grad_(True)
    denoiser, noise = tiny_stream(model, blocks=2, gradient=True)

    def rollout():
        for block in denoiser.state.plan.blocks:
            clean = yield from denoise_block(denoiser, block, noise, last_step=0)
            denoiser.keep(block, clean)
            denoiser.settle(block, clean)
            (clean.video.square().mean() + clean.audio.square().mean()).backward()

    calls = list(rollout())
    assert len(calls) == 2
    assert all(p.grad is not None for n, p in model.named_parameters() if ".q." in n)


def test_streaming_in_half_precision_stays_near_float32():
    exact = joined(run(tiny_dit(), blocks=2, lookahead=2))
    half = joined(run(tiny_dit(dtype=torch.bfloat16), blocks=2, lookahead=2, dtype=torch.bfloat16))
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() / b.norm() < 3e-2


def test_caches_stay_where_they_are_over_two_clips():
    model, seen = tiny_dit(), set()
    denoiser, noise = tiny_stream(model, blocks=2)
    for _ in range(2):
        denoiser.state.next_block = 0
        for _ in stream_blocks(denoiser, noise):
            state = denoiser.state
            caches = (state.video_self, state.video_cross)
            seen.add(tuple(x.data_ptr() for c in caches for x in (c.keys, c.values)))
    assert len(seen) == 1


def test_a_second_clip_in_the_same_session_forgets_the_first():
    model = tiny_dit()
    denoiser, noise = tiny_stream(model, blocks=2)
    first = joined(list(stream_blocks(denoiser, noise)))
    denoiser.state.next_block = 0
    for a, b in zip(joined(list(stream_blocks(denoiser, noise))), first, strict=True):
        assert torch.equal(a, b)


def test_every_layer_runs_in_every_pass_but_the_last_of_a_context_pass_is_cut_short():
    model = tiny_dit()
    ran = [0] * TINY.num_layers
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.__setitem__(i, ran[i] + 1))
    run(model, blocks=2)
    assert ran == [5, 4]
