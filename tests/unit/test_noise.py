import torch

from hallo_live_core.config import BlockSizes
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import (
    ClipShape,
    CorrelatedNoise,
    SeededNoise,
    audio_window,
)

from .dit_models import CPU

VIDEO = (3, 8, 6)


def noise(seed=0, batch=1, blocks=3, lookahead=2, kind=SeededNoise, dtype=torch.float32):
    plan = ClipPlan(BlockSizes(2, 4, lookahead), blocks)
    return kind(ClipShape(plan, VIDEO, 4, batch=batch), seed, device=CPU, dtype=dtype), plan


def everything(source, plan):
    drawn = []
    for block in plan.blocks:
        drawn += [source.initial_video(block), source.initial_audio(block), *source.fresh(block, 0)]
    return drawn


def test_a_seed_means_one_clip():
    for a, b in zip(everything(*noise(7)), everything(*noise(7)), strict=True):
        assert torch.equal(a, b)


def test_other_seeds_blocks_steps_and_streams_draw_other_noise():
    source, plan = noise(7)
    first, second = plan.block(0), plan.block(1)
    draws = [
        source.initial_video(first),
        source.initial_video(second),
        source.fresh(first, 0)[0],
        source.fresh(first, 1)[0],
        noise(8)[0].initial_video(first),
    ]
    for i, a in enumerate(draws):
        for b in draws[i + 1 :]:
            assert not torch.isclose(a, b).any(dim=-1).all()
    shared = source.initial_audio(first).flatten()
    assert not torch.equal(shared, source.initial_video(first).flatten()[: shared.numel()])


def test_a_sample_of_a_batch_draws_what_it_draws_alone():
    batch = everything(*noise(7, batch=3))
    for sample in range(3):
        alone = everything(*noise(7 + sample))
        for a, b in zip(batch, alone, strict=True):
            assert torch.equal(a[sample : sample + 1], b)


def test_the_order_of_asking_does_not_matter():
    source, plan = noise(7)
    last = source.initial_video(plan.block(2))
    everything(source, plan)
    assert torch.equal(source.initial_video(plan.block(2)), last)


def test_a_longer_clip_begins_like_the_shorter_one():
    for a, b in zip(everything(*noise(7, blocks=2)), everything(*noise(7, blocks=4)), strict=False):
        assert torch.equal(a, b)


def test_noise_is_standard_normal():
    source, plan = noise(7, blocks=30)
    values = torch.cat([source.initial_video(b).flatten() for b in plan.blocks])
    assert abs(float(values.mean())) < 0.03 and abs(float(values.std()) - 1) < 0.03


def test_the_noise_of_a_window_covers_the_lookahead():
    source, plan = noise()
    assert source.fresh(plan.block(0), 0)[1].shape == (1, 6, 4)
    assert source.initial_audio(plan.block(0)).shape == (1, 4, 4)


def test_it_comes_in_the_dtype_of_the_stream():
    source, plan = noise(dtype=torch.bfloat16)
    exact = noise()[0].initial_video(plan.block(0))
    assert torch.equal(source.initial_video(plan.block(0)), exact.bfloat16())


def test_the_lookahead_starts_from_the_noise_of_the_next_block():
    source, plan = noise(lookahead=2)
    window = audio_window(source, plan, plan.block(0))
    assert torch.equal(window[:, :4], source.initial_audio(plan.block(0)))
    assert torch.equal(window[:, 4:], source.initial_audio(plan.block(1))[:, :2])


def test_past_the_end_of_the_clip_the_own_noise_is_repeated():
    source, plan = noise(lookahead=11)
    own, last = (source.initial_audio(plan.block(i)) for i in (1, 2))
    window = audio_window(source, plan, plan.block(1))
    assert torch.equal(window, torch.cat([own, last, own, own[:, :3]], dim=1))


def test_correlated_noise_gives_both_streams_the_same_values():
    source, plan = noise(seed=3, kind=CorrelatedNoise)
    video = torch.cat([source.initial_video(b) for b in plan.blocks], dim=1).flatten()
    audio = torch.cat([source.initial_audio(b) for b in plan.blocks], dim=1).flatten()
    same = (audio == video[: audio.numel()]).double().mean()
    assert same > 0.6
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(video, torch.randn(6, *VIDEO, generator=generator).flatten())


def test_correlated_noise_adds_independent_noise_between_steps():
    source, plan = noise(kind=CorrelatedNoise)
    video, audio = source.fresh(plan.block(0), 0)
    assert not (audio.flatten() == video.flatten()[: audio.numel()]).any()
