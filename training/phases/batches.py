"""What a micro-batch is made of: clips or trajectories, their prompts, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from hallo_live_core.functional.noise import ClipShape
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.types import TextContext

from ..data.embeddings import TextStore
from ..data.ode_pairs import AUDIO, VIDEO
from ..data.sampler import EndlessOrder
from ..data.shards import DataError, Sample, Samples
from ..draws import Draws
from ..parallel import Processes
from ..recipe import Recipe
from ..trainer import MicroBatch
from ..types import Latents


class LatentJudge(Protocol):
    """Scores clips from their latents."""

    def score(self, clips: Latents, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Values [b] by judge, higher is better, NaN where a judge could not tell."""
        ...


class Batches:
    """Reads samples in the run's order; the next micro-batch is read while this one is used."""

    def __init__(self, samples: Samples, recipe: Recipe, processes: Processes) -> None:
        self._samples, self._processes = samples, processes
        skip = read_skip_list(recipe.data.skip) | unliked(samples, recipe.data.least_scores)
        self.order = EndlessOrder(samples.keys, seed=recipe.run.seed, skip=skip)
        self._reader = ThreadPoolExecutor(1)
        self._step = recipe.run.micro_batch * processes.count
        self._ahead: tuple[list[str], Future[list[Sample]]] | None = None

    def read(self, micro_batch: MicroBatch) -> tuple[Latents, list[str]]:
        """Latents and prompts of the samples, on the device in the dtype of the computation."""
        keys = [self.order[position] for position in micro_batch.positions]
        if self._ahead is None or self._ahead[0] != keys:
            self._read_ahead(keys)
        assert self._ahead is not None
        samples = self._ahead[1].result()
        self._read_ahead([self.order[p + self._step] for p in micro_batch.positions])
        place = {"device": self._processes.device, "dtype": self._processes.dtype}
        video, audio = (
            torch.stack([sample.tensors[name] for sample in samples]).to(**place)
            for name in (VIDEO, AUDIO)
        )
        return Latents(video, audio), [str(sample.info["prompt"]) for sample in samples]

    def _read_ahead(self, keys: list[str]) -> None:
        future = self._reader.submit(lambda: [self._samples[key] for key in keys])
        self._ahead = (keys, future)


def read_skip_list(path: str) -> set[str]:
    """Keys, one a line; of an empty path none.

    Raises:
        DataError: the file cannot be read.
    """
    if not path:
        return set()
    try:
        return set(Path(path).read_text(encoding="utf-8").split())
    except OSError as error:
        raise DataError(f"There is no list of samples to skip at {path}", found=error) from error


def unliked(samples: Samples, least: Mapping[str, float]) -> set[str]:
    """Keys of samples that a judge has scored lower than it should, or not at all.

    Raises:
        DataError: no sample has been scored by one of the judges.
    """
    found: set[str] = set()
    for judge, value in least.items():
        scores = {key: samples.info(key).get("scores", {}).get(judge) for key in samples.keys}
        if all(score is None for score in scores.values()):
            raise DataError(
                f"No sample has a score of {judge!r}",
                fix="make the pairs with pairs.judges, or remove data.least_scores",
            )
        found |= {key for key, score in scores.items() if score is None or score < value}
    return found


def to_device(text: TextContext, processes: Processes) -> TextContext:
    """Embeddings on the device in the dtype of the computation."""
    place = {"device": processes.device, "dtype": processes.dtype}
    return TextContext(video=text.video.to(**place), audio=text.audio.to(**place))


def open_text(recipe: Recipe, text_dim: int, prompts: Sequence[str] | None = None) -> TextStore:
    """The recipe's embeddings, of which `prompts` must all be there.

    Raises:
        DataError: the folder is damaged, or a prompt has no embedding.
    """
    store = TextStore(Path(recipe.data.text), text_dim=text_dim)
    store.check(prompts or [])
    return store


def prompts_of(samples: Samples) -> list[str]:
    """Every prompt of a store; no tensor is read.

    Raises:
        DataError: a sample has none.
    """
    infos = {key: samples.info(key) for key in samples.keys}
    without = [key for key, info in infos.items() if "prompt" not in info]
    if without:
        raise DataError(
            f"{len(without)} samples have no prompt",
            found=without[0],
            fix='write them with {"prompt": ...} as their info',
        )
    return [str(info["prompt"]) for info in infos.values()]


def clip_shape(recipe: Recipe, network: DualStreamDiT, batch: int) -> ClipShape:
    """Sizes of a batch of the recipe's clips."""
    config, clip = network.config, recipe.clip
    return ClipShape(
        plan=recipe.plan,
        video=(config.video.in_channels, clip.height, clip.width),
        audio_channels=config.audio.in_channels,
        batch=batch,
    )


def draws_of(recipe: Recipe, micro_batch: MicroBatch) -> Draws:
    """The random numbers of a micro-batch."""
    return Draws(recipe.run.seed, micro_batch.batch, micro_batch.samples)
