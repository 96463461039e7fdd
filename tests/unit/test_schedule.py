import pytest
import torch

from hallo_live_core.config import ScheduleConfig
from hallo_live_core.functional.schedule import (
    NoiseSchedule,
    add_noise,
    clean_from_flow,
    flow_from_clean,
)

from .dit_models import normal

SCHEDULE = NoiseSchedule()


@pytest.mark.parametrize(
    ("entry", "sigma"),
    [(0, 1.0), (1, 0.9998), (250, 0.9375), (500, 0.8333333), (750, 0.625), (999, 0.00498008)],
)
def test_the_table_has_the_values_of_the_paper(entry, sigma):
    assert float(SCHEDULE.sigmas[entry]) == pytest.approx(sigma, rel=1e-6)


def test_the_steps_are_warped_through_the_table():
    assert SCHEDULE.steps == pytest.approx((1000.0, 937.5, 833.33331, 625.0), rel=1e-7)


def test_a_last_step_of_zero_is_told_as_zero():
    assert NoiseSchedule(ScheduleConfig(steps=(1000, 0))).steps == (1000.0, 0.0)


def test_there_is_no_sigma_of_zero():
    assert SCHEDULE.sigma(0.0) == pytest.approx(0.00498008, rel=1e-6)


def test_a_timestep_off_the_table_takes_the_nearest_entry():
    between = float(SCHEDULE.timesteps[500]) + 0.01
    assert SCHEDULE.sigma(between) == float(SCHEDULE.sigmas[500])


def test_of_two_entries_equally_near_the_first_is_taken():
    pair = SCHEDULE.timesteps[[0, 1]].double()
    middle = (pair.sum() / 2).float()
    gaps = (SCHEDULE.timesteps[:2] - middle).abs()
    assert gaps[0] == gaps[1]
    assert int(SCHEDULE.index(middle)) == 0


def test_many_timesteps_keep_their_shape():
    t = torch.tensor([[1000.0, 0.0], [625.0, 937.5]])
    assert SCHEDULE.sigmas_at(t).shape == (2, 2)
    assert SCHEDULE.index(t).tolist() == [[0, 999], [750, 250]]


def test_a_stream_tells_each_timestep_once():
    assert SCHEDULE.all_timesteps == (0.0, *SCHEDULE.steps)
    again = NoiseSchedule(ScheduleConfig(steps=(1000, 1000), context_timestep=1000.0))
    assert again.all_timesteps == (1000.0,)


def test_training_weights_have_mean_one_and_peak_in_the_middle():
    weights = SCHEDULE.loss_weights
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    peak = float(SCHEDULE.timesteps[weights.argmax()])
    assert abs(peak - 500) < 2


def test_flow_leads_from_noise_to_clean_and_back():
    clean, noise = normal(1, 2, 3, 4, 4, seed=1), normal(1, 2, 3, 4, 4, seed=2)
    sigma = SCHEDULE.sigma(625.0)
    noisy = add_noise(clean, noise, sigma)
    torch.testing.assert_close(clean_from_flow(noisy, noise - clean, sigma), clean)
    torch.testing.assert_close(flow_from_clean(noisy, clean, sigma), noise - clean)


def test_every_latent_may_have_its_own_sigma():
    noisy, flow = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    sigma = torch.tensor([[0.0, 0.5, 1.0]] * 2)
    clean = clean_from_flow(noisy, flow, sigma)
    torch.testing.assert_close(clean[:, 0], noisy[:, 0])
    torch.testing.assert_close(clean[:, 1], noisy[:, 1] - 0.5 * flow[:, 1])
    video = clean_from_flow(normal(2, 3, 4, 2, 2), normal(2, 3, 4, 2, 2, seed=3), sigma)
    assert video.shape == (2, 3, 4, 2, 2)


def test_full_noise_is_noise_and_no_noise_is_clean():
    clean, noise = normal(1, 2, 3), normal(1, 2, 3, seed=1)
    assert torch.equal(add_noise(clean, noise, 1.0), noise)
    assert torch.equal(add_noise(clean, noise, 0.0), clean)


def test_half_precision_is_rounded_once():
    clean, noise = normal(1, 50, 3).bfloat16(), normal(1, 50, 3, seed=1).bfloat16()
    exact = 0.3 * clean.float() + 0.7 * noise.float()
    assert torch.equal(add_noise(clean, noise, 0.7), exact.bfloat16())
    exact = clean.double() - 0.7 * noise.double()
    assert torch.equal(clean_from_flow(clean, noise, 0.7), exact.bfloat16())
