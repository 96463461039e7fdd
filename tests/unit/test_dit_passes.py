"""The three ways to run the transformer, against each other."""

from dataclasses import replace

import pytest
import torch

from hallo_live_core.config import BlockSizes
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import (
    CachedPass,
    MaskedPass,
    TeacherPass,
    stack_ragged,
    unstack_ragged,
)
from hallo_live_core.sampling.denoiser import open_session
from hallo_live_core.state.session import SessionShape

from .dit_models import (
    BLOCKS,
    TINY,
    normal,
    tiny_dit,
    tiny_latents,
    tiny_stream,
    tiny_text,
)

WIDE = torch.float64


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def masked(model, video, audio, text, t, sizes=BLOCKS, **options):
    batch = video.shape[0]
    times = torch.full((batch, video.shape[1]), t), torch.full((batch, audio.shape[1]), t)
    return model(video, audio, MaskedPass(text, *times, sizes, **options))


def cached(model, video, audio, text, t):
    denoiser, _ = tiny_stream(model, blocks=1, text=text, dtype=WIDE)
    times = ((t, video.shape[1]),), ((t, audio.shape[1]),)
    return model(video, audio, CachedPass(denoiser.state, 0, *times))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("lookahead", [0, 3])
def test_for_one_block_all_three_ways_agree(batch, lookahead):
    model, text = tiny_dit(dtype=WIDE), tiny_text(batch, dtype=WIDE)
    video, audio = tiny_latents(1, batch, dtype=WIDE)
    sizes = replace(BLOCKS, lookahead=lookahead)
    expected = model(video, audio, TeacherPass(text, torch.full((batch,), 1000.0)))
    assert_same(masked(model, video, audio, text, 1000.0, sizes), expected)
    assert_same(cached(model, video, audio, text, 1000.0), expected)


def test_the_last_block_of_a_clip_seen_at_once_may_be_incomplete():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    expected = model(video, audio, TeacherPass(text, torch.tensor([700.0])))
    sizes = BlockSizes(video.shape[1] + 1, audio.shape[1] + 3)
    assert_same(masked(model, video, audio, text, 700.0, sizes), expected)


@pytest.mark.parametrize("zero_padding", [False, True])
def test_a_clip_of_exactly_128_tokens_comes_out_whole(zero_padding):
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = normal(1, 16, 3, 4, 8, dtype=WIDE), normal(1, 128, 4, dtype=WIDE)
    expected = model(video, audio, TeacherPass(text, torch.tensor([500.0])))
    sizes = BlockSizes(16, 128)
    assert_same(
        masked(model, video, audio, text, 500.0, sizes, zero_padding=zero_padding), expected
    )


def test_a_block_does_not_see_what_follows():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(3, dtype=WIDE)
    before = masked(model, video, audio, text, 500.0)
    other = video.clone()
    other[:, 4:] += 1.0
    after = masked(model, other, audio, text, 500.0)
    assert_same([x[:, :2] for x in after], [x[:, :2] for x in before])
    assert_same([after[0][:, 2:4], after[1][:, 4:8]], [before[0][:, 2:4], before[1][:, 4:8]])
    assert not torch.allclose(after[0][:, 4:], before[0][:, 4:])


def test_a_lookahead_lets_the_picture_hear_the_next_block():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(2, dtype=WIDE)
    louder = audio.clone()
    louder[:, -1] += 1.0
    far = replace(BLOCKS, lookahead=4)
    for sizes, hears in ((BLOCKS, False), (far, True)):
        quiet = masked(tiny_one_layer(model), video, audio, text, 500.0, sizes)[0][:, :2]
        loud = masked(tiny_one_layer(model), video, louder, text, 500.0, sizes)[0][:, :2]
        assert torch.allclose(quiet, loud, atol=1e-12) is not hears


def tiny_one_layer(model):
    """One layer, and sound embedded latent by latent, so that only attention can look ahead."""
    single = tiny_dit(replace(TINY, num_layers=1), dtype=WIDE)
    for name, parameter in single.audio.patch_embedding.named_parameters():
        if name.endswith("weight"):
            centre = parameter[:, :, 3].clone()
            parameter.zero_()
            parameter[:, :, 3] = centre
    return single


def test_zero_padding_changes_only_the_end_of_a_clip_with_lookahead():
    model, text = tiny_dit(replace(TINY, num_layers=1), dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(3, dtype=WIDE)
    ahead = replace(BLOCKS, lookahead=2)
    for sizes, same in ((BLOCKS, 6), (ahead, 4)):
        clamped = masked(model, video, audio, text, 500.0, sizes)
        padded = masked(model, video, audio, text, 500.0, sizes, zero_padding=True)
        assert_same([padded[0][:, :same], padded[1]], [clamped[0][:, :same], clamped[1]])
        assert torch.allclose(padded[0], clamped[0]) is (same == 6)


def test_every_latent_may_have_its_own_timestep():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(2, dtype=WIDE)
    times = (
        torch.tensor([[1000.0, 1000.0, 250.0, 250.0]]),
        torch.tensor([[1000.0] * 4 + [250.0] * 4]),
    )
    mixed = model(video, audio, MaskedPass(text, *times, BLOCKS))
    alike = masked(model, video, audio, text, 1000.0)
    torch.testing.assert_close(mixed[0][:, :2], alike[0][:, :2])
    assert not torch.allclose(mixed[0][:, 2:], alike[0][:, 2:])


def test_runs_and_tensors_of_timesteps_mean_the_same():
    model = tiny_dit(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    flows = []
    for times in (
        (((1000.0, 1), (0.0, 1)), ((0.0, 1), (1000.0, 3))),
        (torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0, 1000.0, 1000.0]])),
    ):
        denoiser, _ = tiny_stream(model, blocks=1, dtype=WIDE)
        flows.append(model(video, audio, CachedPass(denoiser.state, 0, *times)))
    assert_same(*flows)


def test_the_trimmed_context_pass_leaves_the_same_caches_as_a_whole_one():
    model = tiny_dit(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    caches = []
    for run in (model, model.settle):
        denoiser, _ = tiny_stream(model, blocks=1, dtype=WIDE)
        run(video, audio, CachedPass(denoiser.state, 0, ((0.0, 2),), ((0.0, 4),)))
        caches.append((denoiser.state.video_self, denoiser.state.video_cross))
    for whole, trimmed in zip(*caches, strict=True):
        assert torch.equal(whole.keys, trimmed.keys) and torch.equal(whole.values, trimmed.values)


def test_the_trimmed_context_pass_predicts_nothing():
    model = tiny_dit()
    video, audio = tiny_latents(1)
    denoiser, _ = tiny_stream(model, blocks=1)
    ran = []
    last = model.blocks[-1]
    for name in ("video.ffn", "audio.ffn", "video.cross_attn", "audio.self_attn", "audio.norm3"):
        last.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    for head in (model.video.head, model.audio.head):
        head.register_forward_hook(lambda *_: ran.append("head"))
    model.settle(video, audio, CachedPass(denoiser.state, 0, ((0.0, 2),), ((0.0, 4),)))
    assert ran == []


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_layer_is_as_if_it_were_not_there(skipped):
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    t = torch.tensor([700.0])
    found = model(video, audio, TeacherPass(text, t, skip_layer=skipped))
    del model.blocks[skipped]
    assert_same(found, model(video, audio, TeacherPass(text, t)))


def test_a_clean_first_frame_is_told_timestep_zero_and_sound_is_not():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    teacher = model(video, audio, TeacherPass(text, torch.tensor([700.0]), first_frame_clean=True))
    times = torch.tensor([[0.0, 700.0]]), torch.full((1, 4), 700.0)
    assert_same(teacher, model(video, audio, MaskedPass(text, *times, BLOCKS)))


def test_samples_of_different_sizes_are_what_they_are_alone():
    model, text = tiny_dit(dtype=WIDE), tiny_text(3, dtype=WIDE)
    t = torch.tensor([700.0, 300.0, 900.0])
    videos = [
        normal(f, 3, h, w, seed=f, dtype=WIDE) for f, h, w in ((4, 4, 6), (3, 6, 4), (1, 2, 8))
    ]
    audios = [normal(a, 4, seed=a, dtype=WIDE) for a in (8, 5, 11)]
    video, audio, sizes = stack_ragged(videos, audios)
    how = TeacherPass(text, t, first_frame_clean=True, ragged=sizes)
    together = unstack_ragged(*model(video, audio, how), sizes)
    for i, found in enumerate(together):
        one = type(text)(text.video[i : i + 1], text.audio[i : i + 1])
        how = TeacherPass(one, t[i : i + 1], first_frame_clean=True)
        alone = model(videos[i][None], audios[i][None], how)
        assert_same(found, [x[0] for x in alone])


def test_sound_is_embedded_looking_nine_latents_to_each_side():
    embed = tiny_dit(dtype=WIDE).audio.tokens
    audio = normal(1, 40, 4, dtype=WIDE)
    other = audio.clone()
    other[:, 20] += 1.0
    changed = (embed(other) - embed(audio)).abs().sum(dim=-1)[0] > 1e-12
    assert changed.nonzero().flatten().tolist() == list(range(11, 30))


def test_a_prompt_may_be_embedded_once_or_in_every_call():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    t = torch.tensor([700.0])
    expected = model(video, audio, TeacherPass(text, t))
    for keys in (True, False):
        inside = model.embed_text(text, keys=keys)
        assert_same(model(video, audio, TeacherPass(inside, t)), expected)


def test_zero_rows_of_the_prompt_are_attended_like_all_others():
    model = tiny_dit(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    text, t = tiny_text(dtype=WIDE), torch.tensor([700.0])
    padded = type(text)(
        *(torch.nn.functional.pad(x, (0, 0, 0, 2)) for x in (text.video, text.audio))
    )
    assert_same(
        model(video, audio, TeacherPass(text, t)), model(video, audio, TeacherPass(padded, t))
    )


def test_half_precision_stays_near_float32():
    video, audio = tiny_latents(1)
    exact = tiny_dit()(video, audio, TeacherPass(tiny_text(), torch.tensor([700.0])))
    text = tiny_text(dtype=torch.bfloat16)
    half = tiny_dit(dtype=torch.bfloat16)(
        video.bfloat16(), audio.bfloat16(), TeacherPass(text, torch.tensor([700.0]))
    )
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() / b.norm() < 3e-2


def test_streams_may_differ_in_width_but_not_in_head_width():
    assert TINY.video.dim != TINY.audio.dim
    assert TINY.video.head_dim == TINY.audio.head_dim


def test_gradients_reach_every_parameter():
    video, audio = tiny_latents(2)
    for how in (
        TeacherPass(tiny_text(), torch.tensor([700.0])),
        MaskedPass(tiny_text(), torch.full((1, 4), 700.0), torch.full((1, 8), 700.0), BLOCKS),
    ):
        model = tiny_dit().requires_grad_(True)
        flows = model(video, audio, how)
        sum(flow.square().sum() for flow in flows).backward()
        without = [
            name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
        ]
        assert without == []


def test_a_block_of_a_stream_can_be_trained_with_its_past_as_constant():
    model = tiny_dit(dtype=WIDE)
    video, audio = tiny_latents(2, dtype=WIDE)
    flows = {}
    for gradient in (False, True):
        denoiser, _ = tiny_stream(model, dtype=WIDE, gradient=gradient)
        with torch.no_grad():
            model(
                video[:, :2], audio[:, :4], CachedPass(denoiser.state, 0, ((0.0, 2),), ((0.0, 4),))
            )
        model.requires_grad_(gradient)
        flows[gradient] = model(
            video[:, 2:],
            audio,
            CachedPass(denoiser.state, 2, ((1000.0, 2),), ((0.0, 4), (1000.0, 4))),
        )
    assert_same(flows[True], flows[False])
    flows[True][0].sum().backward()
    assert model.blocks[0].video.self_attn.k.weight.grad.any()
    assert model.video.text_embedding[0].weight.grad.any()


def test_a_window_hides_old_sound_too():
    model, text = tiny_dit(dtype=WIDE), tiny_text(dtype=WIDE)
    video, audio = tiny_latents(1, dtype=WIDE)
    plan = tiny_stream(model, blocks=1, dtype=WIDE)[0].state.plan
    flows = []
    for window in (12, 11):
        state = open_session(
            model, text, SessionShape(plan, 4, 6), NoiseSchedule(), dtype=WIDE, window=window
        )
        how = CachedPass(state, 0, ((0.0, 2),), ((0.0, 4),))
        flows.append(model(video, audio, how))
    assert not torch.allclose(flows[0][0], flows[1][0])
