"""Random numbers and times of training: keyed by what they are for, and nothing else."""

from __future__ import annotations

import pytest
import torch

from hallo_live_core.config import ScheduleConfig
from hallo_live_core.errors import RequestError
from hallo_live_core.functional.schedule import NoiseSchedule
from training.distillation import DistillationSettings
from training.draws import Draws, draw_exits, draw_states
from training.losses.dmd import DMDSettings
from training.ode_sampling import STORED_STATES, states_near
from training.rollout import RolloutSettings
from training.schedules import (
    ScoreTimeSettings,
    exit_interval,
    guidance_range,
    score_range,
    score_timesteps,
    time_shares,
)

from .training_models import shape, step_draw

PUBLISHED = NoiseSchedule()


def whole(batch: int = 7) -> Draws:
    return Draws(1, batch, (0, 1, 2, 3))


def test_a_sample_gets_the_same_numbers_in_any_split():
    for draw in (
        lambda d: d.normal("noise", 2, 3),
        lambda d: d.integers("time", 0, 1000),
        lambda d: draw_states(d, 5, 4),
    ):
        pieces = [draw(Draws(1, 7, samples)) for samples in ((0,), (1, 2), (3,))]
        assert torch.equal(torch.cat(pieces), draw(whole()))


def test_what_all_samples_share_does_not_depend_on_who_asks():
    assert all(
        torch.equal(Draws(1, 7, (s,)).shared("exits", 0, 4, 9), whole().shared("exits", 0, 4, 9))
        for s in range(4)
    )


@pytest.mark.parametrize(
    "other", [Draws(2, 7, (0, 1, 2, 3)), Draws(1, 8, (0, 1, 2, 3)), Draws(1, 7, (4, 5, 6, 7))]
)
def test_another_seed_batch_or_sample_has_other_numbers(other):
    assert not torch.equal(other.normal("noise", 4), whole().normal("noise", 4))
    assert not torch.equal(whole().normal("else", 4), whole().normal("noise", 4))


def test_picture_and_sound_start_from_unrelated_noise():
    of = shape()
    noise = whole().clips("score", of.clip)
    count = noise.audio[0].numel()
    assert not torch.equal(noise.audio[0].flatten(), noise.video[0].flatten()[:count])


def test_exits_are_uniform_and_shared_by_all_blocks_unless_asked_otherwise():
    drawn = [draw_exits(Draws(1, i, (0,)), 5, 4) for i in range(400)]
    assert all(len(set(exits)) == 1 and len(exits) == 5 for exits in drawn)
    counts = torch.bincount(torch.tensor([exits[0] for exits in drawn]))
    assert counts.tolist() == pytest.approx([100] * 4, abs=35)
    own = [draw_exits(Draws(1, i, (0,)), 5, 4, same_step=False) for i in range(20)]
    assert any(len(set(exits)) > 1 for exits in own)
    assert draw_exits(whole(), 3, 4, last_step_only=True) == (3, 3, 3)


def test_score_times_keep_between_the_limits_that_the_exit_sets():
    settings = DistillationSettings(
        dmd=DMDSettings(decoupled=True),
        score_times=ScoreTimeSettings(from_exit=True, up_to_exit=True),
    )
    of = shape(batch=2, steps=(1000, 750, 500, 250))
    for batch in range(30):
        drawn = step_draw(of, settings, (0, 1), batch)
        high, low = exit_interval(of.schedule, drawn.rollout.exits[0])
        for raw in (drawn.scores.raw, drawn.scores.guidance_raw):
            assert ((low <= raw) & (raw < high)).all()


def test_blocks_with_exits_of_their_own_leave_score_times_free():
    settings = DistillationSettings(
        rollout=RolloutSettings(same_step_across_blocks=False),
        score_times=ScoreTimeSettings(from_exit=True, up_to_exit=True),
    )
    of = shape()
    raw = torch.cat([step_draw(of, settings, (0,), batch).scores.raw for batch in range(60)])
    assert raw.min() < 150 and raw.max() > 850


def test_the_decoupled_loss_needs_one_exit_for_all_blocks():
    with pytest.raises(RequestError, match="one exit step"):
        DistillationSettings(
            RolloutSettings(same_step_across_blocks=False), DMDSettings(4, 5, True)
        )
    with pytest.raises(RequestError, match="one exit step"):
        guidance_range(ScoreTimeSettings(), None)


def test_a_tenth_of_all_score_times_is_the_noisiest():
    """The numbers of spec 06 §7."""
    told = score_timesteps(torch.arange(1000), ScoreTimeSettings())
    assert (told == 980).float().mean() == pytest.approx(0.092)
    assert (told == 20).nonzero().max() == 4
    assert told.mean() == pytest.approx(746, abs=0.5)


def test_without_shift_score_times_are_only_clamped():
    told = score_timesteps(torch.tensor([0, 500, 999]), ScoreTimeSettings(shift=1.0))
    assert told.tolist() == [20, 500, 980]


def test_exits_have_the_intervals_of_the_nominal_steps():
    found = [exit_interval(PUBLISHED, e) for e in range(4)]
    assert found == [(1000, 750), (750, 500), (500, 250), (250, 0)]


def test_limits_that_leave_no_score_time_are_refused():
    settings = ScoreTimeSettings(lowest=800, up_to_exit=True)
    assert score_range(settings, (1000, 750)) == (800, 1000)
    with pytest.raises(RequestError, match="no score time"):
        score_range(settings, (750, 500))


@pytest.mark.parametrize("wrong", [{"lowest": 1000}, {"lowest": -1}, {"margin": 0.5}])
def test_impossible_score_time_settings_are_refused(wrong):
    with pytest.raises(RequestError):
        ScoreTimeSettings(**wrong)


def test_the_stored_states_are_those_nearest_the_students_steps():
    assert states_near(PUBLISHED, 49, 5.0) == STORED_STATES
    coarse = NoiseSchedule(ScheduleConfig(steps=(1000, 500)))
    assert states_near(coarse, 9, 5.0) == (0, 4, -1)
    with pytest.raises(RequestError, match="more steps"):
        states_near(PUBLISHED, 3, 5.0)


def test_the_log_has_the_shares_of_score_times_in_each_quarter():
    found = time_shares(torch.tensor([20.0, 249.9, 250.0, 980.0]), ScoreTimeSettings())
    shares = [float(found[f"score_times_at/{first}"]) for first in (0, 250, 500, 750)]
    assert shares == [0.5, 0.25, 0.0, 0.25]
    assert found["score_time"] == pytest.approx((20 + 249.9 + 250 + 980) / 4)
