"""`train-teacher`: flow matching on clean clips, everybody sees everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from hallo_live_core.config import TransformerConfig
from hallo_live_core.types import TextContext

from ..data.embeddings import AUDIO_NEGATIVE, VIDEO_NEGATIVE, TextStore
from ..data.ode_pairs import open_clips
from ..data.shards import Samples
from ..draws import Draws, draw_scores
from ..losses.critic import critic_loss
from ..schedules import score_range
from ..trainer import MicroBatch
from .batches import clip_shape, draws_of, to_device
from .one_network import OneNetwork

DROP_RESOLUTION = 1_000_000
"""Whether a prompt is dropped is drawn as a whole number below this."""


class FlowMatching(OneNetwork):
    """See `trainer.Phase`. The loss is the critic's, on real clips instead of generated ones."""

    def open_samples(self, config: TransformerConfig) -> Samples:
        """Clean clips."""
        recipe = self.recipe
        return open_clips(Path(recipe.data.clips), recipe.clip, config, verify=recipe.data.verify)

    def backward(
        self,
        learner: str,  # noqa: ARG002 - there is one
        micro_batch: MicroBatch,
        scale: float,
        synchronise: Callable[[bool], None],
    ) -> dict[str, Tensor]:
        """See `Phase`."""
        recipe, drop = self.recipe, self.recipe.teacher_training.drop_text
        clips, prompts = self.batches.read(micro_batch)
        draws = draws_of(recipe, micro_batch)
        shape = clip_shape(recipe, self.network, len(prompts))
        loss = critic_loss(
            self.network,
            clips,
            to_device(drop_prompts(self.text, prompts, draws, drop), self.processes),
            draw_scores(draws, shape, score_range(recipe.scores, None)),
            schedule=self.schedule,
            times=recipe.scores,
            weights=recipe.weights,
        )
        synchronise(True)
        (loss.total * scale).backward()
        return loss.metrics


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
