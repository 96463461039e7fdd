"""`python -m training PHASE --config RECIPE [key=value ...]`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hallo_live_core.errors import HalloLiveError

from .config_reader import RecipeError
from .parallel import PRECISIONS, Processes
from .recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

    from .trainer import Phase

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

Action = Callable[[Recipe, Processes], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors of ours are one line on stderr."""
    options = read_arguments(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return options.run(options)
    except HalloLiveError as error:
        if options.verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("stopped; start the same command again to go on\n")
        return EXIT_INTERRUPTED


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of a command line; settings and students may stand before and behind `--config`."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    several = getattr(options, "arguments", None)
    if rest and (several is None or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if several is not None:
        options.arguments = [*several, *rest]
    return options


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each stores the function to call as `run`."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a student.")
    parser.add_argument("--verbose", action="store_true", help="log details, show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in _ACTIONS:
        phase = commands.add_parser(name, help=_HELP[name])
        _add_recipe(phase)
        phase.add_argument("arguments", nargs="*", metavar="key=value")
        phase.set_defaults(run=run_phase, phase=name)
    _add_evaluate(commands)
    _add_export(commands)
    _add_train_tiny(commands)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would take")
    parser.add_argument("--world", type=int, default=8, help="processes of the dry run")


def _add_evaluate(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("evaluate", help="clips, scores and a page of several students")
    _add_recipe(parser)
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="STUDENT | key=value",
        help="files and folders of runs; settings of the recipe",
    )
    parser.set_defaults(run=run_evaluate, phase="evaluate")


def _add_export(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("export", help="a run's network as one safetensors file")
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--network", choices=("student", "critic"), default="student")
    parser.add_argument("--weights", choices=("ema", "raw"), help="default: ema if there is one")
    parser.add_argument("--dtype", choices=tuple(PRECISIONS), help="default: bf16; LoRA: float32")
    parser.add_argument("--adapters-only", action="store_true", help="a LoRA file of the adapters")
    parser.add_argument(
        "--base", type=Path, metavar="FILE", help="what adapters stand on, if moved"
    )
    parser.set_defaults(run=run_export)


def _add_train_tiny(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("train-tiny", help="all phases in a toy world, on a CPU")
    parser.add_argument("--folder", type=Path, default=Path("out/train-tiny"))
    parser.add_argument("--small", action="store_true", help="only show that it is connected")
    parser.add_argument("--seed", type=int, default=0, help="another run of chance (default 0)")
    parser.set_defaults(run=run_tiny)


def run_export(options: argparse.Namespace) -> int:
    """Write the file and say where it came from."""
    from .phases.export import export

    source = export(
        options.run_folder,
        options.output,
        network=options.network,
        weights=options.weights,
        dtype=PRECISIONS[options.dtype] if options.dtype else None,
        adapters_only=options.adapters_only,
        base=options.base,
    )
    sys.stdout.write(f"{options.output} from {source}\n")
    return 0


def run_tiny(options: argparse.Namespace) -> int:
    """Run the toy world and print its table."""
    from .toy.run import SMALL, Budget, Toy

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    budget = replace(SMALL if options.small else Budget(), seed=options.seed)
    table = Toy(options.folder, budget, say).run()
    (options.folder / "report.md").write_text(table, encoding="utf-8")
    sys.stdout.write(f"\n{table}")
    return 0


def run_phase(options: argparse.Namespace) -> int:
    """Read the recipe, find the processes, run the phase."""
    recipe = _read_recipe(options, options.arguments)
    if options.dry_run:
        return _say_dry_run(recipe, options.world)
    learns = recipe.phase.startswith("train-") and recipe.adapters is None
    processes = Processes(recipe.parallel, cpu=recipe.run.cpu, learns=learns)
    try:
        _ACTIONS[recipe.phase](recipe, processes)
    finally:
        processes.close()
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Compare students and say where the page is."""
    from .phases.evaluate import evaluate

    students = [a for a in options.arguments if "=" not in a or Path(a).exists()]
    recipe = _read_recipe(options, [a for a in options.arguments if a not in students])
    if options.dry_run:
        named = tuple(students) or recipe.evaluation.students
        chosen = replace(recipe.evaluation, students=named)
        return _say_dry_run(replace(recipe, evaluation=chosen), options.world)
    processes = Processes(recipe.parallel, cpu=recipe.run.cpu, learns=False)
    try:
        page = evaluate(recipe, processes, students)
    finally:
        processes.close()
    if processes.is_main:
        sys.stdout.write(f"{page}\n")
    return 0


def _say_dry_run(recipe: Recipe, world: int) -> int:
    from .phases.dry_run import dry_run

    if world < 1:
        raise RecipeError("Processes are counted from 1", found=f"--world {world}")
    sys.stdout.write(f"{dry_run(recipe, world)}\n")
    return 0


def _read_recipe(options: argparse.Namespace, overrides: Sequence[str]) -> Recipe:
    recipe = load_recipe(options.config, overrides)
    if recipe.phase != options.phase:
        raise RecipeError(
            f"{options.config} is a recipe of another phase",
            found=recipe.phase,
            fix=f"python -m training {recipe.phase} --config {options.config}",
        )
    return recipe


def _encode(recipe: Recipe, processes: Processes) -> None:
    from .phases.encode import encode

    _say_written(encode(recipe, processes), "embeddings", recipe.data.text, processes)


def _pairs(recipe: Recipe, processes: Processes) -> None:
    from .judging import open_judges
    from .phases.pairs import make_pairs

    count = make_pairs(recipe, processes, open_judges(recipe, processes))
    _say_written(count, "trajectories", recipe.data.pairs, processes)


def _say_written(count: int, what: str, folder: str, processes: Processes) -> None:
    """How many all processes have written; what was there already is not counted."""
    mean = processes.mean({"count": float(count)})["count"]
    if processes.is_main:
        sys.stdout.write(f"{round(mean * processes.count)} {what} written to {folder}\n")


def _teacher(recipe: Recipe, processes: Processes) -> None:
    from .phases.flow_matching import FlowMatching

    _train(recipe, processes, FlowMatching(recipe, processes))


def _ode(recipe: Recipe, processes: Processes) -> None:
    from .phases.ode_init import ODEInit

    _train(recipe, processes, ODEInit(recipe, processes))


def _distill(recipe: Recipe, processes: Processes) -> None:
    from .judging import open_judges
    from .phases.distill import Distillation

    judge = open_judges(recipe, processes)
    _train(recipe, processes, Distillation(recipe, processes, judge))


def _train(recipe: Recipe, processes: Processes, phase: Phase) -> None:
    from .samples import open_observer
    from .trainer import Trainer

    Trainer(recipe, processes, phase, open_observer(recipe, processes, phase)).run()


_ACTIONS: dict[str, Action] = {
    "encode-prompts": _encode,
    "make-ode-pairs": _pairs,
    "train-teacher": _teacher,
    "train-ode": _ode,
    "train-hpdmd": _distill,
}
_HELP = {
    "encode-prompts": "prompts -> text embeddings",
    "make-ode-pairs": "the teacher's trajectories",
    "train-teacher": "flow matching on clean clips",
    "train-ode": "stage 1: a student from trajectories",
    "train-hpdmd": "stage 2: distribution matching, joint or sound only",
}
