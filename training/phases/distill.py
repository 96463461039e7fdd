"""`train-hpdmd`: stage 2, student and critic against a frozen teacher (spec 06 §5-§10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.rewards.combine import LossScales, RunningStatistics

from ..config_reader import RecipeError
from ..data.prompts import prompt_key, read_prompts
from ..data.sampler import EndlessOrder
from ..distillation import (
    DistillationSettings,
    Networks,
    check_score_times,
    critic_backward,
    draw_step,
    generator_backward,
)
from ..losses.reward_weighting import weigh
from ..parallel import Processes
from ..recipe import Recipe
from ..rollout import RolloutShape
from ..steps import LoopSettings, plan_iteration
from ..trainer import MicroBatch
from ..types import Latents, Prompts
from .batches import LatentJudge, clip_shape, draws_of, open_text, read_skip_list, to_device
from .networks import CRITIC, STUDENT, FrozenNetworks, check_own_teacher, load_teacher, make_learner

EVENTS = {"update_generator": "update_student"}
"""What the order of the loop calls otherwise."""


class Distillation:
    """See `trainer.Phase`. judge: gives the scores that `recipe.rewards` names.

    Raises:
        RequestError: an exit step would leave no score time.
        RecipeError: the recipe wants rewards and there is no judge, or a teacher in 8 bits that is
            not a whole copy of its own, or exits per sample of a sharded network.
    """

    def __init__(
        self, recipe: Recipe, processes: Processes, judge: LatentJudge | None = None
    ) -> None:
        check_judge(recipe, judge)
        check_own_teacher(recipe, processes)
        check_exits(recipe, processes)
        self.recipe, self.processes, self.judge = recipe, processes, judge
        self.settings = DistillationSettings(
            recipe.rollout, recipe.dmd, recipe.scores, recipe.weights
        )
        schedule = NoiseSchedule(recipe.schedule)
        check_score_times(self.settings, schedule)
        frozen = FrozenNetworks(processes)
        student = make_learner(
            STUDENT, recipe.model.student, recipe, recipe.optimizer, processes, frozen=frozen
        )
        config = student.network.config
        critic = make_learner(
            CRITIC,
            recipe.model.critic or recipe.model.teacher,
            recipe,
            recipe.critic_optimizer,
            processes,
            like=config,
            frozen=frozen,
        )
        self.learners = {STUDENT: student, CRITIC: critic}
        teacher = load_teacher(recipe, processes, frozen, like=config)
        self.networks = Networks(student.network, critic.network, teacher)
        clip = clip_shape(recipe, student.network, recipe.run.micro_batch)
        self.shape = RolloutShape(clip, schedule, processes.dtype)
        self.loop = LoopSettings(
            generator_every=recipe.generator_every,
            ema_start_step=recipe.ema.start_step,
            save_every=recipe.run.save_every,
            max_steps=recipe.run.max_steps,
        )
        prompts = read_prompts(Path(recipe.data.prompts)) if recipe.data.prompts else None
        self.text = open_text(recipe, config.video.text_dim, prompts)
        skip = read_skip_list(recipe.data.skip)
        self.order = EndlessOrder(
            sorted(prompts or self.text.prompts),
            seed=recipe.run.seed,
            skip=[p for p in prompts or self.text.prompts if prompt_key(p) in skip],
        )
        self.histories: dict[str, RunningStatistics] = {}

    def plan(self, step: int, *, has_ema: bool) -> tuple[str, ...]:
        """See `Phase`."""
        events = plan_iteration(step, self.loop, has_ema=has_ema)
        return tuple(EVENTS.get(event, event) for event in events)

    def backward(
        self,
        learner: str,
        micro_batch: MicroBatch,
        scale: float,
        synchronise: Callable[[bool], None],
    ) -> dict[str, Tensor]:
        """See `Phase`."""
        names = [self.order[position] for position in micro_batch.positions]
        prompts = Prompts(
            to_device(self.text.context(names), self.processes),
            to_device(self.text.negative(len(names)), self.processes),
        )
        draw = draw_step(
            draws_of(self.recipe, micro_batch),
            self.shape,
            self.settings,
            device=self.processes.device,
            decoupled=learner == STUDENT and self.recipe.dmd.decoupled,
        )
        given = (self.networks, prompts, self.shape, draw, self.settings)
        rewards: dict[str, Tensor] = {}

        def by_rewards(clips: Latents) -> LossScales:
            return self._scales(clips, names, rewards, learner)

        weighed = self.recipe.rewards is not None and self.recipe.rewards.weigh == learner
        how = {"weigh": by_rewards if weighed else None, "scale": scale, "before": synchronise}
        if learner == CRITIC:
            return critic_backward(*given, **how) | rewards
        metrics = generator_backward(*given, **how)
        return metrics | rewards | {"exit": torch.tensor(draw.rollout.mean_exit)}

    def _scales(
        self, clips: Latents, names: Sequence[str], rewards: dict[str, Tensor], learner: str
    ) -> LossScales:
        """Factors of this process's clips, judged among those of all processes."""
        assert self.judge is not None
        assert self.recipe.rewards is not None
        own = self.judge.score(clips, names)
        scores = {name: self.processes.gather(values) for name, values in own.items()}
        scales, self.histories = weigh(scores, self.recipe.rewards, self.histories)
        if learner == CRITIC:
            scales = LossScales(1 / scales.video, 1 / scales.audio)
        count, first = len(names), self.processes.rank * len(names)
        mine = slice(first, first + count)
        rewards |= {f"reward/{name}": values.nanmean() for name, values in scores.items()}
        rewards |= {"scale/video": scales.video.mean(), "scale/audio": scales.audio.mean()}
        return LossScales(scales.video[mine], scales.audio[mine])

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        histories = {name: asdict(history) for name, history in self.histories.items()}
        return {"histories": histories, "data": self.order.fingerprint}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Phase`."""
        self.order.check(state.get("data"))
        stored = state["histories"].items()
        self.histories = {name: RunningStatistics(**values) for name, values in stored}


def check_judge(recipe: Recipe, judge: LatentJudge | None) -> None:
    """Refuse rewards that nobody gives.

    Raises:
        RecipeError: the recipe names judges and there is none.
    """
    if recipe.rewards is not None and judge is None:
        raise RecipeError(
            "The recipe weighs clips by rewards, but there is no judge",
            found=", ".join(recipe.rewards.judges),
            fix="bring a judge, or remove the group rewards",
        )


def check_exits(recipe: Recipe, processes: Processes) -> None:
    """Refuse exits per sample where processes must make the same number of passes.

    Raises:
        RecipeError: the network is cut into pieces, which processes gather together in every pass.
    """
    if recipe.rollout.exit_steps == "per_sample" and processes.sharded:
        raise RecipeError(
            "With exit steps per sample processes make different numbers of passes",
            found="sharding is on, where each pass waits for all",
            fix="set rollout.exit_steps=shared, or parallel.shard=no",
        )
