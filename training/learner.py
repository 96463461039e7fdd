"""A network that learns, and everything of it that a checkpoint has to hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit import DualStreamDiT

from .adapters import adapter_parameters
from .checkpointing import Snapshot, restore
from .optimizers import create_moments, moments, restore_numbers
from .steps import create_ema
from .trainable import published_parameters

BASES = "bases"
"""Where a checkpoint's state names the base of every learner with adapters."""


@dataclass(frozen=True, slots=True)
class BaseFile:
    """Where frozen weights below adapters are from; checkpoints hold this instead of them."""

    path: str
    sha256: str
    alpha: float


@dataclass
class Learner:
    """`parameters`: published name -> what its optimiser changes.

    ema: moving average of `weights`, float32, cut as they are. base: what adapters stand on, None
    where the whole network is a run's own.
    """

    name: str
    network: DualStreamDiT
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    max_norm: float
    ema: dict[str, Tensor] | None = None
    base: BaseFile | None = None

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """What is saved and averaged, by published name: all parameters, or those of adapters."""
        if self.base is None:
            return published_parameters(self.network)
        return adapter_parameters(self.network)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, moments of the optimiser and average, by name; live, not copies."""
        found = {f"weights.{name}": parameter.detach() for name, parameter in self.weights.items()}
        kept = moments(self.optimizer, self.parameters).items()
        found |= {f"optimizer.{name}": tensor for name, tensor in kept}
        found |= {f"ema.{name}": tensor for name, tensor in (self.ema or {}).items()}
        return found

    def restore(self, snapshot: Snapshot, source: object) -> None:
        """Take everything from a checkpoint.

        Raises:
            CheckpointError: it is of another network, or its adapters stand on another one.
        """
        stored_base = snapshot.state.get(BASES, {}).get(self.name)
        if self.base is not None and (stored_base or {}).get("sha256") != self.base.sha256:
            raise CheckpointError(
                f"{source} does not stand on {self.base.path}",
                found="its adapters were trained with another file",
                fix="put back the file that the run began with, or name another run.folder",
            )
        stored = [name for name in snapshot.tensors if name.startswith(f"{self.name}.")]
        if any(name.startswith(f"{self.name}.optimizer.") for name in stored):
            create_moments(self.optimizer, self.parameters)
            self._check_moments(stored, source)
        if any(name.startswith(f"{self.name}.ema.") for name in stored):
            self.ema = create_ema(self.weights)
        restore(self.tensors(), snapshot, f"{self.name}.", source)
        prefix = f"{self.name}.optimizer."
        numbers = {n.removeprefix(prefix): snapshot.tensors[n] for n in stored}
        restore_numbers(self.optimizer, self.parameters, numbers)

    def _check_moments(self, stored: list[str], source: object) -> None:
        """Two packages keep moments in 8 bits in two ways; another network is not told here."""
        weights, prefix = f"{self.name}.weights.", f"{self.name}.optimizer."
        if {n for n in stored if n.startswith(weights)} != {weights + n for n in self.weights}:
            return
        expected = {f"{prefix}{name}" for name in moments(self.optimizer, self.parameters)}
        odd = expected.symmetric_difference(n for n in stored if n.startswith(prefix))
        if odd:
            raise CheckpointError(
                f"{source} holds the moments of another optimiser",
                found=f"{len(odd)} tensors are in one only, such as {min(odd)}",
                fix="use the run's own recipe, and the package that kept its moments in 8 bits",
            )
