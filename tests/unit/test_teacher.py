from dataclasses import replace

import pytest
import torch

from hallo_live_core.config import KNOWN_SIZES
from hallo_live_core.errors import RequestError
from hallo_live_core.functional.request import plan_request
from hallo_live_core.models.dit import TeacherPass
from hallo_live_core.sampling.teacher import (
    Guidance,
    TeacherSettings,
    TeacherState,
    guided_flow,
    sample_teacher,
    snap_size,
    teacher_states,
)
from hallo_live_core.types import Request, TextContext

from .dit_models import normal, tiny_dit, tiny_latents, tiny_text

SETTINGS = TeacherSettings(num_steps=3, skip_layer=1)
GUIDANCE = Guidance(tiny_text(), TextContext.shared(normal(1, 2, 6, seed=9)))
NOISE = tiny_latents(1)


@pytest.mark.parametrize(
    ("asked", "given"),
    [((512, 992), (512, 992)), ((512, 960), (512, 992)), ((720, 720), (704, 704))],
)
def test_sizes_snap_as_the_teacher_was_trained(asked, given):
    assert snap_size(*asked) == given


def test_the_known_sizes_are_those_of_ovi_s_list_as_its_teacher_snaps_them():
    listed = [(512, 992), (992, 512), (512, 960), (960, 512), (720, 720), (448, 1120), (1120, 448)]
    assert set(KNOWN_SIZES) == {snap_size(*size) for size in listed}
    assert KNOWN_SIZES[0] == (Request().height, Request().width)
    for height, width in KNOWN_SIZES:
        plan_request(Request(height=height, width=width))


def test_even_a_sliver_is_a_patch_wide():
    assert snap_size(1, 100_000_000)[0] == 32


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_there_is_one_state_more_than_steps(solver):
    settings = replace(SETTINGS, solver=solver)
    states = list(teacher_states(tiny_dit(), *NOISE, GUIDANCE, settings))
    assert [s.step for s in states] == [0, 1, 2, 3]
    assert torch.equal(states[0].video, NOISE[0]) and torch.equal(states[0].audio, NOISE[1])
    last = sample_teacher(tiny_dit(), *NOISE, GUIDANCE, settings)
    assert torch.equal(last.video, states[-1].video) and torch.equal(last.audio, states[-1].audio)


def test_without_guidance_the_negative_prompt_does_not_matter():
    model, state = tiny_dit(), TeacherState(0, *NOISE)
    plain = replace(SETTINGS, video_guidance=1.0, audio_guidance=1.0)
    found = guided_flow(model, state, 700.0, (GUIDANCE.positive, GUIDANCE.negative), plain)
    expected = model(*NOISE, TeacherPass(GUIDANCE.positive, torch.tensor([700.0])))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_each_stream_has_its_own_guidance():
    model, state = tiny_dit(), TeacherState(0, *NOISE)
    texts = (GUIDANCE.positive, GUIDANCE.negative)
    both = guided_flow(model, state, 700.0, texts, SETTINGS)
    video_only = guided_flow(model, state, 700.0, texts, replace(SETTINGS, audio_guidance=0.0))
    assert torch.equal(both[0], video_only[0]) and not torch.allclose(both[1], video_only[1])


def test_the_layer_is_skipped_in_the_negative_pass_only():
    model, state = tiny_dit(), TeacherState(0, *NOISE)
    ran = []
    model.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    texts = (GUIDANCE.positive, GUIDANCE.negative)
    guided_flow(model, state, 700.0, texts, SETTINGS)
    assert ran == [1]
    guided_flow(model, state, 700.0, texts, replace(SETTINGS, skip_layer=None))
    assert ran == [1, 1, 1]


def test_an_image_stays_the_first_latent_of_every_state():
    image = normal(1, 1, 3, 4, 6, seed=4)
    guidance = replace(GUIDANCE, first_frame=image)
    states = list(teacher_states(tiny_dit(), *NOISE, guidance, SETTINGS))
    assert all(torch.equal(s.video[:, :1], image) for s in states)
    free = sample_teacher(tiny_dit(), *NOISE, GUIDANCE, SETTINGS)
    assert not torch.allclose(states[-1].video[:, 1:], free.video[:, 1:])


def test_a_batch_is_sampled_as_its_samples_alone():
    model, video, audio = tiny_dit(), *tiny_latents(1, batch=2)
    text, negative = tiny_text(2), TextContext.shared(normal(2, 2, 6, seed=9))
    batch = sample_teacher(model, video, audio, Guidance(text, negative), SETTINGS)
    for i in range(2):
        one = slice(i, i + 1)
        guidance = Guidance(
            TextContext(text.video[one], text.audio[one]),
            TextContext(negative.video[one], negative.audio[one]),
        )
        alone = sample_teacher(model, video[one], audio[one], guidance, SETTINGS)
        torch.testing.assert_close(batch.video[one], alone.video, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.audio[one], alone.audio, rtol=1e-4, atol=1e-5)


def test_a_run_without_steps_is_refused():
    with pytest.raises(RequestError, match="at least one step"):
        TeacherSettings(num_steps=0)
