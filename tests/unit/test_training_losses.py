"""Losses of training: what they are the gradient of, per sample, and what they leave out."""

from __future__ import annotations

import math

import pytest
import torch

from hallo_live_core.errors import RequestError, ShapeError
from hallo_live_core.rewards.combine import MAX_EXPONENT, LossScales
from training.draws import Draws, draw_scores
from training.losses.critic import critic_loss
from training.losses.dmd import DMDSettings, Scores, ask_scores, dmd_loss, stream_gradients
from training.losses.ode import clean_prediction, noisy_clips, ode_loss, predict
from training.losses.reward_weighting import RewardSettings, weigh
from training.schedules import ScoreTimeSettings
from training.types import Latents, StreamWeights

from .dit_models import BLOCKS, normal
from .training_models import (
    WIDE,
    assert_same_gradients,
    gradients,
    learner,
    networks,
    part,
    prompts,
    shape,
)

WEIGHTS, TIMES = StreamWeights(), ScoreTimeSettings()


def clips(batch: int = 2, seed: int = 0) -> Latents:
    return Latents(
        normal(batch, 6, 3, 4, 6, seed=seed, dtype=WIDE),
        normal(batch, 12, 4, seed=seed + 50, dtype=WIDE),
    )


def predictions(*, guides: bool = False) -> Scores:
    seeds = range(1, 6 if guides else 4)
    return Scores(*(clips(seed=seed) for seed in seeds))


def scale(*factors: float) -> torch.Tensor:
    return torch.tensor(factors, dtype=WIDE)


def test_the_gradient_is_that_of_the_squared_distance_to_where_the_scores_point():
    made = Latents(*(x.requires_grad_() for x in clips()))
    found = stream_gradients(made.detach(), predictions(), DMDSettings())
    scales = LossScales(scale(2.0, 0.5), scale(1.0, 3.0))
    total = 0
    for x, g, s, w in zip(made, found, (scales.video, scales.audio), (0.85, 0.15), strict=True):
        goal = (x - g.normalised).detach()
        each = (x - goal).square().flatten(1).mean(dim=1)
        total = total + w * 0.5 * (s * each).mean()
    expected = torch.autograd.grad(total, list(made))
    loss = dmd_loss(found, WEIGHTS, scales)
    torch.testing.assert_close(loss.metrics["loss"], total.detach())
    for a, b in zip(loss.gradient, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_is_float64_and_the_gradient_has_the_dtype_of_its_direction():
    half = Latents(*(x.bfloat16() for x in clips()))
    scores = Scores(*(Latents(*(x.bfloat16() for x in c)) for c in predictions() if c))
    loss = dmd_loss(stream_gradients(half, scores, DMDSettings()), WEIGHTS)
    assert loss.metrics["loss"].dtype == torch.float64
    assert all(g.dtype == torch.float32 for g in loss.gradient)


def test_every_sample_and_stream_has_its_own_normaliser():
    made, scores, settings = clips(), predictions(), DMDSettings()
    found = stream_gradients(made, scores, settings)
    for stream, guidance in ((0, 4.0), (1, 5.0)):
        towards, away = scores.towards[stream], scores.away[stream]
        real = away + guidance * (towards - away)
        for sample in range(2):
            expected = (made[stream][sample] - real[sample]).abs().mean()
            torch.testing.assert_close(found[stream].normaliser[sample], expected)
            direction = (scores.fake[stream][sample] - real[sample]) / expected
            torch.testing.assert_close(found[stream].normalised[sample], direction)


def test_decoupled_guidance_comes_from_the_second_time():
    scores, settings = predictions(guides=True), DMDSettings(decoupled=True)
    found = stream_gradients(clips(), scores, settings)[0].raw
    pull = scores.guide.video - scores.guide_away.video
    torch.testing.assert_close(found, scores.fake.video - scores.towards.video - 3.0 * pull)


@pytest.mark.parametrize("decoupled", [True, False])
def test_scores_that_do_not_fit_the_loss_are_refused(decoupled):
    with pytest.raises(ShapeError, match="decoupled"):
        stream_gradients(clips(), predictions(guides=not decoupled), DMDSettings(4, 5, decoupled))


@pytest.mark.parametrize("replace", [True, False])
def test_values_that_are_not_finite_are_counted_and_replaced_only_where_wanted(replace):
    scores, settings = predictions(), DMDSettings(replace_nonfinite=replace)
    scores.fake.video[0, 0, 0, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    found = stream_gradients(clips(), scores, settings)
    loss = dmd_loss(found, WEIGHTS)
    assert loss.metrics["nonfinite"] == 3
    assert loss.gradient.video[0, 0, 0, 1:].isfinite().all()
    worst = found[0].normalised[0, 0, 0, 0, :3]
    largest = torch.finfo(WIDE).max
    assert worst.tolist() == [0, largest, -largest] if replace else not worst.isfinite().any()


def test_a_sample_that_counts_double_has_double_the_gradient():
    found = stream_gradients(clips(), predictions(), DMDSettings())
    one, two = (
        dmd_loss(found, WEIGHTS, LossScales(scale(s, 1.0), scale(1.0, 1.0))) for s in (1.0, 2.0)
    )
    torch.testing.assert_close(two.gradient.video[0], 2 * one.gradient.video[0])
    torch.testing.assert_close(two.gradient.video[1], one.gradient.video[1])
    torch.testing.assert_close(two.gradient.audio, one.gradient.audio)


def score_draw(samples: tuple[int, ...], second: bool = False):
    of = shape(batch=len(samples))
    limits = (0, 500) if second else None
    return draw_scores(Draws(3, 0, samples), of.clip, (0, 1000), limits)


@pytest.mark.parametrize("second", [False, True])
def test_scores_of_a_batch_are_those_of_its_samples_alone(second):
    nets, made, schedule = networks(), clips(), shape().schedule

    def ask(samples: slice, numbers: tuple[int, ...]) -> Scores:
        own = Latents(*(x[samples] for x in made))
        draw = score_draw(numbers, second)
        given = part(prompts(2), samples)
        return ask_scores(
            nets.teacher, nets.critic, own, given, draw, schedule=schedule, times=TIMES
        )

    whole = ask(slice(None), (0, 1))
    assert (whole.guide is not None) == second
    assert score_draw((0, 1)).raw.unique().numel() == 2
    for sample in range(2):
        own = slice(sample, sample + 1)
        for a, b in zip(ask(own, (sample,)), whole, strict=True):
            for x, y in zip(a or (), b or (), strict=True):
                torch.testing.assert_close(x, y[own], rtol=1e-10, atol=1e-12)


def test_asking_the_scores_builds_no_graph():
    nets = networks()
    found = ask_scores(
        nets.teacher,
        nets.critic,
        clips(),
        prompts(2),
        score_draw((0, 1)),
        schedule=shape().schedule,
        times=TIMES,
    )
    assert not any(x.requires_grad for x in found.fake)


def critic_of(samples: slice, numbers: tuple[int, ...], critic, weights=WEIGHTS):
    return critic_loss(
        critic,
        Latents(*(x[samples] for x in clips())),
        part(prompts(2), samples).positive,
        score_draw(numbers),
        schedule=shape().schedule,
        times=TIMES,
        weights=weights,
    )


def test_the_critic_loss_of_a_batch_is_the_mean_over_its_samples():
    critic = learner()
    critic_of(slice(None), (0, 1), critic).total.backward()
    whole = gradients(critic)
    critic.zero_grad()
    for sample in range(2):
        loss = critic_of(slice(sample, sample + 1), (sample,), critic)
        (0.5 * loss.total).backward()
    assert_same_gradients(gradients(critic), whole, 1e-10)


def test_a_critic_that_is_told_of_sound_alone_learns_nothing_of_the_picture_itself():
    critic = learner()
    loss = critic_of(slice(None), (0, 1), critic, StreamWeights(video=0.0, audio=0.15))
    loss.total.backward()
    torch.testing.assert_close(loss.total.detach(), 0.15 * loss.metrics["audio_loss"])
    assert critic.video.head.head.weight.grad.abs().max() == 0
    assert critic.audio.head.head.weight.grad.abs().max() > 0


def trajectory(batch: int = 2) -> Latents:
    return Latents(
        normal(batch, 3, 6, 3, 4, 6, seed=1, dtype=WIDE),
        normal(batch, 3, 12, 4, seed=2, dtype=WIDE),
    )


def test_picture_and_sound_of_a_block_come_from_the_same_state():
    pairs, states = trajectory(), torch.tensor([[0, 1, 0], [1, 1, 0]])
    noisy = noisy_clips(pairs, states, BLOCKS, shape().schedule)
    for sample in range(2):
        for block in range(3):
            k = states[sample, block]
            for stream, size in ((0, BLOCKS.video_latents), (1, BLOCKS.audio_latents)):
                own = slice(block * size, (block + 1) * size)
                expected = pairs[stream][sample, k, own]
                assert torch.equal(noisy.latents[stream][sample, own], expected)
                told = noisy.times[stream][sample, own]
                assert (told == shape().schedule.steps[k]).all()


def test_a_trajectory_with_another_number_of_states_is_refused():
    with pytest.raises(ShapeError, match="4 states"):
        noisy_clips(
            trajectory(), torch.zeros(2, 3).long(), BLOCKS, shape(steps=(1000, 500, 250)).schedule
        )


def ode_of(student, states, samples=slice(None), steps=(1000, 500)):
    return ode_loss(
        student,
        Latents(*(x[samples] for x in trajectory())),
        states[samples],
        part(prompts(2), samples).positive,
        blocks=BLOCKS,
        schedule=shape(steps=steps).schedule,
        weights=WEIGHTS,
    )


def test_the_ode_loss_of_a_batch_is_the_mean_over_its_samples():
    student, states = learner(), torch.tensor([[0, 1, 0], [1, 1, 0]])
    whole = ode_of(student, states)
    alone = [ode_of(student, states, slice(i, i + 1)) for i in range(2)]
    torch.testing.assert_close(whole.total, (alone[0].total + alone[1].total) / 2)
    errors = torch.cat([loss.metrics["video_errors"] for loss in alone])
    torch.testing.assert_close(whole.metrics["video_errors"], errors)


def test_clean_inputs_do_not_count():
    student, states = learner(), torch.tensor([[0, 1, 0], [0, 1, 1]])
    found = ode_of(student, states, steps=(1000, 0)).metrics["video_loss"]
    pairs, schedule = trajectory(), shape(steps=(1000, 0)).schedule
    noisy = noisy_clips(pairs, states, BLOCKS, schedule)
    flow = predict(student, noisy, prompts(2).positive, BLOCKS)
    error = (clean_prediction(noisy, flow, schedule).video - pairs.video[:, -1]).square()
    torch.testing.assert_close(found, error[noisy.times.video > 0].mean().detach())


SCORES = {"sync": torch.tensor([1.0, 3.0, math.nan, 5.0]), "taste": torch.tensor([0.0, 0, 0, 9])}


def test_a_clip_without_a_score_is_neutral_and_does_not_move_the_others():
    settings = RewardSettings(judges={"sync": "both"}, history=False)
    with_gap, _ = weigh(SCORES, settings, {})
    without, _ = weigh({"sync": SCORES["sync"][[0, 1, 3]]}, settings, {})
    assert with_gap.video[2] == 1
    torch.testing.assert_close(with_gap.video[[0, 1, 3]], without.video)


def test_no_clip_can_take_over():
    scores = {"taste": torch.tensor([0.0] * 30 + [1e9])}
    settings = RewardSettings(judges={"taste": "video"}, beta=50.0, history=False)
    found, _ = weigh(scores, settings, {})
    assert found.video.max() == pytest.approx(math.exp(MAX_EXPONENT))
    assert (found.audio == 1).all()


def test_scores_may_enter_as_they_are():
    scores = {"sync": torch.tensor([0.5, math.nan, -1.0])}
    settings = RewardSettings(judges={"sync": "both"}, beta=0.5, normalise=False)
    scales, _ = weigh(scores, settings, {})
    expected = torch.tensor([0.25, 0.0, -0.5], dtype=torch.float64).exp()
    torch.testing.assert_close(scales.video.double(), expected)
    with pytest.raises(RequestError, match="normalises"):
        RewardSettings(mode="reference", normalise=False)


def test_with_a_history_one_clip_a_step_can_be_better_than_those_before():
    settings, histories = RewardSettings(judges={"taste": "audio"}), {}
    for value in (1.0, 2.0, 3.0):
        scales, histories = weigh({"taste": torch.tensor([value])}, settings, histories)
    assert scales.audio > 1
    alone, _ = weigh({"taste": torch.tensor([3.0])}, RewardSettings(judges={"taste": "audio"}), {})
    assert alone.audio == 1


def test_factors_may_keep_the_size_of_the_loss():
    settings = RewardSettings(judges={"taste": "video"}, mean_one=True)
    assert weigh(SCORES, settings, {})[0].video.mean() == pytest.approx(1.0)


def test_no_face_counts_as_zero_in_the_references_formula_only():
    settings = RewardSettings(mode="reference", judges={"sync": "both"})
    filled = {"sync": SCORES["sync"].nan_to_num(0.0)}
    found, expected = weigh(SCORES, settings, {})[0], weigh(filled, settings, {})[0]
    assert torch.equal(found.video, expected.video)
    assert found.video[2] < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "reference", "judges": {"taste": "both"}}, "does not know judge 'taste'"),
        ({"judges": {"taste": "smell"}}, "no stream"),
    ],
)
def test_judges_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(RequestError, match=message):
        RewardSettings(**settings)


def test_a_judge_that_gave_nothing_is_named():
    with pytest.raises(RequestError, match="'sync'"):
        weigh({}, RewardSettings(judges={"sync": "both"}), {})


def test_a_sample_that_counts_nothing_teaches_the_critic_nothing():
    critic, of, made = learner(), shape(batch=2), clips()
    draw = draw_scores(Draws(1, 0, (0, 1)), of.clip, (0, 1000))
    how = {"schedule": of.schedule, "times": TIMES, "weights": WEIGHTS}
    scales = LossScales(scale(2.0, 0.0), scale(2.0, 0.0))
    critic_loss(critic, made, prompts(2).positive, draw, **how, scales=scales).total.backward()
    found = gradients(critic)
    critic.zero_grad()
    first = part(prompts(2), slice(0, 1)).positive
    alone = Latents(*(x[:1] for x in made))
    one = draw_scores(Draws(1, 0, (0,)), shape(batch=1).clip, (0, 1000))
    critic_loss(critic, alone, first, one, **how).total.backward()
    assert_same_gradients(found, gradients(critic), 1e-9)


def test_the_reference_does_not_weigh_the_critic():
    with pytest.raises(RequestError, match="weighs the student's loss"):
        RewardSettings(mode="reference", weigh="critic")
