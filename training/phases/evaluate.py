"""`evaluate`: the same prompts and seeds by several students -> clips, scores, one page."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hallo_live_core.engine import HalloLive
from hallo_live_core.errors import CheckpointError, HalloLiveError
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.judging.panel import load_judges
from hallo_live_core.judging.report import Judged, judged
from hallo_live_core.media.clip_reader import read_clip
from hallo_live_core.media.encoders import jpeg
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.rewards.base import Clip, Reward, Score

from ..checkpointing import STATE_FILE as CHECKPOINT_STATE
from ..checkpointing import tensor_names
from ..clips import decoder_files, load_decoders, student_clip, write_clip
from ..comparison import PAGE_NAME, Job, write_comparison
from ..config_reader import RecipeError, as_mapping
from ..data.ode_pairs import pair_key
from ..data.prompts import read_prompts
from ..parallel import Processes
from ..recipe import Recipe
from ..rollout import RolloutShape
from .batches import clip_shape, open_text, to_device
from .export import Weights, export, newest
from .networks import load_frozen

LOGGER = logging.getLogger(__name__)
CLIPS, STUDENTS, STATE_FILE = "clips", "students", "evaluation.json"
FAILED = ".error.txt"
"""Behind the name of a clip that could not be made: why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A student. source: its file, or a checkpoint of a run, of which `weights` are taken."""

    name: str
    source: Path
    weights: Weights | None = None

    @property
    def identity(self) -> list[Any]:
        """Changes when the student does."""
        file = self.source / CHECKPOINT_STATE if self.source.is_dir() else self.source
        stat = file.stat()
        return [str(self.source.resolve()), stat.st_size, stat.st_mtime_ns]


def evaluate(recipe: Recipe, processes: Processes, students: Sequence[str] = ()) -> Path:
    """Make, judge and compare clips in `run.folder`; returns the page. Finished clips are kept.

    students: files and folders of runs, instead of the recipe's. A clip or a student that fails
    does not stop the others; the page says why. The same call goes on where one was cut.

    Raises:
        RecipeError: no students, sharded weights, or the folder holds clips of other settings.
        CheckpointError: a student or the decoders do not exist.
        PromptError, DataError: no prompts, or prompts without embeddings.
    """
    if processes.sharded:
        raise RecipeError("evaluate cannot use sharded networks", fix="set parallel.shard=no")
    folder = Path(recipe.run.folder)
    prompts = read_prompts(Path(recipe.data.prompts))
    decoder_files(Path(recipe.model.decoders))
    candidates = find_candidates(students or recipe.evaluation.students, recipe.evaluation.weights)
    jobs = [Job(prompt, seed) for prompt in prompts for seed in recipe.evaluation.seeds]
    check_folder(folder, recipe, candidates)
    processes.wait()
    if processes.is_main:
        _write_state(folder, recipe, candidates)
    decoders = load_decoders(Path(recipe.model.decoders), processes.device)
    for candidate in candidates:
        _make_clips(candidate, jobs, recipe, processes, decoders)
    processes.wait()
    if processes.is_main:
        del decoders
        _judge_and_write(folder, candidates, jobs, recipe, processes)
    return folder / PAGE_NAME


# -- who takes part -------------------------------------------------------------------------------


def find_candidates(paths: Sequence[str], kinds: Sequence[Weights]) -> list[Candidate]:
    """Students by file or by run; of a run, the kinds of weights that its newest checkpoint has.

    Raises:
        RecipeError: none are named.
        CheckpointError: a path does not exist, or holds no checkpoint.
    """
    if not paths:
        raise RecipeError(
            "evaluate needs students", fix="name files or folders of runs, or evaluation.students"
        )
    found: list[Candidate] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(Candidate(path.stem, path))
            continue
        if not path.exists():
            raise CheckpointError(f"There is no student {path}", fix="name a file or a run")
        source = newest(path)
        run = path if source != path else path.parent.parent
        names = tensor_names(source)
        has: dict[Weights, bool] = {
            "ema": any(n.startswith("student.ema.") for n in names),
            "raw": True,
        }
        present: list[Weights] = [kind for kind in kinds if has[kind]]
        if not present:
            raise CheckpointError(
                f"{source} has no average yet", fix="set evaluation.weights=[raw]"
            )
        label = f"{run.resolve().name}-{source.name}"
        found += [Candidate(f"{label}-{kind}", source, kind) for kind in present]
    return _told_apart(found)


def _told_apart(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Names that occur again get the number of their place."""
    names = [candidate.name for candidate in candidates]
    return [
        replace(candidate, name=f"{candidate.name}-{i}")
        if candidate.name in names[: i - 1]
        else candidate
        for i, candidate in enumerate(candidates, 1)
    ]


def check_folder(folder: Path, recipe: Recipe, candidates: Sequence[Candidate]) -> None:
    """Refuse to mix clips of other sizes or other students with those of this recipe.

    Raises:
        RecipeError: they differ, or the file that tells is damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read", found=error, fix="delete the folder") from error
    now = _state(recipe, candidates)
    differing = [key for key in now["settings"] if now["settings"][key] != stored["settings"][key]]
    differing += [
        name
        for name, identity in now["students"].items()
        if stored["students"].get(name, identity) != identity
    ]
    if differing:
        raise RecipeError(
            f"{folder} holds clips of other settings or students",
            found=f"different: {', '.join(differing)}",
            fix="name another run.folder",
        )


def _state(recipe: Recipe, candidates: Sequence[Candidate]) -> dict[str, Any]:
    values = as_mapping(recipe)
    return {
        "settings": {key: values[key] for key in ("clip", "blocks", "schedule")},
        "students": {candidate.name: candidate.identity for candidate in candidates},
    }


def _write_state(folder: Path, recipe: Recipe, candidates: Sequence[Candidate]) -> None:
    path, state = folder / STATE_FILE, _state(recipe, candidates)
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["students"]
        state["students"] = before | state["students"]
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(state, indent=1), encoding="utf-8")
    aside.replace(path)


# -- clips ----------------------------------------------------------------------------------------


def clip_path(folder: Path, candidate: Candidate, job: Job) -> Path:
    """Where a clip is."""
    return folder / CLIPS / candidate.name / f"{pair_key(job.prompt, job.seed)}.mp4"


def _make_clips(
    candidate: Candidate,
    jobs: Sequence[Job],
    recipe: Recipe,
    processes: Processes,
    decoders: HalloLive,
) -> None:
    """This process's share of a student's missing clips."""
    folder = Path(recipe.run.folder)
    missing = [job for job in jobs if not clip_path(folder, candidate, job).exists()]
    processes.wait()
    if not missing:
        return
    mine = missing[processes.rank :: processes.count]
    try:
        with student_file(candidate, folder, processes) as file:
            network = load_frozen(str(file), processes)
    except HalloLiveError as error:
        for job in mine:
            _note_failure(clip_path(folder, candidate, job), error)
        return
    maker = ClipMaker(network, decoders, recipe, processes, [job.prompt for job in jobs])
    for number, job in enumerate(mine, 1):
        target = clip_path(folder, candidate, job)
        LOGGER.info("%s: clip %d of %d", candidate.name, number, len(mine))
        try:
            maker.make(job, target)
        except (HalloLiveError, RuntimeError, OSError) as error:
            _note_failure(target, error)
        else:
            _failure_of(target).unlink(missing_ok=True)


@contextlib.contextmanager
def student_file(candidate: Candidate, folder: Path, processes: Processes) -> Iterator[Path]:
    """A student as a file; that of a run is exported, as `export` does, for as long as needed.

    Raises:
        CheckpointError: it cannot be exported.
    """
    if candidate.weights is None:
        yield candidate.source
        return
    target = folder / STUDENTS / f"{candidate.name}.safetensors"
    failure: HalloLiveError | None = None
    if processes.is_main:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            export(candidate.source, target, weights=candidate.weights)
        except HalloLiveError as error:
            failure = error
    processes.wait()
    if not target.exists():
        raise failure or CheckpointError(f"{candidate.source} could not be exported")
    try:
        yield target
    finally:
        processes.wait()
        if processes.is_main:
            with contextlib.suppress(OSError):  # some systems keep files that are in use
                target.unlink()


class ClipMaker:
    """Makes clips of one student.

    Raises:
        DataError: a prompt has no embedding.
    """

    def __init__(
        self,
        network: DualStreamDiT,
        decoders: HalloLive,
        recipe: Recipe,
        processes: Processes,
        prompts: Sequence[str],
    ) -> None:
        self._network, self._decoders, self._processes = network, decoders, processes
        self._text = open_text(recipe, network.config.video.text_dim, prompts)
        self._shape = RolloutShape(
            clip_shape(recipe, network, 1), NoiseSchedule(recipe.schedule), processes.dtype
        )

    def make(self, job: Job, target: Path) -> None:
        """Write one clip."""
        text = to_device(self._text.context([job.prompt]), self._processes)
        clip = student_clip(self._network, text, self._shape, job.seed, self._processes.device)
        write_clip(target, self._decoders, clip, prompt=job.prompt, seed=job.seed)


def _failure_of(target: Path) -> Path:
    return target.with_suffix(FAILED)


def _note_failure(target: Path, error: Exception) -> None:
    LOGGER.warning("%s was not made: %s", target, error)
    target.parent.mkdir(parents=True, exist_ok=True)
    _failure_of(target).write_text(str(error) or type(error).__name__, encoding="utf-8")


# -- scores ---------------------------------------------------------------------------------------


def _judge_and_write(
    folder: Path,
    candidates: Sequence[Candidate],
    jobs: Sequence[Job],
    recipe: Recipe,
    processes: Processes,
) -> None:
    judges, absent = open_panel(recipe, processes)
    found = {
        candidate.name: [judge_clip(clip_path(folder, candidate, job), job, judges) for job in jobs]
        for candidate in candidates
    }
    write_comparison(folder, found, jobs, absent)


def open_panel(recipe: Recipe, processes: Processes) -> tuple[list[Reward], dict[str, str]]:
    """The judges that are there, and by name why the others are not."""
    judges: list[Reward] = []
    absent: dict[str, str] = {}
    for name in recipe.evaluation.judges:
        if not recipe.model.judges:
            absent[name] = "model.judges names no folder with its files"
            continue
        try:
            folders = [Path(recipe.model.judges)]
            judges += load_judges(folders, [name], device=processes.device)
        except HalloLiveError as error:
            absent[name] = str(error)
    return judges, absent


def judge_clip(path: Path, job: Job, judges: Sequence[Reward]) -> Judged:
    """A clip with its pictures and what every judge says, or why there is none."""
    if not path.exists():
        failure = _failure_of(path)
        reason = failure.read_text(encoding="utf-8") if failure.exists() else "it was not made"
        return Judged(path, job.prompt, error=reason)
    try:
        clip = read_clip(path, prompt=job.prompt)
    except HalloLiveError as error:
        return Judged(path, job.prompt, error=str(error))
    scores = tuple(_score(judge, clip) for judge in judges)
    return judged(path, clip, scores, jpeg)


def _score(judge: Reward, clip: Clip) -> Score:
    try:
        return judge.score(clip)
    except (HalloLiveError, RuntimeError) as error:
        return Score(judge.name, None, reasons=(str(error),))
