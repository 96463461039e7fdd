"""The loop's order, an update, the average, and which parameters take part."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import nn

from hallo_live_core.config import HALLO_5B
from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit import DualStreamDiT
from training.optimizers import build_optimizer
from training.steps import LoopSettings, create_ema, plan_iteration, update, update_ema
from training.trainable import (
    AdamWSettings,
    TrainableSettings,
    freeze,
    parameter_groups,
    published_parameters,
)

from .dit_models import tiny_dit


def events_of(settings: LoopSettings) -> list[tuple[int, str]]:
    """Every event of a run with the step at which it happens."""
    step, has_ema, found = 0, False, []
    while True:
        for event in plan_iteration(step, settings, has_ema=has_ema):
            if event == "stop":
                return found
            step += event == "advance"
            has_ema |= event == "create_ema"
            found.append((step, event))


def test_the_published_run_updates_the_generator_1200_times_and_saves_12():
    events = events_of(LoopSettings())
    count = Counter(event for _, event in events)
    assert count["update_generator"] == 1200 and count["update_critic"] == 6000
    assert count["save"] == 12 and count["create_ema"] == 1
    assert count["update_ema"] == 1200 - 200 / 5


def test_the_generator_is_updated_before_the_critic_and_its_average_in_between():
    settings = LoopSettings(generator_every=2, ema_start_step=1, save_every=2, max_steps=4)
    assert plan_iteration(0, settings, has_ema=False) == (
        "update_generator",
        "update_critic",
        "advance",
        "create_ema",
    )
    assert plan_iteration(1, settings, has_ema=True) == ("update_critic", "advance", "save")
    assert plan_iteration(2, settings, has_ema=True)[:3] == (
        "update_generator",
        "update_ema",
        "update_critic",
    )
    assert plan_iteration(3, settings, has_ema=True)[-2:] == ("save", "stop")


def test_there_may_be_no_average():
    events = {event for _, event in events_of(LoopSettings(ema_start_step=None, max_steps=9))}
    assert not events & {"create_ema", "update_ema"}


@pytest.mark.parametrize("name", ["generator_every", "save_every", "max_steps"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(RequestError, match=name):
        LoopSettings(**{name: 0})


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def push(parameter: nn.Parameter, *gradient: float, share: float = 1.0):
    """A micro-batch whose loss has this gradient."""
    return lambda: (share * (parameter * torch.tensor(gradient)).sum()).backward()


def descent(parameter: nn.Parameter) -> torch.optim.SGD:
    return torch.optim.SGD([parameter], lr=1.0)


def test_micro_batches_add_up_to_their_mean():
    p = weight(0.0, 0.0)
    done = update(descent(p), [push(p, 1, 0, share=0.5), push(p, 0, 3, share=0.5)], 10.0)
    assert p.tolist() == [-0.5, -1.5] and done.norm == pytest.approx(math.hypot(0.5, 1.5))


def test_long_gradients_are_cut_to_length():
    p = weight(0.0, 0.0)
    done = update(descent(p), [push(p, 30, 40)], 10.0)
    assert done.norm == pytest.approx(50.0) and p.tolist() == pytest.approx([-6.0, -8.0])


def test_an_update_tells_the_norm_of_each_stream_before_it_is_cut():
    picture, sound = weight(0.0, 0.0), weight(0.0)
    named = {"video_model.x": picture, "audio_model.x": sound}
    optimizer = build_optimizer(named, AdamWSettings(lr=1.0))
    done = update(optimizer, [push(picture, 3, 4), push(sound, 12)], 1.0)
    assert done.norms == pytest.approx({"video": 5.0, "audio": 12.0})
    assert done.norm == pytest.approx(13.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_changes_nothing(bad):
    p = weight(1.0, 2.0)
    done = update(descent(p), [push(p, bad, 1.0)], 10.0)
    assert not done.applied and p.tolist() == [1.0, 2.0] and p.grad is None


def test_gradients_of_the_last_update_do_not_linger():
    p = weight(0.0)
    for _ in range(2):
        update(descent(p), [push(p, 1.0)], 10.0)
    assert p.tolist() == [-2.0]


def test_the_average_follows_slowly_and_keeps_frozen_parameters():
    named = {"a": weight(1.0), "b": nn.Parameter(torch.tensor([5.0]).bfloat16(), False)}
    ema = create_ema(named)
    named["a"].data.fill_(2.0)
    update_ema(ema, named, 0.99)
    assert ema["a"].item() == pytest.approx(1.01) and ema["b"].item() == 5.0
    assert ema["b"].dtype == torch.float32 and not ema["a"].requires_grad


def test_the_published_set_trains_half_of_the_published_model():
    """Counts of spec 06 §10-11."""
    named = published_parameters(DualStreamDiT(HALLO_5B, device="meta"))

    def count(settings: TrainableSettings) -> int:
        return sum(p.numel() for p in freeze(named, settings).values())

    assert count(TrainableSettings()) == 5_665_443_840
    assert count(TrainableSettings(audio_only=True)) == pytest.approx(2.83e9, rel=1e-2)
    assert count(TrainableSettings(partial=False)) == 11_660_753_108


def test_a_pattern_that_is_in_no_name_is_refused():
    with pytest.raises(RequestError, match="No parameter would train"):
        freeze(published_parameters(tiny_dit()), TrainableSettings(patterns=("sefl_attn.",)))


def test_sound_alone_has_one_group():
    named = freeze(published_parameters(tiny_dit()), TrainableSettings(audio_only=True))
    (group,) = parameter_groups(named, AdamWSettings(lr_video=1.0, lr_audio=2.0))
    assert group["lr"] == 2.0 and group["name"] == "audio"
    assert {id(p) for p in group["params"]} == {id(p) for p in named.values()}


def test_streams_without_a_rate_of_their_own_share_one():
    named = {"video_model.a": weight(1.0), "audio_model.a": weight(1.0), "extra": weight(1.0)}
    optimizer = build_optimizer(named, AdamWSettings(lr=3.0, lr_audio=4.0))
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [
        ("video", 3.0),
        ("audio", 4.0),
        ("shared", 3.0),
    ]
    assert all(g["betas"] == (0.0, 0.999) for g in optimizer.param_groups)
