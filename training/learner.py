"""A network that learns, and everything of it that a checkpoint has to hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hallo_live_core.models.dit import DualStreamDiT

from .checkpointing import Snapshot, restore
from .steps import create_ema
from .trainable import published_parameters


@dataclass
class Learner:
    """`parameters`: published name -> what its optimiser changes.

    ema: moving average of all weights by published name, float32, cut as the weights are.
    """

    name: str
    network: DualStreamDiT
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    max_norm: float
    ema: dict[str, Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments of the optimiser and average, by name; live, not copies."""
        found = {
            f"weights.{name}": parameter.detach()
            for name, parameter in published_parameters(self.network).items()
        }
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}.{key}"] = value
        found |= {f"ema.{name}": tensor for name, tensor in (self.ema or {}).items()}
        return found

    def restore(self, snapshot: Snapshot, source: object) -> None:
        """Take everything from a checkpoint.

        Raises:
            CheckpointError: it is of another network.
        """
        stored = [name for name in snapshot.tensors if name.startswith(f"{self.name}.")]
        if any(name.startswith(f"{self.name}.optimizer.") for name in stored):
            self._create_moments()
        if any(name.startswith(f"{self.name}.ema.") for name in stored):
            self.ema = create_ema(published_parameters(self.network))
        restore(self.tensors(), snapshot, f"{self.name}.", source)

    def _create_moments(self) -> None:
        """What AdamW makes in its first step."""
        for parameter in self.parameters.values():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
