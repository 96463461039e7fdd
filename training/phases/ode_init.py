"""`train-ode`: stage 1, from any state of a trajectory straight to its end (spec 06 §4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from hallo_live_core.config import TransformerConfig

from ..data.ode_pairs import open_pairs
from ..data.shards import Samples
from ..draws import draw_states
from ..losses.ode import ode_loss
from ..trainer import MicroBatch
from .batches import draws_of, to_device
from .one_network import OneNetwork

PER_SAMPLE = ("video_errors", "times")
"""What the loss reports for every sample; the log has it by noise."""

BIN = 250
"""Width of the bins of mean timesteps, as in the reference's log."""


class ODEInit(OneNetwork):
    """See `trainer.Phase`."""

    def open_samples(self, config: TransformerConfig) -> Samples:
        """The teacher's trajectories."""
        return open_pairs(
            Path(self.recipe.data.pairs),
            self.recipe.clip,
            config,
            steps=len(self.schedule.steps),
            verify=self.recipe.data.verify,
        )

    def backward(
        self,
        learner: str,  # noqa: ARG002 - there is one
        micro_batch: MicroBatch,
        scale: float,
        synchronise: Callable[[bool], None],
    ) -> dict[str, Tensor]:
        """See `Phase`."""
        recipe = self.recipe
        trajectory, prompts = self.batches.read(micro_batch)
        draws = draws_of(recipe, micro_batch)
        states = draw_states(draws, recipe.plan.num_blocks, len(self.schedule.steps))
        loss = ode_loss(
            self.network,
            trajectory,
            states.to(self.processes.device),
            to_device(self.text.context(prompts), self.processes),
            blocks=recipe.blocks,
            schedule=self.schedule,
            weights=recipe.weights,
            zero_padding=recipe.ode.zero_padding,
        )
        synchronise(True)
        (loss.total * scale).backward()
        means = {name: value for name, value in loss.metrics.items() if name not in PER_SAMPLE}
        return means | by_noise(*(loss.metrics[name] for name in PER_SAMPLE))


def by_noise(errors: Tensor, times: Tensor) -> dict[str, Tensor]:
    """What clips of each bin of mean timesteps add to the mean error, and their share.

    Both are means over all clips [b], so that they may be averaged further; the first over the
    second is the mean error of the bin.
    """
    found: dict[str, Tensor] = {}
    for first in range(0, 1000 + BIN, BIN):
        inside = ((times >= first) & (times < first + BIN)).to(errors)
        found[f"video_loss_at/{first}"] = (errors * inside).mean()
        found[f"share_at/{first}"] = inside.mean()
    return found
