"""What phases with one network share: it learns from stored samples, iteration by iteration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from hallo_live_core.config import TransformerConfig
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT

from ..data.shards import Samples
from ..parallel import Processes
from ..recipe import Recipe
from ..trainer import MicroBatch
from .batches import Batches, open_text, prompts_of
from .networks import STUDENT, make_learner


class OneNetwork(ABC):
    """A `trainer.Phase` but for `backward`, which is the phase's own.

    Raises:
        CheckpointError: the network's file cannot be used.
        DataError: samples or the text of their prompts are missing or damaged.
    """

    def __init__(self, recipe: Recipe, processes: Processes) -> None:
        student = make_learner(STUDENT, recipe.model.student, recipe, recipe.optimizer, processes)
        self.recipe, self.processes = recipe, processes
        self.learners = {STUDENT: student}
        self.schedule = NoiseSchedule(recipe.schedule)
        config = student.network.config
        samples = self.open_samples(config)
        self.text = open_text(recipe, config.video.text_dim, prompts_of(samples))
        self.batches = Batches(samples, recipe, processes)

    @abstractmethod
    def open_samples(self, config: TransformerConfig) -> Samples:
        """What the network, of these sizes, learns from; the phase's own."""

    @property
    def network(self) -> DualStreamDiT:
        """The network that learns."""
        return self.learners[STUDENT].network

    def plan(self, step: int, *, has_ema: bool) -> tuple[str, ...]:
        """See `Phase`."""
        done = step + 1
        events = [f"update_{STUDENT}", *(["update_ema"] if has_ema else []), "advance"]
        if done >= self.recipe.ema.start_step and not has_ema:
            events.append("create_ema")
        if done % self.recipe.run.save_every == 0:
            events.append("save")
        return tuple(events)

    def prepare(  # noqa: B027 - nothing is needed here
        self, learner: str, micro_batches: Sequence[MicroBatch]
    ) -> None:
        """See `Phase`: one sample's loss does not depend on the others."""

    def state(self) -> dict[str, Any]:
        """See `Phase`: of what data the order is made."""
        return {"data": self.batches.order.fingerprint}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Phase`."""
        self.batches.order.check(state.get("data"))
