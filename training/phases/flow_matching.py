"""`train-teacher`: flow matching on clean clips, everybody sees everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.types import TextContext

from ..data.embeddings import AUDIO_NEGATIVE, VIDEO_NEGATIVE, TextStore
from ..data.ode_pairs import open_clips
from ..draws import Draws, draw_scores
from ..losses.critic import critic_loss
from ..parallel import Processes
from ..recipe import Recipe
from ..schedules import score_range
from ..trainer import MicroBatch
from .batches import Batches, clip_shape, draws_of, open_text, prompts_of, to_device
from .networks import make_learner

DROP_RESOLUTION = 1_000_000
"""Whether a prompt is dropped is drawn as a whole number below this."""


class FlowMatching:
    """See `trainer.Phase`. The loss is the critic's, on real clips instead of generated ones."""

    def __init__(self, recipe: Recipe, processes: Processes) -> None:
        student = make_learner("student", recipe.model.student, recipe, recipe.optimizer, processes)
        self.recipe, self.processes = recipe, processes
        self.learners = {"student": student}
        self.schedule = NoiseSchedule(recipe.schedule)
        config = student.network.config
        clips = open_clips(Path(recipe.data.clips), recipe.clip, config, verify=recipe.data.verify)
        self.text = open_text(recipe, config.video.text_dim, prompts_of(clips))
        self.batches = Batches(clips, recipe, processes)

    def plan(self, step: int, *, has_ema: bool) -> tuple[str, ...]:
        """See `Phase`."""
        return plan_of_one(self.recipe, step, has_ema=has_ema)

    def backward(
        self,
        learner: str,  # noqa: ARG002 - there is one
        micro_batch: MicroBatch,
        scale: float,
        synchronise: Callable[[bool], None],
    ) -> dict[str, Tensor]:
        """See `Phase`."""
        recipe, network = self.recipe, self.learners["student"].network
        clips, prompts = self.batches.read(micro_batch)
        draws = draws_of(recipe, micro_batch)
        shape = clip_shape(recipe, network, len(prompts))
        loss = critic_loss(
            network,
            clips,
            to_device(drop_prompts(self.text, prompts, draws, self._drop), self.processes),
            draw_scores(draws, shape, score_range(recipe.scores, None)),
            schedule=self.schedule,
            times=recipe.scores,
            weights=recipe.weights,
        )
        synchronise(True)
        (loss.total * scale).backward()
        return loss.metrics

    @property
    def _drop(self) -> float:
        return self.recipe.teacher_training.drop_text

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Phase`."""


def drop_prompts(
    text: TextStore, prompts: Sequence[str], draws: Draws, share: float
) -> TextContext:
    """Embeddings in which a share of the samples sees the negative prompts, for guidance."""
    drawn = draws.integers("drop text", 0, DROP_RESOLUTION)
    dropped = (drawn < share * DROP_RESOLUTION).tolist()
    chosen = [
        [negative if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]
        for negative in (VIDEO_NEGATIVE, AUDIO_NEGATIVE)
    ]
    video, audio = (text.context(one).video for one in chosen)
    return TextContext(video=video, audio=audio)


def plan_of_one(recipe: Recipe, step: int, *, has_ema: bool) -> tuple[str, ...]:
    """Iterations of a phase with one network."""
    done = step + 1
    events = ["update_student", *(["update_ema"] if has_ema else []), "advance"]
    if done >= recipe.ema.start_step and not has_ema:
        events.append("create_ema")
    if done % recipe.run.save_every == 0:
        events.append("save")
    return tuple(events)
