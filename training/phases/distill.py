"""`train-hpdmd`: stage 2, student and critic against a frozen teacher (spec 06 §5-§10)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.rewards.combine import LossScales

from ..config_reader import RecipeError
from ..data.prompts import prompt_key, read_prompts
from ..data.sampler import EndlessOrder
from ..distillation import (
    DistillationSettings,
    Networks,
    StepDraw,
    check_score_times,
    critic_backward,
    draw_step,
    generator_backward,
)
from ..grouped_rollout import roll_out_groups
from ..parallel import Processes
from ..recipe import Recipe
from ..rollout import RolloutShape
from ..steps import LoopSettings, plan_iteration
from ..trainer import MicroBatch
from ..types import Latents, Prompts
from .batches import LatentJudge, clip_shape, draws_of, open_text, read_skip_list, to_device
from .networks import CRITIC, STUDENT, FrozenNetworks, check_own_teacher, load_teacher, make_learner
from .reward_factors import Judged, RewardFactors

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
        self.factors = reward_factors(recipe, processes, judge)
        check_own_teacher(recipe, processes)
        check_exits(recipe, processes)
        self.recipe, self.processes = recipe, processes
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
        self._judged: dict[tuple[int, ...], Judged] = {}

    def plan(self, step: int, *, has_ema: bool) -> tuple[str, ...]:
        """See `Phase`."""
        events = plan_iteration(step, self.loop, has_ema=has_ema)
        return tuple(EVENTS.get(event, event) for event in events)

    def prepare(self, learner: str, micro_batches: Sequence[MicroBatch]) -> None:
        """See `Phase`. Clips of several micro-batches are judged together, before the first.

        So factors do not depend on how the global batch is cut; it costs another rollout of each.
        """
        self._judged = {}
        factors = self._factors_of(learner)
        if factors is None or len(micro_batches) == 1:
            return
        scores: list[dict[str, Tensor]] = []
        for micro_batch in micro_batches:
            names = self._names(micro_batch)
            draw = self._draw(learner, micro_batch).rollout
            text = self._prompts(names).positive
            clips = roll_out_groups(self.networks.student, text, self.shape, draw)
            scores.append(factors.scores(clips, names))
        judged = zip(micro_batches, factors.weigh(scores), strict=True)
        self._judged = {micro_batch.samples: own for micro_batch, own in judged}

    def backward(
        self,
        learner: str,
        micro_batch: MicroBatch,
        scale: float,
        synchronise: Callable[[bool], None],
    ) -> dict[str, Tensor]:
        """See `Phase`."""
        names, factors = self._names(micro_batch), self._factors_of(learner)
        draw = self._draw(learner, micro_batch)
        given = (self.networks, self._prompts(names), self.shape, draw, self.settings)
        rewards: dict[str, Tensor] = {}

        def by_rewards(clips: Latents) -> LossScales:
            assert factors is not None
            judged = self._judged.get(micro_batch.samples)
            if judged is None:
                judged = factors.weigh([factors.scores(clips, names)])[0]
            rewards.update(judged.metrics)
            return judged.scales

        how = {"weigh": by_rewards if factors else None, "scale": scale, "before": synchronise}
        if learner == CRITIC:
            return critic_backward(*given, **how) | rewards
        metrics = generator_backward(*given, **how)
        return metrics | rewards | {"exit": torch.tensor(draw.rollout.mean_exit)}

    def _factors_of(self, learner: str) -> RewardFactors | None:
        """What weighs the losses of a network, if rewards do."""
        factors = self.factors
        return factors if factors is not None and factors.settings.weigh == learner else None

    def _names(self, micro_batch: MicroBatch) -> list[str]:
        return [self.order[position] for position in micro_batch.positions]

    def _prompts(self, names: Sequence[str]) -> Prompts:
        return Prompts(
            to_device(self.text.context(names), self.processes),
            to_device(self.text.negative(len(names)), self.processes),
        )

    def _draw(self, learner: str, micro_batch: MicroBatch) -> StepDraw:
        return draw_step(
            draws_of(self.recipe, micro_batch),
            self.shape,
            self.settings,
            device=self.processes.device,
            decoupled=learner == STUDENT and self.recipe.dmd.decoupled,
        )

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        histories = {} if self.factors is None else self.factors.state()
        return {"histories": histories, "data": self.order.fingerprint}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Phase`."""
        self.order.check(state.get("data"))
        if self.factors is not None:
            self.factors.restore(state["histories"])


def reward_factors(
    recipe: Recipe, processes: Processes, judge: LatentJudge | None
) -> RewardFactors | None:
    """What weighs clips, if the recipe wants that.

    Raises:
        RecipeError: the recipe names judges and there is none.
    """
    if recipe.rewards is None:
        return None
    if judge is None:
        raise RecipeError(
            "The recipe weighs clips by rewards, but there is no judge",
            found=", ".join(recipe.rewards.judges),
            fix="bring a judge, or remove the group rewards",
        )
    return RewardFactors(recipe.rewards, judge, processes)


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
