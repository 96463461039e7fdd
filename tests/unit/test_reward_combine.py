import math

import pytest
import torch

from hallo_live_core.rewards.combine import (
    RunningStatistics,
    as_scores,
    reference_scales,
    robust_scales,
    robust_z,
    z_scores,
)

SYNC = torch.tensor([6.0, 2.0, 4.0, 0.0], dtype=torch.float64)


def test_on_one_device_the_reference_ignores_sync_and_audio():
    scales = reference_scales(beta=2.0, sync=SYNC[:1], audio=SYNC[:1])
    assert scales.video.tolist() == scales.audio.tolist() == [1.0]


def test_judges_that_are_left_out_are_factors_of_one():
    video = torch.tensor([[0.1, 0.2, 0.3]])
    scales = reference_scales(beta=2.0, video=video)
    assert scales.video.tolist() == pytest.approx([math.exp(1.2)])
    assert scales.audio.tolist() == [1.0]
    assert reference_scales(beta=1.0).video.tolist() == [1.0]


def test_sync_weighs_both_losses_and_audio_only_its_own():
    scales = reference_scales(beta=1.0, sync=SYNC, audio=SYNC.flip(0))
    assert torch.allclose(scales.video, z_scores(SYNC).exp())
    assert torch.allclose(scales.audio, (z_scores(SYNC) + z_scores(SYNC.flip(0))).exp())


def test_a_missing_score_is_neutral_and_does_not_move_the_others():
    some = as_scores([6.0, None, 2.0])
    z = robust_z(some)
    assert z.tolist() == pytest.approx([1.0, 0.0, -1.0])
    assert robust_z(as_scores([None, None])).tolist() == [0.0, 0.0]


def test_without_gaps_the_robust_score_is_the_reference_one():
    assert torch.allclose(robust_z(SYNC), z_scores(SYNC))


def test_running_statistics_equal_those_of_all_values_at_once():
    values = torch.randn(50, dtype=torch.float64) * 3 + 7
    running = RunningStatistics()
    for part in values.split([1, 0, 7, 20, 22]):
        running = running.updated(part)
    assert running.count == 50
    assert running.mean == pytest.approx(float(values.mean()))
    assert running.std == pytest.approx(float(values.std(correction=0)))


def test_with_a_history_a_single_take_counts():
    history = RunningStatistics().updated(SYNC).updated(as_scores([None]))
    assert history.count == 4
    z = robust_z(torch.tensor([3.0 + math.sqrt(5)]).double(), history)
    assert z.tolist() == pytest.approx([1.0])


def test_no_take_weighs_more_than_the_limit():
    scales = robust_scales(beta=5.0, sync_z=torch.tensor([3.0, -3.0, 0.1]), video_z=0.0)
    assert scales.video.tolist() == pytest.approx([math.exp(2), math.exp(-2), math.exp(0.5)])
    wide = robust_scales(beta=1.0, audio_z=torch.tensor([3.0]), max_exponent=4.0)
    assert wide.audio.tolist() == pytest.approx([math.exp(3)])


def test_equal_takes_weigh_the_same():
    scales = robust_scales(beta=2.0, sync_z=robust_z(torch.full((4,), 1.7)))
    assert scales.video.tolist() == [1.0] * 4
