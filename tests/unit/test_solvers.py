import itertools

import pytest
import torch

from hallo_live_core.functional.solvers import (
    EulerSolver,
    UniPCSolver,
    euler_table,
    unipc_table,
)

from .dit_models import normal

SOLVERS = [(EulerSolver, euler_table), (UniPCSolver, unipc_table)]


def solve(solver, x, flow_at):
    for step in range(solver.table.num_steps):
        x = solver.step(step, x, flow_at(x, solver.table.sigmas[step]))
    return x


def normal_data_flow(spread):
    """Exact flow when clean data is normal with a standard deviation of `spread`."""

    def flow(x, sigma):
        variance = (1 - sigma) ** 2 * spread**2 + sigma**2
        return x * (sigma - (1 - sigma) * spread**2) / variance

    return flow


@pytest.mark.parametrize(("solver", "table"), SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_when_the_data_is_one_point_every_solver_lands_on_it(solver, table, num_steps):
    point = normal(4, seed=1, dtype=torch.float64)
    sigmas = table(num_steps, 5.0)
    start = (1 - sigmas.sigmas[0]) * point + sigmas.sigmas[0] * normal(4, dtype=torch.float64)
    found = solve(solver(sigmas), start, lambda x, sigma: (x - point) / sigma)
    torch.testing.assert_close(found, point)


def test_unipc_follows_the_true_path_more_closely_than_euler():
    spread, x = 0.5, normal(8, dtype=torch.float64)

    def true_width(sigma):
        return ((1 - sigma) ** 2 * spread**2 + sigma**2) ** 0.5

    errors = {}
    for solver_type, table in SOLVERS:
        solver = solver_type(table(20, 3.0))
        sigmas = solver.table.sigmas
        found = true_width(sigmas[0]) * x
        for step in range(19):
            found = solver.step(step, found, normal_data_flow(spread)(found, sigmas[step]))
        errors[solver_type] = float((found / (true_width(sigmas[19]) * x) - 1).abs().max())
    assert errors[UniPCSolver] < 0.25 * errors[EulerSolver]


def test_euler_converges_to_the_truth():
    spread, x = 0.5, normal(8, dtype=torch.float64)
    found = solve(EulerSolver(euler_table(2000, 1.0)), x, normal_data_flow(spread))
    torch.testing.assert_close(found, spread * x, rtol=5e-3, atol=0)


def test_tables_fall_from_noise_to_zero():
    for _, table in SOLVERS:
        sigmas = table(49, 5.0).sigmas
        assert len(sigmas) == 50 and sigmas[-1] == 0
        assert all(a > b for a, b in itertools.pairwise(sigmas))


def test_every_twelfth_of_49_euler_steps_is_near_a_step_of_the_student():
    told = euler_table(49, 5.0).timesteps
    assert [round(told[i], 3) for i in (0, 12, 24, 36)] == [1000.0, 937.889, 834.712, 629.634]


@pytest.mark.parametrize("num_steps", [3, 9, 27, 37, 74])
def test_unipc_tells_whole_timesteps_of_an_even_table_as_they_are(num_steps):
    told = unipc_table(num_steps, 1.0).timesteps
    assert told == tuple(float(999 * (num_steps - i) // num_steps) for i in range(num_steps))


def test_unipc_tells_the_network_whole_timesteps():
    told = unipc_table(50, 5.0).timesteps
    assert told[:2] == (999.0, 995.0)
    assert all(t == int(t) for t in told)


def test_euler_in_half_precision_rounds_the_change_then_the_sum():
    x, flow = normal(64).bfloat16(), normal(64, seed=1).bfloat16()
    table = euler_table(3, 5.0)
    change = (table.sigmas[1] - table.sigmas[0]) * flow
    found = EulerSolver(table).step(0, x, flow)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (x.float() + change.float()).bfloat16())
