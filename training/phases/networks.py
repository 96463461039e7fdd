"""Networks of a run: read from files, made trainable, laid out over the processes."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from hallo_live_core.checkpoints.eight_bit import load_transformer_in_8_bits
from hallo_live_core.checkpoints.load import load_transformer
from hallo_live_core.config import TransformerConfig
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.dit.scaled_linear import ScaledLinear

from ..adapters import AdapterSettings, add_adapters, begin_with, share
from ..config_reader import RecipeError
from ..data.shards import sha256
from ..learner import BaseFile, Learner
from ..optimizers import build_optimizer
from ..parallel import Processes
from ..recipe import ModelSettings, Recipe
from ..trainable import VIDEO, AdamWSettings, freeze, published_parameters

LOGGER = logging.getLogger(__name__)
STUDENT, CRITIC = "student", "critic"


class FrozenNetworks:
    """Networks that only answer, by file: who asks for the same file gets the same network."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._loaded: dict[Path, DualStreamDiT] = {}
        self._sums: dict[Path, str] = {}

    def get(self, path: str, *, like: TransformerConfig | None = None) -> DualStreamDiT:
        """The network of a file.

        Raises:
            CheckpointError: the file cannot be used, or is of another size than `like`.
        """
        file = Path(path).resolve()
        if file not in self._loaded:
            self._loaded[file] = load_frozen(path, self._processes, like=like)
        _check_size(path, self._loaded[file].config, like)
        return self._loaded[file]

    def fingerprint(self, path: str) -> str:
        """The SHA-256 of a file's content."""
        file = Path(path).resolve()
        if file not in self._sums:
            self._sums[file] = sha256(file)
        return self._sums[file]


def make_learner(
    name: str,
    path: str,
    recipe: Recipe,
    settings: AdamWSettings,
    processes: Processes,
    *,
    like: TransformerConfig | None = None,
    frozen: FrozenNetworks | None = None,
) -> Learner:
    """A network from a file that learns what the recipe trains.

    frozen: where adapters find their base, so that networks of one file are in memory once.

    Raises:
        CheckpointError: the file cannot be used, or is of another size than `like`.
        RecipeError: the recipe's adapters cannot be had.
    """
    base = None
    if recipe.adapters is None:
        network = _whole_network(name, path, recipe, processes, like)
    else:
        check_adapters(processes)
        frozen = frozen or FrozenNetworks(processes)
        shared = frozen.get(path, like=like)
        network = _adapted_network(name, recipe, recipe.adapters, processes, shared)
        base = BaseFile(path, frozen.fingerprint(path), recipe.adapters.alpha)
    named = {
        published: parameter
        for published, parameter in published_parameters(network).items()
        if parameter.requires_grad
    }
    optimizer = build_optimizer(named, settings)
    return Learner(name, network, named, optimizer, recipe.max_grad_norm, base=base)


def _whole_network(
    name: str, path: str, recipe: Recipe, processes: Processes, like: TransformerConfig | None
) -> DualStreamDiT:
    """Of the reference's checkpoints a student goes on from the raw weights (spec 06 §11)."""
    network = load_transformer(
        Path(path),
        dtype=torch.float32,
        ema=False,
        critic=name == CRITIC and bool(recipe.model.critic),
    )
    _check_size(path, network.config, like)
    freeze(published_parameters(network), recipe.train)
    return processes.place(network, learns=True)


def _adapted_network(
    name: str, recipe: Recipe, settings: AdapterSettings, processes: Processes, base: DualStreamDiT
) -> DualStreamDiT:
    network = share(base)
    adapters = add_adapters(network, settings, seed=recipe.run.seed, name=name)
    start = {STUDENT: settings.student, CRITIC: settings.critic}.get(name)
    if start:
        begin_with(network, Path(start))
    for published, parameter in adapters.items():
        audio_only = recipe.train.audio_only and VIDEO in published
        parameter.requires_grad_(not audio_only)
    processes.recompute(network)
    return network


def check_adapters(processes: Processes) -> None:
    """Refuse adapters on weights that are cut into pieces.

    Raises:
        RecipeError: FSDP2 cuts networks here.
    """
    if processes.sharded:
        raise RecipeError(
            "Adapters share one copy of the base, which FSDP2 cannot cut for several networks",
            found="sharding is on",
            fix="set parallel.shard=no: every GPU then holds the whole base in bf16",
        )


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


def load_teacher(
    recipe: Recipe, processes: Processes, frozen: FrozenNetworks, *, like: TransformerConfig
) -> DualStreamDiT:
    """The teacher of stage 2: the network of its file, or a copy with its matrices in 8 bits.

    8-bit matrices are widened for the moment of their use on every device; what they are multiplied
    with is never rounded.

    Raises:
        CheckpointError: the file cannot be used, or is of another size than `like`.
    """
    model = recipe.model
    if model.teacher_weights == "full":
        return frozen.get(model.teacher, like=like)
    network = load_transformer_in_8_bits(
        Path(model.teacher), dtype=processes.dtype, device=processes.device
    )
    _check_size(model.teacher, network.config, like)
    for layer in network.modules():
        if isinstance(layer, ScaledLinear):
            layer.in_8_bits = False
    if processes.is_main:
        LOGGER.warning("The teacher's matrices are in 8 bits: its scores differ a little")
    return network


def check_own_teacher(recipe: Recipe, processes: Processes) -> None:
    """Refuse 8 bits for a teacher that others use too, or that is cut into pieces.

    Raises:
        RecipeError: the teacher is shared, or cut into pieces.
    """
    model = recipe.model
    if model.teacher_weights == "full":
        return
    found = "sharding is on" if processes.sharded else ""
    if recipe.adapters is not None and is_teacher_shared(model):
        found = "adapters stand on the teacher's file"
    if found:
        raise RecipeError(
            "A teacher in 8 bits must be whole and a copy of its own",
            found=found,
            fix="set model.teacher_weights=full, or parallel.shard=no and no common file",
        )


def is_teacher_shared(model: ModelSettings) -> bool:
    """Whether student or critic, with adapters, stand on the teacher's file."""
    files = (model.student, model.critic or model.teacher)
    return Path(model.teacher).resolve() in {Path(file).resolve() for file in files}


def _check_size(path: str, found: TransformerConfig, wanted: TransformerConfig | None) -> None:
    if wanted is not None and found != wanted:
        raise CheckpointError(
            f"{path} is a transformer of another size than the student",
            found=f"{found.num_layers} layers of width {found.video.dim} and {found.audio.dim} "
            f"instead of {wanted.num_layers} of {wanted.video.dim} and {wanted.audio.dim}",
            fix="use student, teacher and critic of one size",
        )
