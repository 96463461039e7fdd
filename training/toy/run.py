"""`train-tiny`: from nothing to a student, all phases on a CPU, and a table of what it shows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from .measures import (
    JUDGE,
    Estimate,
    RightJudge,
    energy_distance,
    held_out_error,
    lag_error,
    reward,
    student_clips,
)
from .world import measure, toy_config, toy_prompts

RECIPES = Path(__file__).parents[1] / "recipes"
DEFAULT_FOLDER = Path("out/train-tiny")
LEAD = 1
"""The picture runs this many latents ahead of the sound, as lips do."""

LOOKAHEAD = 10
"""Audio latents that the picture may hear ahead in the third student: two video latents."""

SEED = 103
HELD_OUT_SEED = 50_000
SAMPLE_SEED = 9
BETA = 1.5
STUDENT_FILE = "hallolive_dit.safetensors"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of everything; `scale` multiplies the steps of the recipes."""

    scale: float = 1.0
    clips: int = 512
    repeats: int = 12
    held_out_repeats: int = 4
    samples_per_prompt: int = 8


SMALL = Budget(scale=0.01, clips=16, repeats=1, held_out_repeats=1, samples_per_prompt=1)
"""Only shows that everything is connected."""


class Toy:
    """One run of everything below `folder`; finished parts are not made again.

    say: takes a line for the user.
    """

    def __init__(self, folder: Path, budget: Budget, say: Callable[[str], object]) -> None:
        self.folder, self.budget, self.say = Path(folder), budget, say
        self.processes = Processes(self._recipe("teacher").parallel, cpu=True)

    def run(self) -> str:
        """All phases; returns the table."""
        started = time.perf_counter()
        torch.set_num_threads(1)  # tiny networks are slower on several
        self._make_world()
        self._train("teacher", "teacher", FlowMatching)
        self._pairs("pairs", SEED, self.budget.repeats)
        self._pairs("held-out", HELD_OUT_SEED, self.budget.held_out_repeats)
        self._train("ode", "ode", ODEInit)
        self._train("ode-ahead", "ode", ODEInit, f"blocks.lookahead={LOOKAHEAD}")
        self._train("dmd", "hpdmd", Distillation)
        self._train("dmd-reward", "hpdmd", _rewarded)
        self._train(
            "dmd-ahead",
            "hpdmd",
            Distillation,
            f"blocks.lookahead={LOOKAHEAD}",
            f"model.student={self.folder}/ode-ahead.safetensors",
        )
        self._install()
        runs = ("teacher", *(name for name in STUDENTS if name != "untrained"))
        drawn = draw_curves(self.folder, runs, self.folder / "curves.png")
        curves = "![curves](curves.png)" if drawn else "Install matplotlib to see curves."
        minutes = (time.perf_counter() - started) / 60
        return f"{self._table()}\n{curves}\n\nMade in {minutes:.1f} minutes.\n"

    def _recipe(self, name: str, *overrides: str) -> Recipe:
        """A shipped recipe, moved below the folder."""
        recipe = load_recipe(RECIPES / f"tiny_{name}.yaml", overrides)
        return moved(recipe, self.folder)

    def _make_world(self) -> None:
        if (self.folder / "prompts.csv").exists():
            return
        self.say("world: clips, prompts, tiny encoder and decoders")
        shutil.rmtree(self.folder, ignore_errors=True)
        write_tiny_models(self.folder / "models")
        write_network(self.folder / "untrained.safetensors", toy_config(), seed=SEED)
        recipe, prompts = self._recipe("teacher"), toy_prompts()
        every = (prompts * (self.budget.clips // len(prompts) + 1))[: self.budget.clips]
        write_clips(self.folder / "clips", every, recipe.clip, seed=SEED, lead=LEAD)
        write_prompts(self.folder / "prompts.csv", prompts)
        encode(self._recipe("encode"), self.processes)

    def _pairs(self, name: str, seed: int, repeats: int) -> None:
        self.say(f"{name}: the teacher's trajectories")
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
        self.say(f"{name}: training")
        recipe = self._recipe(recipe_name, f"run.folder={self.folder}/{name}", *overrides)
        steps = max(1, round(recipe.run.max_steps * self.budget.scale))
        start = max(1, round(recipe.ema.start_step * self.budget.scale))
        recipe = replace(
            recipe,
            run=replace(recipe.run, max_steps=steps),
            ema=replace(recipe.ema, start_step=start),
        )
        if phase is _rewarded:
            judged = RewardSettings(beta=BETA, judges={JUDGE: "both"})
            recipe = replace(recipe, rewards=judged)
        Trainer(recipe, self.processes, phase(recipe, self.processes)).run()
        target = self.folder / f"{name}.safetensors"
        target.unlink(missing_ok=True)
        export(self.folder / name, target, dtype=torch.float32)

    def _install(self) -> None:
        """Put the rewarded student among the tiny models, where `hallo-live generate` finds it."""
        models = self.folder / "models"
        (models / "hallolive_dit.pt").unlink(missing_ok=True)
        (models / STUDENT_FILE).unlink(missing_ok=True)
        export(self.folder / "dmd-reward", models / STUDENT_FILE)

    def _student(self, name: str) -> DualStreamDiT:
        return load_transformer(self.folder / f"{name}.safetensors", dtype=torch.float32)

    def _table(self) -> str:
        prompts = toy_prompts() * self.budget.samples_per_prompt
        teacher = [self._teacher_clips(name) for name in ("pairs", "held-out")]
        samples = {
            name: student_clips(
                self._student(name),
                self._recipe("ode", f"blocks.lookahead={LOOKAHEAD * ('ahead' in name)}"),
                prompts,
                seed=SAMPLE_SEED,
            )
            for name in STUDENTS
        }
        errors = {
            name: held_out_error(
                self._student(name), self._recipe("ode"), self.folder / "held-out", seed=SAMPLE_SEED
            )
            for name in ("untrained", "teacher", "ode")
        }
        floor = energy_distance(*(measure(clips).features for clips in teacher))
        return report(samples, teacher[0], errors, floor, self._recipe("ode"))

    def _teacher_clips(self, name: str) -> Latents:
        recipe = self._recipe("ode")
        store = open_pairs(self.folder / name, recipe.clip, toy_config())
        finished = [store[key].tensors for key in store.keys]
        video, audio = (torch.stack([t[kind][-1] for t in finished]) for kind in (VIDEO, AUDIO))
        return Latents(video.float(), audio.float())


STUDENTS = {
    "untrained": "an untrained network",
    "ode": "stage 1",
    "dmd": "stage 2, plain",
    "dmd-reward": "stage 2, reward",
    "ode-ahead": f"stage 1, look-ahead {LOOKAHEAD}",
    "dmd-ahead": f"stage 2, look-ahead {LOOKAHEAD}",
}


def report(
    samples: dict[str, Latents],
    teacher: Latents,
    errors: dict[str, Estimate],
    floor: Estimate,
    recipe: Recipe,
) -> str:
    """The table, with what each claim would need; it says what was found, whatever it is."""
    wanted = measure(teacher).features
    last = recipe.clip.video_latents - LEAD
    block = recipe.blocks.video_latents
    ends = list(range(block - 1, last, block))
    distance = {n: energy_distance(measure(c).features, wanted) for n, c in samples.items()}
    lines = [
        "| clips of | distance to the teacher | mean reward | lag error | at block ends |",
        "|---|---|---|---|---|",
        _row("the teacher", teacher, floor, last, ends),
    ]
    for name, title in STUDENTS.items():
        lines.append(_row(title, samples[name], distance[name], last, ends))
    rewards = {name: reward(clips) for name, clips in samples.items()}
    lags = {n: lag_error(c, lead=LEAD, frames=ends) for n, c in samples.items()}
    held_out = ", ".join(f"{name} {error.mean:.5f}" for name, error in errors.items())
    lines += ["", f"Held-out error of stage 1: {held_out} (`teacher` is where stage 1 starts).", ""]
    claims = [
        ("stage 1 lowers the held-out error", errors["ode"], errors["untrained"]),
        ("stage 2 comes closer to the teacher", distance["dmd"], distance["ode"]),
        ("the reward rises when asked for", rewards["dmd"], rewards["dmd-reward"]),
        ("look-ahead lowers the lag at block ends", lags["dmd-ahead"], lags["dmd"]),
    ]
    lines += ["| claim: left below right | left | right | shown |", "|---|---|---|---|"]
    lines += [
        f"| {claim} | {left} | {right} | {left.below(right)} |" for claim, left, right in claims
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, clips: Latents, distance: Estimate, last: int, ends: list[int]) -> str:
    lag = lag_error(clips, lead=LEAD, frames=range(last))
    at_ends = lag_error(clips, lead=LEAD, frames=ends)
    return f"| {name} | {distance} | {reward(clips)} | {lag} | {at_ends} |"


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
    return Distillation(recipe, processes, RightJudge())
