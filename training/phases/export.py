"""`export`: a network of a run's checkpoint as one safetensors file, ready to be loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hallo_live_core.checkpoints.files import SAFETENSORS
from hallo_live_core.checkpoints.load import load_transformer
from hallo_live_core.checkpoints.lora import ALPHA, LowRank, changed
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.errors import CheckpointError
from hallo_live_core.models.dit.weights import to_published

from ..adapters import as_lora_file, read_changes
from ..checkpointing import STATE_FILE, checkpoints, read_state, whole_tensors
from ..data.shards import sha256
from ..learner import BASES, BaseFile
from ..trainer import CHECKPOINTS

Weights = Literal["ema", "raw"]


def export(
    run: Path,
    target: Path,
    *,
    network: str = "student",
    weights: Weights | None = None,
    dtype: torch.dtype | None = None,
    adapters_only: bool = False,
    base: Path | None = None,
) -> Path:
    """Write the newest checkpoint's network; `weights` None is the average if there is one.

    run: folder of a run, or one of its checkpoints. Returns the checkpoint it came from.
    dtype: None is bf16, of adapters alone float32. adapters_only: a LoRA file instead of a network
    with the adapters merged into it. base: where the file below the adapters is now.

    Raises:
        CheckpointError: no checkpoint, no such network in it, or `target` cannot be written; the
            base of adapters is missing or another file, or there are no adapters.
    """
    run, target = Path(run), Path(target)
    if target.suffix.lower() not in SAFETENSORS:
        raise CheckpointError(
            "An exported network is a safetensors file",
            found=target.name,
            fix=f"call it {target.stem}.safetensors",
        )
    if target.exists():
        raise CheckpointError(f"{target} exists already", fix="delete it or choose another name")
    source = newest(run)
    state = read_state(source)
    prefixes = {"ema": f"{network}.ema.", "raw": f"{network}.weights."}
    stands_on = state.get(BASES, {}).get(network)
    if adapters_only and stands_on is None:
        raise CheckpointError(f"{source} holds no adapters of {network}", fix="export all of it")
    order = [weights] if weights else ["ema", "raw"]
    for kind in order:
        tensors = whole_tensors(source, prefixes[kind])
        if not tensors:
            continue
        metadata = {"format": "pt", "weights": kind} | state["sizes"]
        if stands_on is None:
            write_safetensors(target, tensors, metadata=metadata, dtype=dtype or torch.bfloat16)
        elif adapters_only:
            write_adapters(target, tensors, stands_on["alpha"], dtype=dtype or torch.float32)
        else:
            below = BaseFile(**stands_on | ({} if base is None else {"path": str(base)}))
            write_merged(target, tensors, below, metadata=metadata, dtype=dtype or torch.bfloat16)
        return source
    raise CheckpointError(
        f"{source} holds no {weights or ''} weights of {network}",
        found="averages begin at ema.start_step; only train-hpdmd has a critic",
    )


def write_adapters(
    target: Path, adapters: Mapping[str, Tensor], alpha: float, *, dtype: torch.dtype
) -> None:
    """Write a LoRA file, as `checkpoints.lora`, `--lora` and the ComfyUI node read it."""
    metadata = {"format": "pt", ALPHA: str(alpha)}
    write_safetensors(target, as_lora_file(adapters, alpha), metadata=metadata, dtype=dtype)


def write_merged(
    target: Path,
    adapters: Mapping[str, Tensor],
    base: BaseFile,
    *,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
) -> None:
    """Write base and adapters as one network; weights are merged in float32, one at a time.

    Raises:
        CheckpointError: the base is missing, or not the file that the adapters were trained with.
    """
    file = Path(base.path)
    if not file.is_file() or sha256(file) != base.sha256:
        raise CheckpointError(
            f"{file} is not the file that the adapters stand on",
            found="other content" if file.is_file() else "no such file",
            fix="name that file with --base",
        )
    changes = read_changes(adapters, base.alpha)
    weights = to_published(load_transformer(file).state_dict())

    def merged(change: LowRank) -> Callable[[Tensor], Tensor]:
        return lambda weight: changed(weight.float(), [(change, 1.0)])

    encoders = {name: (dtype, merged(change)) for name, change in changes.items()}
    write_safetensors(target, weights, metadata=metadata, dtype=dtype, encoders=encoders)


def newest(run: Path) -> Path:
    """The newest checkpoint of a run, or `run` itself if it is one.

    Raises:
        CheckpointError: the run holds no checkpoint.
    """
    if (run / STATE_FILE).exists():
        return run
    found = checkpoints(run / CHECKPOINTS)
    if not found:
        raise CheckpointError(f"{run} holds no checkpoint", fix="name the folder of a run")
    return found[-1]
