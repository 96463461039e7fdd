"""The loop of every phase: update, average, log, save, and go on exactly where a run was cut."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hallo_live_core.checkpoints.config_json import config_to_metadata
from hallo_live_core.errors import HalloLiveError

from . import checkpointing
from .checkpointing import Snapshot
from .config_reader import RecipeError, as_mapping, build
from .learner import BASES, Learner
from .logs import LOG_FILE, Log
from .parallel import Processes
from .recipe import Recipe
from .steps import create_ema, update, update_ema

LOGGER = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
MAY_CHANGE = ("run", "parallel", "samples", "evaluation", "data.held_out")
"""What a resumed run may have otherwise: sections of the recipe, and single settings."""
MUST_STAY = ("run.seed", "run.global_batch")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one backward pass learns from.

    batch: number of the global batch. samples: numbers of these samples within it, from 0.
    positions: the same, counted from the beginning of the run; they choose the data.
    """

    batch: int
    samples: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(slots=True)
class Counters:
    """Where a run stands. batches: global batches taken; bad: updates left out."""

    step: int = 0
    batches: int = 0
    bad: int = 0
    bad_in_a_row: int = 0


class Phase(Protocol):
    """What a phase adds to the loop."""

    learners: dict[str, Learner]

    def plan(self, step: int, *, has_ema: bool) -> tuple[str, ...]:
        """Events of one iteration in order: update_<learner>, update_ema, advance, ..."""
        ...

    def prepare(self, learner: str, micro_batches: Sequence[MicroBatch]) -> None:
        """What an update needs of all its micro-batches before the first goes backward."""
        ...

    def backward(
        self,
        learner: str,
        micro_batch: MicroBatch,
        scale: float,
        synchronise: Callable[[bool], None],
    ) -> Mapping[str, Tensor]:
        """Add `scale` times the gradients of a micro-batch; numbers to log.

        `synchronise(last)` is to be called before every piece of the backward pass.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What else has to survive, as plain values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        ...


@dataclass
class Trainer:
    """One run of one phase. Make it, then `run`."""

    recipe: Recipe
    processes: Processes
    phase: Phase
    observer: Callable[[Learner, int], Mapping[str, float]] | None = None
    """Looks at the student every `run.sample_every` steps; gives numbers to log."""
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.folder = Path(self.recipe.run.folder)
        run, count = self.recipe.run, self.processes.count
        self._writer = ThreadPoolExecutor(1, "checkpoint") if run.save_beside else None
        self._saving: Future[None] | None = None
        self._saved: int | None = None
        self.accumulation, rest = divmod(run.global_batch, run.micro_batch * count)
        if rest or not self.accumulation:
            raise RecipeError(
                "The global batch cannot be divided among the processes",
                found=f"{run.global_batch} samples, {count} processes with {run.micro_batch} each",
                fix=f"make run.global_batch a multiple of {run.micro_batch * count}",
            )

    def run(self) -> None:
        """Train to `run.max_steps`, from the newest checkpoint of the run's folder if there is one.

        Raises:
            RecipeError: the folder holds a run of another recipe.
            CheckpointError: the newest checkpoint is damaged or of another network.
            HalloLiveError: too many updates in a row were not finite.
        """
        torch.manual_seed(self.recipe.run.seed + self.processes.rank)
        self._resume()
        run, counters = self.recipe.run, self.counters
        with Log(
            self.folder,
            run.log_to,
            first=counters.step,
            last=run.max_steps,
            silent=not self.processes.is_main,
        ) as log:
            while counters.step < run.max_steps:
                self._iterate(log)
        if self._saved != counters.step:
            self._save()
        self._settle()
        self.processes.wait()

    def _iterate(self, log: Log) -> None:
        counters, started = self.counters, time.perf_counter()
        learners = self.phase.learners
        averaged = learners["student"]
        values: dict[str, float] = {}
        for event in self.phase.plan(counters.step, has_ema=averaged.ema is not None):
            if event == "update_ema" and averaged.ema is not None:
                update_ema(averaged.ema, averaged.weights, self.recipe.ema.decay)
            elif event == "create_ema":
                averaged.ema = create_ema(averaged.weights)
            elif event == "advance":
                counters.step += 1
            elif event == "save":
                self._save()
            elif event.startswith("update_"):
                values |= self._update(learners[event.removeprefix("update_")])
        log.advance()
        if counters.step % self.recipe.run.log_every == 0:
            values |= {"seconds": time.perf_counter() - started, "bad_updates": counters.bad}
            log.write(counters.step, values | _memory(self.processes.device))
        every = self.recipe.run.sample_every
        if self.observer is not None and every and counters.step % every == 0:
            log.write(counters.step, self.observer(averaged, counters.step))

    def _update(self, learner: Learner) -> dict[str, float]:
        sums: dict[str, float] = {}
        micro_batches = self._micro_batches()
        self.phase.prepare(learner.name, micro_batches)
        calls = [
            self._call(learner, micro_batch, last=i == self.accumulation - 1, sums=sums)
            for i, micro_batch in enumerate(micro_batches)
        ]
        self.counters.batches += 1
        result = update(learner.optimizer, calls, learner.max_norm)
        self._guard(learner, applied=result.applied)
        means = self.processes.mean(sums)
        means |= {"grad_norm": result.norm}
        means |= {f"grad_norm_{name}": norm for name, norm in result.norms.items()}
        return {f"{learner.name}/{name}": value for name, value in means.items()}

    def _call(
        self, learner: Learner, micro_batch: MicroBatch, *, last: bool, sums: dict[str, float]
    ) -> Callable[[], None]:
        def synchronise(last_piece: bool = True) -> None:
            self.processes.synchronise(learner.network, last=last and last_piece)

        def call() -> None:
            scale = 1 / self.accumulation
            metrics = self.phase.backward(learner.name, micro_batch, scale, synchronise)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * scale
            if last:
                self.processes.average_gradients(learner.parameters.values())

        return call

    def _micro_batches(self) -> list[MicroBatch]:
        """This process's share of the next global batch."""
        run, count = self.recipe.run, self.processes.count
        number, made = self.counters.batches, list[MicroBatch]()
        for i in range(self.accumulation):
            first = (i * count + self.processes.rank) * run.micro_batch
            samples = tuple(range(first, first + run.micro_batch))
            positions = tuple(number * run.global_batch + s for s in samples)
            made.append(MicroBatch(number, samples, positions))
        return made

    def _guard(self, learner: Learner, *, applied: bool) -> None:
        counters, limit = self.counters, self.recipe.run.max_bad_updates
        counters.bad_in_a_row = 0 if applied else counters.bad_in_a_row + 1
        counters.bad += not applied
        if counters.bad_in_a_row > limit:
            raise HalloLiveError(
                f"{counters.bad_in_a_row} updates in a row were not finite",
                found=f"{learner.name}, step {counters.step}",
                fix="look at the log, lower the learning rate, go on from an earlier checkpoint",
            )

    # -- saving and going on --------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait until this process's part of the newest checkpoint is written."""
        if self._saving is not None:
            self._saving.result()

    def _save(self) -> None:
        self._settle()
        tensors = checkpointing.random_states()
        for learner in self.phase.learners.values():
            own = learner.tensors().items()
            tensors |= {f"{learner.name}.{name}": tensor for name, tensor in own}
        bases = {name: one.base for name, one in self.phase.learners.items() if one.base}
        state = {
            BASES: as_mapping(bases),
            "counters": {name: getattr(self.counters, name) for name in Counters.__slots__},
            "phase": self.phase.state(),
            "recipe": as_mapping(self.recipe),
            "git": checkpointing.git_hash(),
            "sizes": config_to_metadata(self.phase.learners["student"].network.config),
        }
        self._saving = checkpointing.save(
            self.folder / CHECKPOINTS,
            self.counters.step,
            Snapshot(tensors, state),
            self.processes,
            keep=self.recipe.run.keep,
            milestone_every=self.recipe.run.milestone_every,
            beside=self._writer,
        )
        self._saved = self.counters.step

    def _resume(self) -> None:
        done = checkpointing.checkpoints(self.folder / CHECKPOINTS)
        self.processes.wait()
        if not done:
            log = self.folder / LOG_FILE
            if self.processes.is_main and log.exists():
                LOGGER.warning("%s was cut before its first checkpoint; it starts anew", log.parent)
            return
        snapshot = checkpointing.load(done[-1], self.processes)
        stored = as_mapping(build(Recipe, snapshot.state["recipe"]))  # newer settings: defaults
        check_same_recipe(stored, as_mapping(self.recipe), self.folder)
        for learner in self.phase.learners.values():
            learner.restore(snapshot, done[-1])
        self.counters = Counters(**snapshot.state["counters"])
        self._saved = self.counters.step
        self.phase.restore(snapshot.state["phase"])
        checkpointing.restore_random_states(snapshot)


def check_same_recipe(stored: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """A folder holds one run; only what cannot change its course may differ.

    Raises:
        RecipeError: something else differs.
    """
    differing = [
        name
        for section in now
        for key in (now[section] if isinstance(now[section], dict) else [section])
        if _differs(stored.get(section), now[section], key)
        for name in [f"{section}.{key}" if isinstance(now[section], dict) else section]
        if name in MUST_STAY or not {section, name} & set(MAY_CHANGE)
    ]
    if differing:
        raise RecipeError(
            f"{folder} holds a run of another recipe",
            found=f"different: {', '.join(differing)}",
            fix="name another run.folder, or use the recipe of that run",
        )


def _differs(stored: object, now: object, key: str) -> bool:
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        return stored.get(key) != now[key]
    return stored != now


def _memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
