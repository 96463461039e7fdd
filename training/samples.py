"""What a run shows of itself while it trains: clips of fixed noise, errors on held-out pairs.

Nothing of it changes the run: all noise is keyed by seed and prompt, torch's generators are put
back, and the average takes the weights' place only for as long as it is looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.config import TransformerConfig
from hallo_live_core.errors import HalloLiveError
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT

from .clips import decoder_files, load_decoders, student_clip, write_clip
from .data.ode_pairs import AUDIO, VIDEO, open_pairs
from .data.prompts import read_prompts
from .data.shards import Samples
from .learner import Learner
from .losses.ode import ode_loss
from .parallel import Processes, local
from .phases.batches import clip_shape, open_text, prompts_of, to_device
from .phases.pairs import trajectories
from .recipe import Recipe
from .rollout import RolloutShape
from .trainer import Phase
from .types import Latents

LOGGER = logging.getLogger(__name__)
FOLDER = "samples"
STREAMS = ("video", "audio")


class Observer:
    """Looks at the network that learns, every `run.sample_every` steps. All processes must call it.

    Raises:
        RecipeError, PromptError, DataError: prompts, held-out pairs or their text are missing.
        CheckpointError: decoders are named and not all there.
    """

    def __init__(self, recipe: Recipe, processes: Processes, config: TransformerConfig) -> None:
        self.recipe, self.processes = recipe, processes
        settings = recipe.samples
        prompts = read_prompts(Path(settings.prompts)) if settings.prompts else None
        self.text = open_text(recipe, config.video.text_dim, prompts)
        self.prompts = (prompts or self.text.prompts)[: settings.count]
        if recipe.model.decoders:
            decoder_files(Path(recipe.model.decoders))
        self.held_out: Samples | None = None
        if recipe.data.held_out:
            steps = len(recipe.schedule.steps)
            folder = Path(recipe.data.held_out)
            self.held_out = open_pairs(folder, recipe.clip, config, steps=steps)
            self.text.check(prompts_of(self.held_out))

    def __call__(self, learner: Learner, step: int) -> dict[str, float]:
        """Numbers for the log; clips are written below the run's folder."""
        started, device = time.perf_counter(), self.processes.device
        cards = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cards), torch.no_grad(), averaged(learner) as is_average:
            values = self._held_out_errors(learner.network) | self._clips(learner.network, step)
        seconds = time.perf_counter() - started
        return values | {"samples/average": float(is_average), "samples/seconds": seconds}

    # -- clips ----------------------------------------------------------------------------------

    def _clips(self, network: DualStreamDiT, step: int) -> dict[str, float]:
        share = self._share(len(self.prompts))
        made = [(i, self._clip(network, i)) for i in share]
        spreads = [torch.stack([x.float().std() for x in clip]) for _, clip in made]
        spread = self._mean(spreads, share, len(self.prompts))
        folder = Path(self.recipe.run.folder) / FOLDER / f"step_{step:08d}"
        try:
            self._write(folder, made)
        except (HalloLiveError, OSError) as error:
            LOGGER.warning("no samples of step %d: %s", step, error)
        return {
            f"samples/{name}_spread": value for name, value in zip(STREAMS, spread, strict=True)
        }

    def _clip(self, network: DualStreamDiT, index: int) -> Latents:
        recipe, processes = self.recipe, self.processes
        prompt, seed = self.prompts[index % len(self.prompts)], recipe.samples.seed
        if recipe.phase == "train-teacher":
            states = trajectories(network, self.text, [(prompt, seed)], recipe, processes)
            return Latents(*(x[:, -1].float() for x in states))
        shape = RolloutShape(
            clip_shape(recipe, network, 1), NoiseSchedule(recipe.schedule), processes.dtype
        )
        text = to_device(self.text.context([prompt]), processes)
        return student_clip(network, text, shape, seed, processes.device)

    def _write(self, folder: Path, made: Sequence[tuple[int, Latents]]) -> None:
        """MP4s where there are decoders, which stay only for as long; else latents."""
        models, seed = self.recipe.model.decoders, self.recipe.samples.seed
        wanted = [(i, clip) for i, clip in made if i < len(self.prompts)]
        folder.mkdir(parents=True, exist_ok=True)
        if not models:
            for i, clip in wanted:
                tensors = {name: x.cpu() for name, x in zip(STREAMS, clip, strict=True)}
                metadata = {"prompt": self.prompts[i], "seed": str(seed)}
                write_safetensors(folder / f"{i:02d}.safetensors", tensors, metadata=metadata)
            return
        decoders = load_decoders(Path(models), self.processes.device)
        for i, clip in wanted:
            target = folder / f"{i:02d}.mp4"
            write_clip(target, decoders, clip, prompt=self.prompts[i], seed=seed)

    # -- held-out pairs -------------------------------------------------------------------------

    def _held_out_errors(self, network: DualStreamDiT) -> dict[str, float]:
        """Mean errors of stage 1 by step index, all blocks of a clip being at this step."""
        if self.held_out is None:
            return {}
        keys = sorted(self.held_out.keys)[: self.recipe.samples.held_out]
        schedule = NoiseSchedule(self.recipe.schedule)
        share = self._share(len(keys))
        errors = [self._errors(network, keys[i % len(keys)], schedule) for i in share]
        means = self._mean(errors, share, len(keys))
        names = [
            f"held_out/{name}_loss/{k}" for k in range(len(schedule.steps)) for name in STREAMS
        ]
        return dict(zip(names, means, strict=True))

    def _errors(self, network: DualStreamDiT, key: str, schedule: NoiseSchedule) -> Tensor:
        """[steps * streams], picture and sound of the first step first."""
        assert self.held_out is not None
        recipe, processes = self.recipe, self.processes
        sample = self.held_out[key]
        place = {"device": processes.device, "dtype": processes.dtype}
        pair = Latents(*(sample.tensors[name][None].to(**place) for name in (VIDEO, AUDIO)))
        text = to_device(self.text.context([str(sample.info["prompt"])]), processes)
        losses = [
            ode_loss(
                network,
                pair,
                torch.full((1, recipe.plan.num_blocks), k, device=processes.device),
                text,
                blocks=recipe.blocks,
                schedule=schedule,
                weights=recipe.weights,
                zero_padding=recipe.ode.zero_padding,
            ).metrics
            for k in range(len(schedule.steps))
        ]
        return torch.stack([loss[f"{name}_loss"].float() for loss in losses for name in STREAMS])

    # -- several processes ----------------------------------------------------------------------

    def _share(self, count: int) -> list[int]:
        """This process's numbers of `count` pieces of work.

        All have equally many, as sharded weights demand; numbers from `count` on are repeats.
        """
        each = -(-count // self.processes.count)
        return [i * self.processes.count + self.processes.rank for i in range(each)]

    def _mean(self, rows: Sequence[Tensor], numbers: Sequence[int], count: int) -> list[float]:
        """The mean over the rows of all processes, without repeats."""
        blank = [
            row if i < count else row * torch.nan for row, i in zip(rows, numbers, strict=True)
        ]
        return self.processes.gather(torch.stack(blank)).nanmean(dim=0).tolist()


@contextmanager
def averaged(learner: Learner) -> Iterator[bool]:
    """The average in place of the weights, where there is one; says whether. Undone bit by bit."""
    _release(learner.network)
    if learner.ema is None:
        yield False
        _release(learner.network)
        return
    _swap(learner.weights, learner.ema)
    try:
        yield True
    finally:
        _release(learner.network)
        _swap(learner.weights, learner.ema)


def _swap(weights: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, other in average.items():
            here, there = local(weights[name].detach()), local(other)
            kept = here.clone()
            here.copy_(there)
            there.copy_(kept)


def _release(network: nn.Module) -> None:
    """Let go of gathered weights, which would outlive a change of the pieces."""
    for module in network.modules():
        if isinstance(reshard := getattr(module, "reshard", None), Callable):
            reshard()


def open_observer(recipe: Recipe, processes: Processes, phase: Phase) -> Observer | None:
    """An observer if the recipe wants one; see `Observer` for errors."""
    if not recipe.run.sample_every:
        return None
    return Observer(recipe, processes, phase.learners["student"].network.config)
