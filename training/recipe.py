"""A recipe: everything that fixes a run, in groups. `training/recipes/` holds ready ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from hallo_live_core.config import BlockSizes, ScheduleConfig
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.judging.panel import JUDGES
from hallo_live_core.sampling.teacher import TeacherSettings

from .adapters import AdapterSettings
from .config_reader import RecipeError, build, merge, parse_override, read_yaml
from .data.ode_pairs import ClipSize
from .logs import SINKS
from .losses.dmd import DMDSettings
from .losses.reward_weighting import RewardSettings
from .parallel import ParallelSettings
from .rollout import RolloutSettings
from .schedules import ScoreTimeSettings
from .trainable import AdamWSettings, TrainableSettings
from .types import StreamWeights

PhaseName = Literal[
    "encode-prompts", "make-ode-pairs", "train-teacher", "train-ode", "train-hpdmd", "evaluate"
]
PHASES: tuple[str, ...] = get_args(PhaseName)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Where a run lives and how long it goes.

    global_batch: samples of one update, over all processes. micro_batch: of one backward pass.
    keep: newest checkpoints that remain. milestone_every: steps between those that remain anyhow; 0
    for none. max_bad_updates: not finite, in a row, before the run stops.
    save_beside: checkpoints are written while the run goes on, from a copy in main memory.
    sample_every: steps between looks at what the network makes (`samples`); 0 for none.
    """

    folder: str
    seed: int = 103
    max_steps: int = 1000
    global_batch: int = 8
    micro_batch: int = 1
    save_every: int = 500
    keep: int = 3
    milestone_every: int = 0
    save_beside: bool = False
    log_every: int = 1
    log_to: tuple[str, ...] = ()
    sample_every: int = 0
    max_bad_updates: int = 10
    cpu: bool = False

    def __post_init__(self) -> None:
        least = min(self.max_steps, self.global_batch, self.micro_batch, self.save_every, self.keep)
        if least < 1 or self.log_every < 1:
            raise RecipeError("Steps, batches and checkpoints must be at least 1", found=least)
        every = min(self.sample_every, self.milestone_every)
        if every < 0:
            raise RecipeError(
                "run.sample_every and run.milestone_every must not be negative", found=every
            )
        unknown = [name for name in self.log_to if name not in SINKS]
        if unknown:
            raise RecipeError("Unknown log", found=unknown[0], fix=" or ".join(SINKS))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Weight files, any that the loaders know. critic: the teacher's if empty.

    student: what learns, in train-teacher too. decoders, judges: folders with their published
    files; decoders for rewards and samples, judges for rewards. teacher_weights: `fp8` keeps the
    matrices of stage 2's teacher in 8 bits, which changes its scores a little.
    """

    student: str = ""
    teacher: str = ""
    critic: str = ""
    text_encoder: str = ""
    tokenizer: str = ""
    decoders: str = ""
    judges: str = ""
    teacher_weights: Literal["full", "fp8"] = "full"


@dataclass(frozen=True, slots=True)
class DataSettings:
    """prompts: CSV. The rest are folders of shards; `pairs` may be the reference's LMDB.

    held_out: pairs that nothing learns from; stage 1 is measured by them with its samples.
    least_scores: by judge; trajectories that were scored lower, or not at all, are left out.
    verify: compare checksums before the run, which reads everything. skip: file of keys, one a
    line, that training leaves out; of prompts in stage 2. samples_per_shard: of what is written.
    """

    text: str
    prompts: str = ""
    pairs: str = ""
    clips: str = ""
    held_out: str = ""
    skip: str = ""
    verify: bool = False
    samples_per_shard: int = 64
    least_scores: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class EMASettings:
    """The student's moving average (spec 06 §11): made at the end of step `start_step`."""

    decay: float = 0.99
    start_step: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or self.start_step < 0:
            raise RecipeError(
                "An average decays by 0..1, 1 excluded, and starts at a step",
                found=f"decay {self.decay}, start_step {self.start_step}",
            )


@dataclass(frozen=True, slots=True)
class PairSettings:
    """Trajectories (spec 06 §3). repeats: per prompt, each from its own seed.

    one_seed: all prompts from the recipe's seed, as the reference does; else a seed per prompt.
    correlated_noise: sound starts from the picture's noise, as in the reference.
    judges: score the end of every trajectory, for `data.least_scores`.
    """

    repeats: int = 1
    one_seed: bool = False
    correlated_noise: bool = False
    judges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise RecipeError("Trajectories per prompt are counted from 1", found=self.repeats)


@dataclass(frozen=True, slots=True)
class ODESettings:
    """Stage 1 (spec 06 §4). zero_padding: show the reference's zero keys at the end of a clip."""

    zero_padding: bool = False


@dataclass(frozen=True, slots=True)
class TeacherTraining:
    """Flow matching of the teacher. drop_text: share of samples that see the negative prompt."""

    drop_text: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop_text <= 1:
            raise RecipeError("drop_text is a share, 0..1", found=self.drop_text)


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """What is looked at every `run.sample_every` steps.

    prompts: CSV; without it, those that have an embedding. count: how many of them become clips.
    seed: of their noise, always the same. held_out: how many pairs of `data.held_out` are used.
    """

    prompts: str = ""
    count: int = 4
    seed: int = 103
    held_out: int = 32

    def __post_init__(self) -> None:
        if min(self.count, self.held_out) < 1:
            raise RecipeError(
                "Numbers of samples must be at least 1", fix="run.sample_every=0 makes none"
            )


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """What `evaluate` compares on the prompts of `data.prompts`.

    students: files and folders of runs, unless the command line names some. weights: of a run,
    where it has them. seeds: every prompt is made from each. judges: of hallo-live score; without
    files in `model.judges` the report says so instead.
    """

    students: tuple[str, ...] = ()
    weights: tuple[Literal["ema", "raw"], ...] = ("ema", "raw")
    seeds: tuple[int, ...] = (103,)
    judges: tuple[str, ...] = JUDGES

    def __post_init__(self) -> None:
        if not self.weights or not self.seeds:
            raise RecipeError("evaluate needs a kind of weights and a seed")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run of one phase.

    generator_every: steps of stage 2 per update of the student; the critic learns in each.
    adapters, rewards: none unless given.
    """

    phase: PhaseName
    run: RunSettings
    data: DataSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    clip: ClipSize = field(default_factory=ClipSize)
    blocks: BlockSizes = field(default_factory=BlockSizes)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainableSettings = field(default_factory=TrainableSettings)
    adapters: AdapterSettings | None = None
    optimizer: AdamWSettings = field(default_factory=AdamWSettings)
    critic_optimizer: AdamWSettings = field(default_factory=lambda: AdamWSettings(lr=4e-7))
    max_grad_norm: float = 10.0
    ema: EMASettings = field(default_factory=EMASettings)
    sampling: TeacherSettings = field(default_factory=TeacherSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    teacher_training: TeacherTraining = field(default_factory=TeacherTraining)
    ode: ODESettings = field(default_factory=ODESettings)
    generator_every: int = 5
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    scores: ScoreTimeSettings = field(default_factory=ScoreTimeSettings)
    dmd: DMDSettings = field(default_factory=DMDSettings)
    weights: StreamWeights = field(default_factory=StreamWeights)
    rewards: RewardSettings | None = None
    samples: SampleSettings = field(default_factory=SampleSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)

    def __post_init__(self) -> None:
        _ = self.plan
        check_schedule(self.schedule)
        if self.max_grad_norm <= 0:
            raise RecipeError("max_grad_norm must be above 0", found=self.max_grad_norm)
        if min(self.generator_every, self.data.samples_per_shard) < 1:
            raise RecipeError("generator_every and data.samples_per_shard are counted from 1")
        if self.adapters is not None and replace(self.train, audio_only=False) != _PARTS:
            raise RecipeError(
                "With adapters nothing else learns", fix="choose layers by adapters.targets"
            )
        if self.data.least_scores and self.phase != "train-ode":
            raise RecipeError("data.least_scores chooses pairs for train-ode", found=self.phase)
        if self.data.held_out and self.phase != "train-ode":
            raise RecipeError("data.held_out measures train-ode only", found=self.phase)
        if self.model.teacher_weights == "fp8" and self.phase != "train-hpdmd":
            raise RecipeError("model.teacher_weights=fp8 is for train-hpdmd", found=self.phase)
        for group, name in _NEEDED[self.phase]:
            if not getattr(getattr(self, group), name):
                raise RecipeError(
                    f"The phase {self.phase} needs {group}.{name}", fix="set it in the recipe"
                )

    @property
    def plan(self) -> ClipPlan:
        """The training clip as blocks, and what the student remembers of them."""
        plan = ClipPlan.of(self.clip.video_latents, self.clip.audio_latents, self.blocks)
        return replace(plan, window=self.rollout.window)


def check_schedule(schedule: ScheduleConfig) -> None:
    """Refuse denoising steps that lead nowhere.

    Raises:
        RecipeError: none, not falling, or not steps of the table.
    """
    steps, count = schedule.steps, schedule.num_train_timesteps
    falling = all(a > b for a, b in pairwise((count + 1, *steps, -1)))
    if not steps or steps[0] == 0 or not falling:
        raise RecipeError(
            f"schedule.steps must fall within {count}..0",
            found=", ".join(map(str, steps)) or "no steps",
            fix="such as [1000, 750, 500, 250]",
        )
    if schedule.shift <= 0:
        raise RecipeError("schedule.shift must be above 0", found=schedule.shift)


REFERENCE_5B: dict[str, Any] = {
    "run": {"seed": 103},
    "pairs": {"one_seed": True, "correlated_noise": True},
    "ode": {"zero_padding": True},
    "rollout": {"history_gradient": "straight_through"},
}
"""What the reference does and the defaults here do not (spec 06 §16)."""

PRESETS: dict[str, dict[str, Any]] = {"reference-5b": REFERENCE_5B}

_PARTS = TrainableSettings()
_NEEDED: dict[str, tuple[tuple[str, str], ...]] = {
    "encode-prompts": (("data", "prompts"), ("model", "text_encoder"), ("model", "tokenizer")),
    "make-ode-pairs": (("data", "pairs"), ("model", "teacher")),
    "train-teacher": (("data", "clips"), ("model", "student")),
    "train-ode": (("data", "pairs"), ("model", "student")),
    "train-hpdmd": (("model", "student"), ("model", "teacher")),
    "evaluate": (("data", "prompts"), ("model", "decoders")),
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe; its `preset` lies below it, `key=value` overrides above.

    Raises:
        RecipeError: an unknown key or preset, a wrong value, or something is missing.
    """
    content = read_yaml(path)
    for override in overrides:
        content = merge(content, parse_override(override))
    preset = content.pop("preset", None)
    if preset is not None:
        if preset not in PRESETS:
            raise RecipeError("Unknown preset", found=preset, fix="use " + " or ".join(PRESETS))
        content = merge(PRESETS[preset], content)
    return build(Recipe, content)
