"""Stage 1 logs its error by noise."""

import torch

from training.phases.ode_init import by_noise


def test_bins_add_up_and_their_quotient_is_the_mean_error_of_a_bin():
    errors = torch.tensor([1.0, 2.0, 3.0, 10.0])
    times = torch.tensor([625.0, 750.0, 999.0, 1000.0])
    found = by_noise(errors, times)
    total = sum(value for name, value in found.items() if name.startswith("video_loss_at"))
    assert total == errors.mean()
    means = {
        first: float(found[f"video_loss_at/{first}"] / found[f"share_at/{first}"])
        for first in (500, 750, 1000)
    }
    assert means == {500: 1.0, 750: 2.5, 1000: 10.0}
    assert found["share_at/0"] == 0
