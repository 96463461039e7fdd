"""What a student makes of the same few prompts and noise as training goes on, to look at."""

from __future__ import annotations

from pathlib import Path

import torch

from hallo_live_core.engine import HalloLive
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.media.mp4 import Mp4Writer
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import TextContext

from .data.embeddings import TextStore
from .draws import DrawnNoise, Draws, RolloutDraw
from .judging import load_decoders, whole_clip
from .parallel import Processes
from .recipe import Recipe
from .rollout import RolloutShape, roll_out
from .schedules import exit_steps
from .types import Latents

FOLDER = "samples"
PURPOSE_BATCH = -1
"""Number of the batch that samples count as: no training batch has it."""


class Samples:
    """Writes one MP4 per prompt; every process takes part, the first one writes.

    Raises:
        CheckpointError: the decoders' files are missing or damaged.
        DataError: the embeddings are.
    """

    def __init__(self, recipe: Recipe, processes: Processes, student: DualStreamDiT) -> None:
        self.recipe, self.processes, self.student = recipe, processes, student
        text = TextStore(Path(recipe.data.text), text_dim=student.config.video.text_dim)
        self.prompts = text.prompts[: recipe.run.samples]
        self.text = text.context(self.prompts)
        self.decoders: HalloLive | None = None
        if processes.is_main:
            self.decoders = load_decoders(Path(recipe.model.decoders), processes.device)

    def write(self, step: int) -> list[Path]:
        """Make the clips with the student as it is; returns what this process wrote."""
        clips = self._make()
        if self.decoders is None:
            return []
        folder = Path(self.recipe.run.folder) / FOLDER / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        return [
            self._write(self.decoders, folder / f"{i:03d}.mp4", clips, i)
            for i in range(len(self.prompts))
        ]

    def _make(self) -> Latents:
        shape = self.recipe.clip_shape(self.student.config, len(self.prompts))
        place = {"device": self.processes.device, "dtype": self.processes.dtype}
        schedule = NoiseSchedule(self.recipe.schedule)
        draws = Draws(self.recipe.run.seed, PURPOSE_BATCH, tuple(range(len(self.prompts))))
        last = len(exit_steps(schedule)) - 1
        draw = RolloutDraw(DrawnNoise(shape, draws, **place), (last,) * shape.plan.num_blocks)
        text = TextContext(self.text.video.to(**place), self.text.audio.to(**place))
        return roll_out(self.student, text, RolloutShape(shape, schedule, place["dtype"]), draw)

    def _write(self, decoders: HalloLive, target: Path, clips: Latents, index: int) -> Path:
        metadata = {"title": self.prompts[index]}
        with torch.inference_mode(), Mp4Writer(target, metadata=metadata) as writer:
            for chunk in decoders.decode([whole_clip(clips, index)]):
                writer.write(chunk)
        return target
