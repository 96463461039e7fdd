"""Solvers of the teacher's probability-flow ODE: Euler and UniPC (spec 02 §7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .precision import at_least_float32
from .schedule import shift_sigma

NUM_TRAIN_TIMESTEPS = 1000
UNIPC_ORDER = 2


@dataclass(frozen=True, slots=True)
class SolverTable:
    """sigmas: num_steps + 1 numbers that end in 0; timesteps: what the network is told."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    @property
    def num_steps(self) -> int:
        """Steps from noise to clean latents."""
        return len(self.timesteps)


def euler_table(num_steps: int, shift: float) -> SolverTable:
    """Evenly spaced between the shifted ends of the training table, then shifted once more."""
    lowest = float(shift_sigma(torch.tensor(1 / NUM_TRAIN_TIMESTEPS), shift))
    sigmas = [_float32(shift_sigma(s, shift)) for s in _spaced(1.0, lowest, num_steps)]
    timesteps = tuple(_float32(NUM_TRAIN_TIMESTEPS * s) for s in sigmas)
    return SolverTable((*sigmas, 0.0), timesteps)


def unipc_table(num_steps: int, shift: float) -> SolverTable:
    """Evenly spaced from 0.999 to 0 without the end, shifted; the network gets whole timesteps."""
    spaced = _spaced(_float32(1 - 1 / NUM_TRAIN_TIMESTEPS), 0.0, num_steps + 1)[:-1]
    sigmas = [shift_sigma(s, shift) for s in spaced]  # not rounded yet: 945.00001 is 945
    whole = tuple(float(int(NUM_TRAIN_TIMESTEPS * s)) for s in sigmas)
    return SolverTable((*map(_float32, sigmas), 0.0), whole)


class EulerSolver:
    """x + (sigma' - sigma) flow; it remembers nothing."""

    def __init__(self, table: SolverTable) -> None:
        self.table = table

    def step(self, index: int, x: Tensor, flow: Tensor) -> Tensor:
        """From sigma number `index` to the next. The product is rounded to the flow's dtype."""
        dtype = at_least_float32(x.dtype)
        change = (self.table.sigmas[index + 1] - self.table.sigmas[index]) * flow
        return (x.to(dtype) + change.to(dtype)).to(x.dtype)


class UniPCSolver:
    """Order-2 predictor and corrector on clean estimates ("bh2"); one object per stream and clip.

    It remembers the last two clean estimates and the sample that the last prediction started from.
    """

    def __init__(self, table: SolverTable) -> None:
        self.table = table
        self._clean: list[Tensor] = []
        self._start: Tensor | None = None
        self._order = 0

    def step(self, index: int, x: Tensor, flow: Tensor) -> Tensor:
        """From sigma number `index` to the next: correct x by what was just seen, then predict."""
        clean = x - self.table.sigmas[index] * flow
        if self._start is not None:
            x = self._correct(index, self._start, clean)
        self._clean = [*self._clean, clean][-UNIPC_ORDER:]
        self._order = min(UNIPC_ORDER, self.table.num_steps - index, index + 1)
        self._start = x
        return self._predict(index, x)

    def _predict(self, index: int, x: Tensor) -> Tensor:
        clean = self._clean[-1]
        base, step_size, factor = self._first_order(index, x, clean)
        if self._order == 1:
            return base
        ratio = (self._lambda(index - 1) - self._lambda(index)) / step_size
        return base - factor * 0.5 * (self._clean[-2] - clean) / ratio

    def _correct(self, index: int, start: Tensor, clean: Tensor) -> Tensor:
        previous = self._clean[-1]
        base, step_size, factor = self._first_order(index - 1, start, previous)
        change = clean - previous
        if self._order == 1:
            return base - factor * 0.5 * change
        ratio = (self._lambda(index - 2) - self._lambda(index - 1)) / step_size
        bend = (self._clean[-2] - previous) / ratio
        rho_0, rho_1 = _corrector_weights(step_size, ratio)
        return base - factor * (rho_0 * bend + rho_1 * change)

    def _first_order(self, index: int, x: Tensor, clean: Tensor) -> tuple[Tensor, float, float]:
        """First-order move from sigma `index` on; also lambda's change, and alpha (e^-h - 1)."""
        sigma, next_sigma = self.table.sigmas[index : index + 2]
        step_size = self._lambda(index + 1) - self._lambda(index)
        factor = (1 - next_sigma) * math.expm1(-step_size)
        return (next_sigma / sigma) * x - factor * clean, step_size, factor

    def _lambda(self, index: int) -> float:
        """Half the log of the signal-to-noise ratio; infinite where nothing is noise."""
        sigma = self.table.sigmas[index]
        return math.log((1 - sigma) / sigma) if sigma > 0 else math.inf


def _corrector_weights(step_size: float, ratio: float) -> tuple[float, float]:
    """Solve [[1, 1], [ratio, 1]] rho = (c1 / E, 2 c2 / E) (spec 02 §7)."""
    decay = math.expm1(-step_size)
    first = decay / -step_size - 1
    second = first / -step_size - 0.5
    right = (first / decay, 2 * second / decay)
    rho_0 = (right[0] - right[1]) / (1 - ratio)
    return rho_0, right[0] - rho_0


def _spaced(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / max(1, count - 1) for i in range(count)]


def _float32(value: float) -> float:
    """Rounded as the tables of the reference are: the network is told these very numbers."""
    return float(torch.tensor(value, dtype=torch.float32))
