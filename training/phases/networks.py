"""Networks of a run: read from files, made trainable, laid out over the processes."""

from __future__ import annotations

from pathlib import Path

import torch

from hallo_live_core.checkpoints.load import load_transformer
from hallo_live_core.config import TransformerConfig
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit import DualStreamDiT

from ..learner import Learner
from ..parallel import Processes
from ..recipe import Recipe
from ..trainable import AdamWSettings, build_optimizer, freeze, published_parameters


def make_learner(
    name: str,
    path: str,
    recipe: Recipe,
    optimizer: AdamWSettings,
    processes: Processes,
    *,
    like: TransformerConfig | None = None,
) -> Learner:
    """A network from a file that learns what the recipe trains.

    Raises:
        CheckpointError: the file cannot be used, or is of another size than `like`.
    """
    network = load_transformer(Path(path), dtype=torch.float32)
    _check_size(path, network.config, like)
    freeze(published_parameters(network), recipe.train)
    network = processes.place(network, learns=True)
    named = {
        published: parameter
        for published, parameter in published_parameters(network).items()
        if parameter.requires_grad
    }
    return Learner(name, network, named, build_optimizer(named, optimizer), recipe.max_grad_norm)


def load_frozen(
    path: str, processes: Processes, *, like: TransformerConfig | None = None
) -> DualStreamDiT:
    """A network that only answers.

    Raises:
        CheckpointError: the file cannot be used, or is of another size than `like`.
    """
    network = load_transformer(Path(path), dtype=processes.dtype)
    _check_size(path, network.config, like)
    return processes.place(network, learns=False)


def _check_size(path: str, found: TransformerConfig, wanted: TransformerConfig | None) -> None:
    if wanted is not None and found != wanted:
        raise CheckpointError(
            f"{path} is a transformer of another size than the student",
            found=f"{found.num_layers} layers of width {found.video.dim} and {found.audio.dim} "
            f"instead of {wanted.num_layers} of {wanted.video.dim} and {wanted.audio.dim}",
            fix="use student, teacher and critic of one size",
        )
