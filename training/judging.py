"""The judges of the core, asked about rollouts: latents become clips, clips become scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hallo_live_core.engine import HalloLive
from hallo_live_core.judging.panel import load_judges
from hallo_live_core.rewards.base import Clip, Reward
from hallo_live_core.rewards.combine import as_scores

from .clips import decode, load_decoders
from .config_reader import RecipeError
from .parallel import Processes
from .recipe import Recipe
from .types import Latents

PANEL = {"videoalign": "video", "audiobox": "audio", "sync": "sync"}
"""What the core's panel calls the judges of the paper."""


class DecodingJudge:
    """Decodes clips and asks judges about picture and sound; see `phases.batches.LatentJudge`.

    decoders: an engine that needs no more than its decoders. judges: by the names of the recipe.
    """

    def __init__(self, decoders: HalloLive, judges: Mapping[str, Reward]) -> None:
        self._decoders, self._judges = decoders, dict(judges)

    def score(self, clips: Latents, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Values [b] by judge, NaN where it could not tell, no face for instance."""
        made = [self._clip(clips, i, prompt) for i, prompt in enumerate(prompts)]
        return {
            name: as_scores([judge.score(clip).value for clip in made])
            for name, judge in self._judges.items()
        }

    def _clip(self, clips: Latents, index: int, prompt: str) -> Clip:
        chunks = list(decode(self._decoders, Latents(*(x[index : index + 1] for x in clips))))
        return Clip(
            frames=torch.cat([chunk.frames for chunk in chunks]),
            fps=self._decoders.clock.fps,
            samples=torch.cat([chunk.samples for chunk in chunks]).unsqueeze(0),
            sample_rate=self._decoders.clock.sample_rate,
            prompt=prompt,
        )


def open_judges(recipe: Recipe, processes: Processes) -> DecodingJudge | None:
    """What the recipe's rewards need, or its trajectories; None where it asks for no judge.

    Raises:
        RecipeError: a judge that does not exist, or no folder with its files.
        CheckpointError: files are missing or damaged.
    """
    if recipe.phase == "make-ode-pairs":
        where, names = "pairs.judges", list(recipe.pairs.judges)
        if not names:
            return None
    else:
        if recipe.rewards is None:
            return None
        where, names = "rewards.judges", list(recipe.rewards.judges)
    unknown = [name for name in names if name not in PANEL]
    if unknown or not names:
        raise RecipeError(
            "There is no such judge" if unknown else "The recipe's rewards name no judge",
            found=", ".join(unknown) or None,
            fix=f"use some of {', '.join(PANEL)} in {where}",
        )
    if not recipe.model.decoders or not recipe.model.judges:
        raise RecipeError(
            "Rewards need decoders and judges",
            fix="name the folders with their files: model.decoders and model.judges",
        )
    device = processes.device
    folder = [Path(recipe.model.judges)]
    judges = {name: load_judges(folder, [PANEL[name]], device=device)[0] for name in names}
    return DecodingJudge(load_decoders(Path(recipe.model.decoders), device), judges)
