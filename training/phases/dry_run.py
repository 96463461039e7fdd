"""`--dry-run`: what a recipe would take, from the headers of its files; nothing is read or run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hallo_live_core.checkpoints.config_json import config_from_metadata
from hallo_live_core.checkpoints.eight_bit import transformer_nbytes
from hallo_live_core.checkpoints.files import read_file
from hallo_live_core.config import HALLO_5B, TextEncoderConfig, TransformerConfig
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.dit.weights import config_from_state_dict
from hallo_live_core.models.text_encoder.umt5 import num_parameters
from hallo_live_core.state.session import SessionShape, session_nbytes

from ..adapters import add_adapters, share
from ..optimizers import moment_nbytes
from ..parallel import PRECISIONS
from ..recipe import Recipe
from ..trainable import AdamWSettings, published_parameters

GIB = 2**30
FLOAT32 = 4
KEPT_WIDTHS = 16
KEPT_FFN_WIDTHS = 3
"""Tensors of model and of feed-forward width that one layer keeps per token for its backward pass;
counted in the code, not measured."""

CARDS = (24, 48, 80, 141)
"""GiB of usual cards; they report about as much as their names say in GB."""

APART = 2.0
"""GiB of a card that no network gets: CUDA itself, and gaps between tensors; an estimate."""

LEARNERS = {
    "train-teacher": ("student",),
    "train-ode": ("student",),
    "train-hpdmd": ("student", "critic"),
}
TRAINING = tuple(LEARNERS)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of one network: all parameters, those that learn, those of one layer.

    Of adapters: `learning` are theirs, `total` the base's.
    """

    config: TransformerConfig
    total: int
    learning: int
    layer: int


def dry_run(recipe: Recipe, world: int) -> str:
    """A table of parameters and of memory per GPU for `world` of them."""
    path = network_path(recipe)
    lines = [f"phase        {recipe.phase}", f"weights      {path or 'not named'}{_absence(path)}"]
    if recipe.phase == "encode-prompts":
        count = encoder_size(path)
        lines.append(f"parameters   {count:,}")
        nbytes = PRECISIONS[recipe.parallel.precision].itemsize * count
        return "\n".join([*lines, *_table([("text encoder: weights", float(nbytes))], world)])
    sizes = network_sizes(recipe)
    share = sizes.learning / sizes.total
    lines += [
        f"network      {sizes.config.num_layers} layers, widths {sizes.config.video.dim} and "
        f"{sizes.config.audio.dim}",
        f"parameters   {sizes.total:,}",
    ]
    if recipe.phase in TRAINING:
        lines.append(f"that learn   {sizes.learning:,} ({share:.1%})")
        lines.append(
            f"batch        {recipe.run.global_batch}: {world} processes, {_passes(recipe, world)}"
        )
    lines += _table(memory_rows(recipe, sizes, world), world)
    if recipe.rewards is not None or recipe.phase == "evaluate":
        lines.append("decoders and judges come on top, by the size of their files")
    return "\n".join(lines)


def _table(rows: list[tuple[str, float]], world: int) -> list[str]:
    lines = ["", f"memory per GPU, {world} processes, GiB (arithmetic, not measured)"]
    lines += [f"  {name:<44}{nbytes / GIB:8.1f}" for name, nbytes in rows]
    together = sum(nbytes for _, nbytes in rows) / GIB
    lines.append(f"  {'together':<44}{together:8.1f}")
    cards = (f"{size}: {'yes' if together + APART <= size else 'no'}" for size in CARDS)
    lines.append(f"fits a card of so many GiB, {APART:.0f} kept apart: {', '.join(cards)}")
    return lines


def network_path(recipe: Recipe) -> str:
    """The file of weights that the phase is about; empty if the recipe names none."""
    if recipe.phase == "encode-prompts":
        return recipe.model.text_encoder
    if recipe.phase == "evaluate":
        files = (name for name in recipe.evaluation.students if Path(name).is_file())
        return next(files, "")
    return recipe.model.student or recipe.model.teacher


def encoder_size(path: str) -> int:
    """Parameters of the text encoder's file; without it, of the published one."""
    if Path(path).is_file():
        return sum(tensor.numel() for tensor in read_file(Path(path)).tensors.values())
    return num_parameters(TextEncoderConfig())


def _absence(path: str) -> str:
    return "" if path and Path(path).is_file() else " (no such file: the published size is assumed)"


def network_sizes(recipe: Recipe) -> Sizes:
    """Counts, from a network on the meta device. Without the file: those of the published model."""
    path = network_path(recipe)
    config = HALLO_5B
    if path and Path(path).is_file():
        file = read_file(Path(path))
        found = config_from_metadata(file.metadata, file.name)
        config = found or config_from_state_dict(file.tensors)
    network = DualStreamDiT(config, device=torch.device("meta"))
    named = published_parameters(network)
    learning = sum(p.numel() for name, p in named.items() if recipe.train.trains(name))
    if recipe.adapters is not None:
        adapters = add_adapters(share(network), recipe.adapters, seed=0, name="").items()
        learning = sum(p.numel() for _, p in adapters)
    layer = sum(p.numel() for p in network.blocks[0].parameters())
    return Sizes(config, sum(p.numel() for p in named.values()), learning, layer)


def memory_rows(recipe: Recipe, sizes: Sizes, world: int) -> list[tuple[str, float]]:
    """(what, bytes) on each GPU."""
    if recipe.adapters is not None and recipe.phase in TRAINING:
        return adapter_rows(recipe, sizes)
    rows: list[tuple[str, float]] = []
    cut = min(recipe.parallel.shard_group or world, world)
    if recipe.parallel.shard == "no":
        cut = 1
    compute = PRECISIONS[recipe.parallel.precision].itemsize
    names = LEARNERS.get(recipe.phase, ())
    learners = len(names)
    for name in names:
        rows.append((f"{name}: weights, float32", FLOAT32 * sizes.total / cut))
        rows.append((f"{name}: gradients, float32", FLOAT32 * sizes.learning / cut))
        kept = moment_nbytes(_optimizer(recipe, name), sizes.learning)
        rows.append((f"{name}: moments of AdamW", kept / cut))
    if learners and recipe.ema.start_step <= recipe.run.max_steps:
        rows.append(("student: average, float32", FLOAT32 * sizes.total / cut))
    if recipe.model.teacher_weights == "fp8":
        rows.append(_teacher_in_8_bits(recipe, sizes))
    elif recipe.model.teacher and not recipe.parallel.frozen_on_host:
        rows.append(("teacher: weights", compute * sizes.total / cut))
    if recipe.phase == "evaluate":
        rows.append(("student: weights", float(compute * sizes.total)))
    if cut > 1 and recipe.phase in TRAINING:
        outside = sizes.total - sizes.layer * sizes.config.num_layers
        gathered = 2 * sizes.layer + (learners or 1) * outside
        rows.append(("layers gathered for use, two at a time", compute * gathered))
    rows.append(("activations", activation_bytes(recipe, sizes.config, compute)))
    return rows


def adapter_rows(recipe: Recipe, sizes: Sizes) -> list[tuple[str, float]]:
    """(what, bytes) on each GPU with adapters, which nothing cuts into pieces."""
    compute = PRECISIONS[recipe.parallel.precision].itemsize
    model = recipe.model
    files = {model.student}
    if recipe.phase == "train-hpdmd":
        files |= {model.teacher, model.critic or model.teacher}
    in_8_bits = model.teacher_weights == "fp8"
    files -= {model.teacher} if in_8_bits else set()
    rows = [(f"base: {len(files)} x frozen weights", float(compute * sizes.total * len(files)))]
    if in_8_bits:
        rows.append(_teacher_in_8_bits(recipe, sizes))
    for name in LEARNERS[recipe.phase]:
        states = (1 + 1) * FLOAT32 * sizes.learning
        states += moment_nbytes(_optimizer(recipe, name), sizes.learning)
        rows.append((f"{name}: adapters, gradients, moments", states))
    if recipe.ema.start_step <= recipe.run.max_steps:
        rows.append(("student: average of adapters, float32", float(FLOAT32 * sizes.learning)))
    rows.append(("activations", activation_bytes(recipe, sizes.config, compute)))
    return rows


def activation_bytes(recipe: Recipe, config: TransformerConfig, compute: int) -> float:
    """What the largest backward pass keeps, and the caches of a rollout."""
    clip, plan = recipe.clip, recipe.plan
    shape = SessionShape(plan, clip.height, clip.width, batch=recipe.run.micro_batch)
    video = plan.video_latents * shape.tokens_per_latent(config)
    audio = plan.audio_horizon
    layer = _kept(config, video, audio) * recipe.run.micro_batch
    inputs = (video * config.video.dim + audio * config.audio.dim) * recipe.run.micro_batch
    whole = config.num_layers * inputs + layer
    if not recipe.parallel.checkpoint_activations:
        whole = config.num_layers * layer
    block = _kept(config, video // plan.num_blocks, audio) * recipe.run.micro_batch
    caches = session_nbytes(config, shape, PRECISIONS[recipe.parallel.precision])
    if recipe.phase == "evaluate":
        return compute * block + caches
    if recipe.phase not in TRAINING:
        return compute * layer
    if recipe.phase != "train-hpdmd":
        return compute * whole
    rollout = config.num_layers * block * (1 if recipe.rollout.recompute else plan.num_blocks)
    return compute * max(whole, rollout) + caches


def _teacher_in_8_bits(recipe: Recipe, sizes: Sizes) -> tuple[str, float]:
    """Whole on every GPU."""
    dtype = PRECISIONS[recipe.parallel.precision]
    nbytes = transformer_nbytes(sizes.config, dtype, in_8_bits=True)
    return "teacher: weights, matrices in 8 bits", float(nbytes)


def _optimizer(recipe: Recipe, name: str) -> AdamWSettings:
    return recipe.critic_optimizer if name == "critic" else recipe.optimizer


def _kept(config: TransformerConfig, video: int, audio: int) -> int:
    """Values that one layer keeps for its backward pass."""
    streams = ((video, config.video), (audio, config.audio))
    return sum(n * (KEPT_WIDTHS * s.dim + KEPT_FFN_WIDTHS * s.ffn_dim) for n, s in streams)


def _passes(recipe: Recipe, world: int) -> str:
    each = recipe.run.micro_batch * world
    passes, rest = divmod(recipe.run.global_batch, each)
    if rest or not passes:
        return f"cannot be divided into {each} at a time"
    return f"{passes} backward passes of {recipe.run.micro_batch} each"
