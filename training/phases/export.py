"""`export`: a network of a run's checkpoint as one safetensors file, ready to be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from hallo_live_core.checkpoints.files import SAFETENSORS
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.errors import CheckpointError

from ..checkpointing import checkpoints, read_state, whole_tensors
from ..trainer import CHECKPOINTS

Weights = Literal["ema", "raw"]


def export(
    run: Path,
    target: Path,
    *,
    network: str = "student",
    weights: Weights | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write the newest checkpoint's network; `weights` None is the average if there is one.

    run: folder of a run, or one of its checkpoints. Returns the checkpoint it came from.

    Raises:
        CheckpointError: no checkpoint, no such network in it, or `target` cannot be written.
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
    order = [weights] if weights else ["ema", "raw"]
    for kind in order:
        tensors = whole_tensors(source, prefixes[kind])
        if tensors:
            metadata = {"format": "pt", "weights": kind} | state["sizes"]
            write_safetensors(target, tensors, metadata=metadata, dtype=dtype)
            return source
    raise CheckpointError(
        f"{source} holds no {weights or ''} weights of {network}",
        found="averages begin at ema.start_step; only train-hpdmd has a critic",
    )


def newest(run: Path) -> Path:
    """The newest checkpoint of a run, or `run` itself if it is one.

    Raises:
        CheckpointError: there is none.
    """
    if (run / "state.json").exists():
        return run
    found = checkpoints(run / CHECKPOINTS)
    if not found:
        raise CheckpointError(f"{run} holds no checkpoint", fix="name the folder of a run")
    return found[-1]
