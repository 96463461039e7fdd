"""Prompts as the text encoder sees them, computed once: unpadded, bf16 (spec 06 §2, §16)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from hallo_live_core.models.text_encoder.umt5 import TextEncoder
from hallo_live_core.types import TextContext

from .prompts import prompt_key, unique
from .shards import DataError, ShardStore, ShardWriter, check_shapes, finished_keys

TEXT = "text"

VIDEO_NEGATIVE = "jitter, bad hands, blur, distortion"
AUDIO_NEGATIVE = "robotic, muffled, echo, distorted"
"""What guidance pushes away from, in picture and sound (spec 06 §2)."""


def encode_prompts(
    encoder: TextEncoder,
    prompts: Iterable[str],
    folder: Path,
    *,
    worker: int = 0,
    num_workers: int = 1,
    samples_per_shard: int = 1024,
    show: bool = False,
) -> int:
    """Write embeddings of the prompts and of both negative ones that `folder` does not have yet.

    Every `num_workers`-th prompt is this worker's. show: a progress bar. Returns how many were
    written.
    """
    wanted = unique([VIDEO_NEGATIVE, AUDIO_NEGATIVE, *prompts])[worker::num_workers]
    done = finished_keys(folder)
    missing = [prompt for prompt in wanted if prompt_key(prompt) not in done]
    with ShardWriter(folder, worker=worker, samples_per_shard=samples_per_shard) as writer:
        for prompt in tqdm(missing, desc="encode-prompts", disable=not show, leave=False):
            embedding = unpadded(encoder.encode(prompt)[0])
            writer.add(prompt_key(prompt), {TEXT: embedding.bfloat16()}, {"prompt": prompt})
    return len(missing)


def unpadded(embedding: Tensor) -> Tensor:
    """[l, dim] without the zero rows at its end."""
    rows = embedding.detach().cpu().abs().amax(dim=-1).nonzero()
    return embedding[: int(rows.max()) + 1 if len(rows) else 1].cpu()


class TextStore:
    """Looks embeddings up by prompt.

    Raises:
        DataError: the folder is damaged, or the width is not `text_dim`.
    """

    def __init__(self, folder: Path, *, text_dim: int) -> None:
        self.store = ShardStore(folder)
        check_shapes(self.store, {TEXT: (None, text_dim)})

    @property
    def prompts(self) -> list[str]:
        """All prompts but the negative ones, sorted by key."""
        prompts = (str(self.store.info(key)["prompt"]) for key in self.store.keys)
        return [prompt for prompt in prompts if prompt not in (VIDEO_NEGATIVE, AUDIO_NEGATIVE)]

    def check(self, prompts: Iterable[str]) -> None:
        """Refuse to go on when a prompt has no embedding.

        Raises:
            DataError: one has none.
        """
        missing = [prompt for prompt in prompts if prompt_key(prompt) not in self.store]
        if missing:
            raise DataError(
                f"{len(missing)} prompts have no embedding in {self.store.folder}",
                found=repr(missing[0][:80]),
                fix="run encode-prompts on the same prompts",
            )

    def context(self, prompts: Sequence[str]) -> TextContext:
        """Both streams' embeddings [b, l, dim], as long as the longest; zero rows behind each."""
        return TextContext.shared(self._stack(prompts))

    def negative(self, batch: int) -> TextContext:
        """What guidance pushes away from: each stream its own (spec 06 §7)."""
        video, audio = (self._stack([p]) for p in (VIDEO_NEGATIVE, AUDIO_NEGATIVE))
        return TextContext(video=video.expand(batch, -1, -1), audio=audio.expand(batch, -1, -1))

    def _stack(self, prompts: Sequence[str]) -> Tensor:
        rows = [self.store[prompt_key(prompt)].tensors[TEXT] for prompt in prompts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
