"""`train-tiny`: from nothing to a student, all phases on a CPU, and a table of what it shows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from hallo_live_core.checkpoints.load import load_transformer
from hallo_live_core.checkpoints.tiny import write_tiny_models
from hallo_live_core.models.dit import DualStreamDiT

from ..config_reader import as_mapping, build
from ..data.ode_pairs import AUDIO, VIDEO, open_pairs
from ..losses.reward_weighting import RewardSettings
from ..parallel import Processes
from ..phases.distill import Distillation
from ..phases.encode import encode
from ..phases.export import export
from ..phases.flow_matching import FlowMatching
from ..phases.ode_init import ODEInit
from ..phases.pairs import make_pairs
from ..recipe import Recipe, load_recipe
from ..trainer import Phase, Trainer
from ..types import Latents
from .curves import draw_curves
from .files import write_clips, write_network, write_prompts
from .measures import JUDGE, HighJudge, held_out_error, student_clips
from .report import STUDENTS, Evidence, report
from .side_by_side import side_by_side
from .world import LEAD, toy_config, toy_prompts

RECIPES = Path(__file__).parents[1] / "recipes"
DEFAULT_FOLDER = Path("out/train-tiny")

LOOKAHEAD = 10
"""Audio latents that the picture may hear ahead in two of the students: two video latents."""

AHEAD = f"blocks.lookahead={LOOKAHEAD}"
RUNS = ("teacher", *(name for name in STUDENTS if name != "untrained"))
"""What has a log, in the order in which it is made."""

SEED = 103
HELD_OUT_SEED = 50_000
SAMPLE_SEED = 9
BETA = 1.0
STUDENT_FILE = "hallolive_dit.safetensors"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of everything; `scale` multiplies the steps of the recipes.

    workers: processes that work at the same time where parts do not need each other.
    seed: added to every seed, for another run of chance.
    """

    scale: float = 1.0
    clips: int = 4096
    repeats: int = 16
    held_out_repeats: int = 16
    samples_per_prompt: int = 64
    workers: int = 2
    seed: int = 0


SMALL = Budget(scale=0.01, clips=16, repeats=1, held_out_repeats=1, samples_per_prompt=1, workers=1)
"""Only shows that everything is connected."""


class Toy:
    """One run of everything below `folder`; finished parts are not made again.

    say: takes a line for the user.
    """

    def __init__(self, folder: Path, budget: Budget, say: Callable[[str], object]) -> None:
        self.folder, self.budget, self.say = Path(folder), budget, say
        self.processes = Processes(self._recipe("teacher").parallel, cpu=True)
        torch.set_num_threads(1)  # tiny networks are slower on several

    def run(self) -> str:
        """All phases; returns the table."""
        started = time.perf_counter()
        self._make_world()
        self.say("teacher")
        self.teacher()
        self._together("the teacher's trajectories", Toy.pairs, Toy.held_out)
        self._together("stage 1: two students", Toy.ode, Toy.ode_ahead)
        stage_2 = (Toy.dmd, Toy.dmd_reward, Toy.dmd_tilted, Toy.dmd_ahead)
        self._together("stage 2: four students", *stage_2)
        samples = [partial(Toy.sample, name=name) for name in STUDENTS]
        self._together("clips of all students", *samples)
        self._install()
        drawn = draw_curves(self.folder, RUNS, self.folder / "curves.png")
        curves = "![curves](curves.png)" if drawn else "Install matplotlib to see curves."
        minutes = (time.perf_counter() - started) / 60
        return f"{self._report()}\n{curves}\n\nMade in {minutes:.1f} minutes.\n"

    # -- the parts ------------------------------------------------------------------------------

    def teacher(self) -> None:
        """Flow matching on clips of the world."""
        self._train("teacher", "teacher", FlowMatching)

    def pairs(self) -> None:
        """Trajectories to learn from."""
        self._pairs("pairs", SEED + self.budget.seed, self.budget.repeats)

    def held_out(self) -> None:
        """Trajectories to measure by."""
        self._pairs("held-out", HELD_OUT_SEED + self.budget.seed, self.budget.held_out_repeats)

    def ode(self) -> None:
        """Stage 1."""
        self._train("ode", "ode", ODEInit)

    def ode_ahead(self) -> None:
        """Stage 1 with look-ahead."""
        self._train("ode-ahead", "ode", ODEInit, AHEAD)

    def dmd(self) -> None:
        """Stage 2."""
        self._train("dmd", "hpdmd", Distillation)

    def dmd_reward(self) -> None:
        """Stage 2 with rewards as published."""
        self._train("dmd-reward", "hpdmd", _rewarded)

    def dmd_tilted(self) -> None:
        """Stage 2 with rewards in the critic's loss."""
        self._train("dmd-tilted", "hpdmd", _tilted)

    def dmd_ahead(self) -> None:
        """Stage 2 with look-ahead, from the stage 1 that had it."""
        begin = f"model.student={self.folder}/ode-ahead.safetensors"
        self._train("dmd-ahead", "hpdmd", Distillation, AHEAD, begin)

    def sample(self, name: str) -> None:
        """Clips of a student, as its users would see them."""
        prompts = toy_prompts() * self.budget.samples_per_prompt
        recipe = self._recipe("ode", *([AHEAD] if "ahead" in name else []))
        seed = SAMPLE_SEED + self.budget.seed
        clips = student_clips(self._student(name), recipe, prompts, seed=seed)
        torch.save(tuple(clips), self._samples(name))

    def _together(self, what: str, *parts: Callable[[Toy], None]) -> None:
        """Parts that do not need each other."""
        self.say(what)
        calls = [partial(do_part, self.folder, self.budget, part) for part in parts]
        side_by_side(calls, workers=self.budget.workers)

    def _recipe(self, name: str, *overrides: str) -> Recipe:
        """A shipped recipe, moved below the folder."""
        seed = f"run.seed={SEED + self.budget.seed}"
        recipe = load_recipe(RECIPES / f"tiny_{name}.yaml", (seed, *overrides))
        return moved(recipe, self.folder)

    def _make_world(self) -> None:
        if (self.folder / "prompts.csv").exists():
            return
        self.say("world: clips, prompts, tiny encoder and decoders")
        shutil.rmtree(self.folder, ignore_errors=True)
        write_tiny_models(self.folder / "models")
        seed = SEED + self.budget.seed
        write_network(self.folder / "untrained.safetensors", toy_config(), seed=seed)
        recipe, prompts = self._recipe("teacher"), toy_prompts()
        every = (prompts * (self.budget.clips // len(prompts) + 1))[: self.budget.clips]
        write_clips(self.folder / "clips", every, recipe.clip, seed=seed, lead=LEAD)
        write_prompts(self.folder / "prompts.csv", prompts)
        encode(self._recipe("encode"), self.processes)

    def _pairs(self, name: str, seed: int, repeats: int) -> None:
        recipe = self._recipe("pairs", f"run.seed={seed}", f"pairs.repeats={repeats}")
        data = replace(recipe.data, pairs=str(self.folder / name))
        make_pairs(replace(recipe, data=data), self.processes)

    def _train(
        self,
        name: str,
        recipe_name: str,
        phase: Callable[[Recipe, Processes], Phase],
        *overrides: str,
    ) -> None:
        """Train and export; a run that was cut goes on."""
        recipe = self._recipe(recipe_name, f"run.folder={self.folder}/{name}", *overrides)
        steps = max(1, round(recipe.run.max_steps * self.budget.scale))
        start = max(1, round(recipe.ema.start_step * self.budget.scale))
        recipe = replace(
            recipe,
            run=replace(recipe.run, max_steps=steps),
            ema=replace(recipe.ema, start_step=start),
        )
        Trainer(recipe, self.processes, phase(recipe, self.processes)).run()
        target = self.folder / f"{name}.safetensors"
        target.unlink(missing_ok=True)
        export(self.folder / name, target, dtype=torch.float32)

    def _install(self) -> None:
        """Put the rewarded student among the tiny models, where `hallo-live generate` finds it."""
        models = self.folder / "models"
        (models / "hallolive_dit.pt").unlink(missing_ok=True)
        (models / STUDENT_FILE).unlink(missing_ok=True)
        export(self.folder / "dmd-tilted", models / STUDENT_FILE)

    # -- what came of it ------------------------------------------------------------------------

    def _student(self, name: str) -> DualStreamDiT:
        return load_transformer(self.folder / f"{name}.safetensors", dtype=torch.float32)

    def _samples(self, name: str) -> Path:
        return self.folder / f"{name}.samples.pt"

    def _report(self) -> str:
        recipe = self._recipe("ode")
        seed, held_out = SAMPLE_SEED + self.budget.seed, self.folder / "held-out"
        errors = {
            name: held_out_error(self._student(name), recipe, held_out, seed=seed)
            for name in ("untrained", "teacher", "ode")
        }
        evidence = Evidence(
            samples={name: Latents(*torch.load(self._samples(name))) for name in STUDENTS},
            teacher=(self._teacher_clips("pairs"), self._teacher_clips("held-out")),
            errors=errors,
            recipe=recipe,
        )
        return report(evidence)

    def _teacher_clips(self, name: str) -> Latents:
        recipe = self._recipe("ode")
        steps = len(recipe.schedule.steps)
        store = open_pairs(self.folder / name, recipe.clip, toy_config(), steps=steps)
        finished = [store[key].tensors for key in store.keys]
        video, audio = (torch.stack([t[kind][-1] for t in finished]) for kind in (VIDEO, AUDIO))
        return Latents(video.float(), audio.float())


def do_part(folder: Path, budget: Budget, part: Callable[[Toy], None]) -> None:
    """One part of a run, in whatever process."""
    part(Toy(folder, budget, say=lambda _: None))


def moved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every path of the shipped default folder below `folder` instead."""
    values = as_mapping(recipe)
    old = str(DEFAULT_FOLDER)
    for group in ("run", "data", "model"):
        for key, value in values[group].items():
            if isinstance(value, str) and value.startswith(old):
                values[group][key] = str(folder) + value[len(old) :]
    return build(Recipe, values)


def _rewarded(recipe: Recipe, processes: Processes) -> Distillation:
    judged = RewardSettings(beta=BETA, judges={JUDGE: "both"})
    return Distillation(replace(recipe, rewards=judged), processes, HighJudge())


def _tilted(recipe: Recipe, processes: Processes) -> Distillation:
    judged = RewardSettings(beta=BETA, judges={JUDGE: "both"}, weigh="critic")
    return Distillation(replace(recipe, rewards=judged), processes, HighJudge())
