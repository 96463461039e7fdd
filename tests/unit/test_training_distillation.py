"""One micro-batch of stage 2: who learns, who does not, and that batches may be cut anywhere."""

from __future__ import annotations

import pytest
import torch

from hallo_live_core.rewards.combine import LossScales
from training.distillation import (
    DistillationSettings,
    critic_backward,
    generator_backward,
)
from training.losses.dmd import DMDSettings
from training.rollout import RolloutSettings
from training.schedules import ScoreTimeSettings
from training.trainable import TrainableSettings, freeze, published_parameters
from training.types import StreamWeights

from .training_models import (
    WIDE,
    assert_same_gradients,
    gradients,
    networks,
    part,
    prompts,
    shape,
    step_draw,
)

STEPS = {"generator": generator_backward, "critic": critic_backward}
SETTINGS = [
    DistillationSettings(),
    DistillationSettings(
        RolloutSettings(history_gradient="straight_through", same_step_across_blocks=False)
    ),
    DistillationSettings(
        dmd=DMDSettings(decoupled=True), score_times=ScoreTimeSettings(from_exit=True)
    ),
]


def gradient_of(step: str, settings, pieces, *, trains=None, **options):
    """Gradients of the global batch 0, 1, cut into pieces of sample numbers."""
    nets = networks()
    if trains is not None:
        freeze(published_parameters(nets.student), trains)
        freeze(published_parameters(nets.critic), trains)
    for samples in pieces:
        of = shape(blocks=2, batch=len(samples), lookahead=2)
        given = part(prompts(2), slice(samples[0], samples[-1] + 1))
        draw = step_draw(of, settings, samples)
        if step == "critic":
            draw = draw._replace(scores=step_draw(of, DistillationSettings(), samples).scores)
        scale = len(samples) / 2
        metrics = STEPS[step](nets, given, of, draw, settings, scale=scale, **options)
    assert gradients(nets.teacher) == {}
    return gradients(nets.student), gradients(nets.critic), metrics


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("step", STEPS)
def test_a_global_batch_may_be_cut_into_processes_and_micro_batches(step, settings):
    whole = gradient_of(step, settings, [(0, 1)])
    cut = gradient_of(step, settings, [(0,), (1,)])
    for found, expected in zip(cut[:2], whole[:2], strict=True):
        assert_same_gradients(found, expected, 1e-9)


def test_each_step_teaches_its_own_network_only():
    student, critic, _ = gradient_of("generator", SETTINGS[0], [(0, 1)])
    assert student and not critic
    student, critic, _ = gradient_of("critic", SETTINGS[0], [(0, 1)])
    assert critic and not student


@pytest.mark.parametrize("step", STEPS)
def test_sound_alone_can_be_trained(step):
    settings = DistillationSettings(weights=StreamWeights(video=0.0))
    found = gradient_of(step, settings, [(0, 1)], trains=TrainableSettings(audio_only=True))
    learned = found[0] if step == "generator" else found[1]
    assert learned and all(".audio." in name and "attn." in name for name in learned)
    assert any(g.abs().max() > 0 for g in learned.values())
    metrics = found[2]
    torch.testing.assert_close(metrics["loss"], 0.15 * metrics["audio_loss"])


@pytest.mark.parametrize("step", STEPS)
def test_rewards_see_the_clips_and_weigh_their_losses(step):
    seen, own = [], list(STEPS).index(step)

    def weigh(clips):
        seen.append(clips)
        return LossScales(torch.tensor([3.0, 3.0]), torch.tensor([3.0, 3.0]))

    plain = gradient_of(step, SETTINGS[0], [(0, 1)])
    weighed = gradient_of(step, SETTINGS[0], [(0, 1)], weigh=weigh)
    assert seen[0].video.shape[0] == 2 and not seen[0].video.requires_grad
    assert_same_gradients(weighed[own], {n: 3 * g for n, g in plain[own].items()}, 1e-9)
    torch.testing.assert_close(weighed[2]["loss"], 3 * plain[2]["loss"])


@pytest.mark.parametrize("step", STEPS)
def test_metrics_are_numbers_without_a_graph(step):
    *_, metrics = gradient_of(step, SETTINGS[0], [(0, 1)])
    assert all(m.ndim == 0 and not m.requires_grad and m.isfinite() for m in metrics.values())


def test_half_precision_trains_too():
    nets = networks()
    for network in nets:
        network.to(torch.bfloat16)
    of = shape(blocks=2)
    of = type(of)(of.clip, of.schedule, torch.bfloat16)
    draw = step_draw(of, SETTINGS[0], (0,))
    given = part(prompts(1), slice(0, 1))
    assert given.positive.video.dtype == WIDE
    given = type(given)(*(type(t)(t.video.bfloat16(), t.audio.bfloat16()) for t in given))
    generator_backward(nets, given, of, draw, SETTINGS[0])
    critic_backward(nets, given, of, draw, SETTINGS[0])
    for network in nets[:2]:
        assert all(g.isfinite().all() for g in gradients(network).values())
