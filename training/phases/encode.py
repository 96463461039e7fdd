"""`encode-prompts`: what the text encoder makes of the prompts, once and for all."""

from __future__ import annotations

from pathlib import Path

from hallo_live_core.checkpoints.load import load_text_encoder

from ..data.embeddings import encode_prompts
from ..data.prompts import read_prompts
from ..parallel import Processes
from ..recipe import Recipe


def encode(recipe: Recipe, processes: Processes) -> int:
    """Write embeddings that `data.text` does not have yet; returns how many.

    Raises:
        PromptError: the table of prompts cannot be used.
        CheckpointError: the encoder or its tokenizer cannot be used.
    """
    prompts = read_prompts(Path(recipe.data.prompts))
    encoder = load_text_encoder(
        Path(recipe.model.text_encoder),
        Path(recipe.model.tokenizer),
        dtype=processes.dtype,
        device=processes.device,
    )
    return encode_prompts(
        encoder,
        prompts,
        Path(recipe.data.text),
        worker=processes.rank,
        num_workers=processes.count,
        samples_per_shard=recipe.data.samples_per_shard,
        show=processes.is_main,
    )
