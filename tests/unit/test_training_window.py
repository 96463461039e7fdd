"""A self-rollout that remembers a window: the user's stream, with gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hallo_live_core.errors import HalloLiveError, RequestError
from hallo_live_core.functional.window import Window
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from training.rollout import RolloutSettings, roll_out, roll_out_for_gradient

from .dit_models import joined
from .training_models import (
    WIDE,
    assert_same_gradients,
    gradients,
    learner,
    like,
    rollout_draw,
    shape,
    text,
)

WINDOW = Window(blocks=3, sink=1)


def bounded(blocks=6, window=WINDOW):
    of = shape(blocks=blocks)
    return replace(of, clip=replace(of.clip, plan=replace(of.clip.plan, window=window)))


def test_a_rollout_with_a_window_makes_the_clip_that_users_see():
    of, student = bounded(), learner()
    last = len(of.schedule.steps) - 1
    draw = rollout_draw(of, last)
    state = open_session(student, text(), of.session, of.schedule, dtype=WIDE)
    seen = joined(list(stream_blocks(Denoiser(student, state, of.schedule), draw.noise)))
    made = roll_out(student, text(), of, draw)
    for a, b in zip(made, seen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    unbounded = roll_out(student, text(), bounded(window=None), draw)
    assert not torch.allclose(made.video[:, -2:], unbounded.video[:, -2:])


@pytest.mark.parametrize("window", [WINDOW, Window(2, 0), Window(4, 2)])
def test_block_by_block_gives_the_gradients_of_the_joint_graph(window):
    found = []
    for recompute in (True, False):
        of, student = bounded(window=window), learner()
        settings = RolloutSettings(recompute=recompute)
        draw = rollout_draw(of, 1)
        rollout = roll_out_for_gradient(student, text(), of, draw, settings)
        rollout.backward(like(rollout.latents, 7))
        found.append(gradients(student))
    assert_same_gradients(*found)


def test_straight_through_a_gradient_reaches_blocks_that_have_moved_up():
    of = bounded(blocks=5)
    found = []
    for way in ("detached", "straight_through"):
        student = learner()
        settings = RolloutSettings(history_gradient=way, recompute=False)
        draw = rollout_draw(of, 1)
        rollout = roll_out_for_gradient(student, text(), of, draw, settings)
        rollout.backward(like(rollout.latents, 7))
        found.append(gradients(student))
    with pytest.raises(AssertionError):
        assert_same_gradients(*found)


def test_settings_of_a_window_are_checked():
    assert RolloutSettings().window is None
    assert RolloutSettings(window_blocks=3, sink_blocks=2).window == Window(3, 2)
    with pytest.raises(RequestError, match="leave no room"):
        _ = RolloutSettings(window_blocks=1).window


def test_caches_that_are_written_in_place_cannot_be_kept_as_they_are():
    of = bounded()
    state = open_session(learner(), text(), of.session, of.schedule, dtype=WIDE)
    with pytest.raises(HalloLiveError, match="in pieces"):
        state.as_it_is()
