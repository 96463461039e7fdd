"""The student's noise schedule (spec 02 §1).

x_t = (1 - sigma) x0 + sigma noise; the network predicts flow = noise - x0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ..config import ScheduleConfig
from .precision import at_least_float32, widest_float

LOSS_WEIGHT_CENTRE = 500.0
"""Timestep at which a training sample weighs most (spec 02 §1)."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The table of sigmas, and the denoising steps taken from it.

    There is no entry for sigma = 0: timestep 0 has the sigma of the last entry, 0.00498.
    """

    config: ScheduleConfig = field(default_factory=ScheduleConfig)

    @cached_property
    def sigmas(self) -> Tensor:
        """float32 [num_train_timesteps] on the CPU, falling from 1."""
        count = self.config.num_train_timesteps
        u = torch.linspace(1.0, 0.0, count + 1)[:-1]
        return shift_sigma(u, self.config.shift)

    @cached_property
    def timesteps(self) -> Tensor:
        """float32 [num_train_timesteps]: the sigmas on the scale that the network is told."""
        return self.sigmas * self.config.num_train_timesteps

    @cached_property
    def steps(self) -> tuple[float, ...]:
        """Timesteps of the denoising steps, "warped" through the table: 1000, 937.5, 833.3, 625."""
        count = self.config.num_train_timesteps
        entries = (count - step for step in self.config.steps)
        return tuple(float(self.timesteps[k]) if k < count else 0.0 for k in entries)

    @cached_property
    def context(self) -> float:
        """Timestep told for what is already clean: history and the clean-context pass."""
        return float(self.config.context_timestep)

    @property
    def all_timesteps(self) -> tuple[float, ...]:
        """Every timestep that a stream will be told, each once."""
        return tuple(dict.fromkeys((self.context, *self.steps)))

    def sigma(self, timestep: float) -> float:
        """Sigma of the table entry nearest to one timestep."""
        if timestep not in self._known:
            self._known[timestep] = float(self.sigmas[self.index(torch.tensor(timestep))])
        return self._known[timestep]

    @cached_property
    def _known(self) -> dict[float, float]:
        return {}

    def index(self, timesteps: Tensor) -> Tensor:
        """Nearest table entry of every timestep (the first on ties), int64, on their device."""
        table = self.timesteps.to(timesteps.device)
        return (table - timesteps.to(table.dtype).unsqueeze(-1)).abs().argmin(dim=-1)

    def sigmas_at(self, timesteps: Tensor) -> Tensor:
        """float32 sigma of every timestep, on their device."""
        return self.sigmas.to(timesteps.device)[self.index(timesteps)]

    @cached_property
    def loss_weights(self) -> Tensor:
        """float32 training weight per table entry, a bell around the middle, mean 1."""
        count = self.config.num_train_timesteps
        bell = torch.exp(-2 * ((self.timesteps - LOSS_WEIGHT_CENTRE) / count) ** 2)
        raised = bell - bell.min()
        return raised * (count / raised.sum())


Sigma = TypeVar("Sigma", float, Tensor)


def shift_sigma(sigma: Sigma, shift: float) -> Sigma:
    """Move sigmas towards noise: s x / (1 + (s - 1) x)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def clean_from_flow(noisy: Tensor, flow: Tensor, sigma: float | Tensor) -> Tensor:
    """x0 = x_t - sigma flow, computed in float64, rounded to the dtype of the flow.

    sigma: one number, or a tensor of the leading axes of `noisy` ([b, f] for [b, f, c, h, w]).
    """
    wide = widest_float(noisy.device)
    return (noisy.to(wide) - _per_latent(sigma, noisy, wide) * flow.to(wide)).to(flow.dtype)


def flow_from_clean(noisy: Tensor, clean: Tensor, sigma: float | Tensor) -> Tensor:
    """flow = (x_t - x0) / sigma, the inverse of `clean_from_flow` in the same precision."""
    wide = widest_float(noisy.device)
    return ((noisy.to(wide) - clean.to(wide)) / _per_latent(sigma, noisy, wide)).to(clean.dtype)


def add_noise(clean: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """(1 - sigma) x0 + sigma noise, computed in float32 or wider, rounded to the noise's dtype."""
    dtype = at_least_float32(noise.dtype)
    weight = _per_latent(sigma, noise, dtype)
    return ((1 - weight) * clean.to(dtype) + weight * noise.to(dtype)).to(noise.dtype)


def _per_latent(sigma: float | Tensor, like: Tensor, dtype: torch.dtype) -> float | Tensor:
    if not isinstance(sigma, Tensor):
        return sigma
    trailing = (1,) * (like.ndim - sigma.ndim)
    return sigma.to(dtype).reshape(*sigma.shape, *trailing)
