"""A clip that begins with a picture, against a plain loop written from spec 02 §6."""

from dataclasses import replace

import pytest
import torch

from hallo_live_core.errors import ShapeError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import audio_window
from hallo_live_core.functional.schedule import NoiseSchedule, add_noise, clean_from_flow
from hallo_live_core.functional.window import Window
from hallo_live_core.models.dit import CachedPass
from hallo_live_core.sampling.denoiser import open_session
from hallo_live_core.sampling.first_frame import pin_first_frame
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.session import SessionShape

from .dit_models import BLOCKS, joined, normal, tiny_dit, tiny_stream, tiny_text

WIDE = torch.float64
MODEL = tiny_dit(dtype=WIDE)
SIZE = (3, 4, 6)


def started(latent=None, *, model=MODEL, **options):
    """A session and its noise, with or without a given first latent."""
    dtype = next(model.parameters()).dtype
    text = tiny_text(options.pop("batch", 1), dtype=dtype)
    denoiser, noise = tiny_stream(model, text=text, dtype=dtype, **options)
    if latent is not None:
        shape = SessionShape(denoiser.state.plan, *SIZE[1:], batch=text.video.shape[0])
        pin_first_frame(model, denoiser.state, shape, latent)
    return denoiser, noise


def latent(batch: int = 1, dtype: torch.dtype = WIDE) -> torch.Tensor:
    return normal(batch, 1, *SIZE, seed=31, dtype=dtype)


def plain_loop(denoiser, noise, z):
    """Spec 02 §3 with §6, timesteps as tensors, every rule written out."""
    state, schedule = denoiser.state, denoiser.schedule
    videos, sounds = [], []
    for block in state.plan.blocks:
        past, first = block.first_audio, block.index == 0
        video, sound = noise.initial_video(block), audio_window(noise, state.plan, block)
        history = torch.cat([*sounds, sound[:, :0]], dim=1)

        def told(value, block=block, first=first):
            times = torch.full((1, block.num_video), value, dtype=WIDE)
            times[:, 0] = 0 if first else value
            return times

        def network(video, sound, value, block=block, past=past, told=told):
            times = torch.full((1, sound.shape[1]), value, dtype=WIDE)
            times[:, :past] = 0
            return MODEL(video, sound, CachedPass(state, block.first_video, told(value), times))

        for number, step in enumerate(schedule.steps):
            if first:
                video = torch.cat([z, video[:, 1:]], dim=1)
            whole = torch.cat([history, sound], dim=1)
            video_flow, sound_flow = network(video, whole, step)
            sigma, rest = schedule.sigma(step), schedule.sigma(0.0)
            clean = clean_from_flow(video, video_flow, sigma)
            again = clean_from_flow(history, sound_flow[:, :past], rest)
            heard = clean_from_flow(sound, sound_flow[:, past:], sigma)
            if number + 1 < len(schedule.steps):
                following = schedule.sigma(schedule.steps[number + 1])
                more_video, more_sound = noise.fresh(block, number)
                video = add_noise(clean, more_video, following)
                sound = add_noise(heard, more_sound, following)
        if first:
            clean = torch.cat([z, clean[:, 1:]], dim=1)
        videos.append(clean)
        sounds.append(heard[:, : block.num_audio])
        network(clean, torch.cat([again, heard], dim=1), 0.0)
    return torch.cat(videos, dim=1), torch.cat(sounds, dim=1)


@pytest.mark.parametrize("lookahead", [0, 3])
def test_a_clip_with_a_first_frame_equals_the_plain_loop_of_the_specification(lookahead):
    options = {"blocks": 3, "lookahead": lookahead}
    ours = joined(list(stream_blocks(*started(latent(), **options))))
    plain = plain_loop(*started(latent(), **options), latent())
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_the_clip_begins_with_exactly_the_given_latent():
    video, _ = joined(list(stream_blocks(*started(latent()))))
    assert torch.equal(video[:, :1], latent())


def test_all_later_latents_and_all_sound_depend_on_it():
    with_it = joined(list(stream_blocks(*started(latent()))))
    without = joined(list(stream_blocks(*started())))
    other = joined(list(stream_blocks(*started(-latent()))))
    for a, b, c in zip(with_it, without, other, strict=True):
        differs = [(a - x).abs().flatten(2).amax(dim=2) > 1e-6 for x in (b, c)]
        assert all(d.all() for d in differs)


def test_a_session_without_a_first_frame_is_what_it_was():
    denoiser, noise = started()
    calls = []
    model = denoiser.model

    class Watched:
        def __getattr__(self, name):
            return getattr(model, name)

        def __call__(self, video, audio, how):
            calls.append(how.video_times)
            return model(video, audio, how)

    denoiser.model = Watched()
    list(stream_blocks(denoiser, noise))
    assert {len(times) for times in calls} == {1}


def test_only_the_first_block_begins_with_it_also_where_all_blocks_have_one_place():
    denoiser, noise = started(latent(), blocks=ClipPlan(BLOCKS, 3, Window(1, sink=0)))
    first, *rest = stream_blocks(denoiser, noise)
    assert torch.equal(first.video[:, :1], latent())
    assert not any(torch.equal(block.video[:, :1], latent()) for block in rest)


def test_samples_of_a_batch_may_share_a_first_frame_or_have_their_own():
    shared = joined(list(stream_blocks(*started(latent(), batch=2))))[0]
    assert torch.equal(shared[:, 0], latent().expand(2, -1, -1, -1, -1)[:, 0])
    own = joined(list(stream_blocks(*started(latent(2), batch=2))))[0]
    assert torch.equal(own[:, :1], latent(2))


def test_it_takes_the_format_of_the_run():
    half = tiny_dit(dtype=torch.bfloat16)
    video, _ = joined(list(stream_blocks(*started(latent(), model=half))))
    assert torch.equal(video[:, :1], latent().bfloat16())


def test_zero_is_told_for_it_even_where_history_is_told_another_timestep():
    denoiser, _ = started()
    schedule = NoiseSchedule(replace(denoiser.schedule.config, context_timestep=5.0))
    shape = SessionShape(denoiser.state.plan, *SIZE[1:])
    state = open_session(MODEL, tiny_text(dtype=WIDE), shape, schedule, dtype=WIDE)
    known = state.video_times
    pin_first_frame(MODEL, state, shape, latent())
    assert state.video_times.timesteps == (*known.timesteps, 0.0)
    runs = tuple((t, 1) for t in known.timesteps)
    torch.testing.assert_close(
        state.video_times.spread(runs).projection, known.spread(runs).projection
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(1, 2, *SIZE), "one latent of 3 channels"),
        (torch.zeros(1, 1, 16, 4, 6), "one latent of 3 channels"),
        (torch.zeros(*SIZE), "one latent of 3 channels"),
        (torch.zeros(1, 1, 3, 6, 4), "6 x 4 instead of 4 x 6"),
        (torch.zeros(2, 1, *SIZE), "2 and 1"),
        (torch.full((1, 1, *SIZE), float("nan")), "not numbers"),
    ],
    ids=["two latents", "another model's", "no batch", "turned", "too many", "not a number"],
)
def test_what_is_no_first_frame_of_this_clip_is_refused_in_one_line(given, words):
    with pytest.raises(ShapeError, match=words) as refused:
        started(given)
    assert "Fix:" in str(refused.value) or "Found:" in str(refused.value)
    assert "\n" not in str(refused.value)
