"""Checkpoints from which a run goes on exactly: written aside, renamed when complete.

A checkpoint is a folder `step_<number>`: one safetensors file per process with its tensors, and
`state.json` with counters, recipe and layout. A folder under that name is whole. Pieces of sharded
tensors are cut along the first axis, so any number of processes can put them together again; of
several copies the first is written. Files appear when they are whole, so the main process sees
without asking when all have written theirs: a checkpoint can be written beside the run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.errors import CheckpointError

from .parallel import Processes, is_sharded, local

STATE_FILE = "state.json"
UNFINISHED = ".unfinished"
FOLDER = re.compile(r"step_(\d+)")
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 3600.0
"""How long the main process waits for the files of the others."""

OWN = "process."
"""Tensors of one process only, such as states of random generators."""


@dataclass
class Snapshot:
    """All that a run is. Tensors are live: saving reads them, `restore` writes into copies.

    tensors: by name, sharded ones as they are. state: plain values for JSON.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


def save(
    root: Path,
    step: int,
    snapshot: Snapshot,
    processes: Processes,
    *,
    keep: int,
    milestone_every: int = 0,
    beside: Executor | None = None,
) -> Future[None]:
    """Write a checkpoint; only the last `keep` remain. Every process must call this.

    milestone_every: those of a multiple of so many steps remain too; 0: none. beside: writes while
    the run goes on, from a copy in main memory; by default all is written on return. What is
    returned is done when this process's part is.

    Raises:
        CheckpointError: the disk is full or not writable; with `beside` the future raises it.
    """
    target = Path(root) / f"step_{step:08d}"
    aside = Path(root) / f"{target.name}{UNFINISHED}"
    if processes.is_main:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    processes.wait()
    sharded = sorted(name for name, tensor in snapshot.tensors.items() if is_sharded(tensor))
    pieces = set(sharded) if processes.rank < processes.pieces else set()
    mine = {
        name: local(tensor).detach().to("cpu", copy=True) if beside else local(tensor).detach()
        for name, tensor in snapshot.tensors.items()
        if processes.is_main or name in pieces or name.startswith(OWN)
    }
    layout = {"processes": processes.count, "pieces": processes.pieces, "sharded": sharded}
    state = json.dumps(snapshot.state | layout | {"step": step}, indent=1)

    def write() -> None:
        write_safetensors(aside / _file_name(processes.rank), mine, metadata={"format": "pt"})
        if not processes.is_main:
            return
        _await_files(aside, processes.count)
        _write_durably(aside / STATE_FILE, state)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _sync(Path(root))
        for old in checkpoints(root)[:-keep]:
            if not milestone_every or _step(old) % milestone_every:
                shutil.rmtree(old)

    if beside is not None:
        return beside.submit(write)
    write()
    processes.wait()
    done: Future[None] = Future()
    done.set_result(None)
    return done


def _await_files(folder: Path, count: int) -> None:
    """Go on when every process has written its file.

    Raises:
        CheckpointError: one has not, for a long time.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    for file in (folder / _file_name(rank) for rank in range(count)):
        while not file.exists():
            if time.monotonic() > give_up:
                raise CheckpointError(
                    f"{file} was not written",
                    found=f"nothing after {PATIENCE_SECONDS:g} seconds",
                    fix="see what the other process says; all must write to the same folder",
                )
            time.sleep(POLL_SECONDS)


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints below a folder, oldest first."""
    found = [path for path in Path(root).glob("step_*") if FOLDER.fullmatch(path.name)]
    return sorted(found)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("_")[2])


def load(path: Path, processes: Processes) -> Snapshot:
    """A checkpoint as this process needs it: whole tensors, and its pieces of sharded ones.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    state = read_state(path)
    files = [_open(Path(path) / _file_name(rank)) for rank in range(state["processes"])]
    sharded = set(state["sharded"])
    tensors: dict[str, Tensor] = {}
    for name in files[0].keys():  # noqa: SIM118 - a file, not a dict
        if name in sharded:
            whole = _whole(name, files, state)
            tensors[name] = piece(whole, processes) if processes.sharded else whole
        elif not name.startswith(OWN):
            tensors[name] = files[0].get_tensor(name)
    if processes.rank < len(files):
        own = files[processes.rank]
        names = [name for name in own.keys() if name.startswith(OWN)]  # noqa: SIM118
        tensors |= {name: own.get_tensor(name) for name in names}
    return Snapshot(tensors, state)


def whole_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with `prefix`, without it, put together from their pieces.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    state = read_state(path)
    files = [_open(Path(path) / _file_name(rank)) for rank in range(state["processes"])]
    sharded = set(state["sharded"])
    return {
        name.removeprefix(prefix): _whole(name, files, state)
        if name in sharded
        else files[0].get_tensor(name)
        for name in files[0].keys()  # noqa: SIM118 - a file, not a dict
        if name.startswith(prefix)
    }


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors of a checkpoint; none is read.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return set(_open(Path(path) / _file_name(0)).keys())


def read_state(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint.

    Raises:
        CheckpointError: this is no checkpoint of ours, or damaged.
    """
    try:
        return json.loads((Path(path) / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of a run",
            found=error,
            fix="if the run made it, delete it; the run goes on from the one before",
        ) from error


def restore(into: Mapping[str, Tensor], snapshot: Snapshot, prefix: str, source: object) -> None:
    """Copy the tensors called `prefix` + name into live ones of the same names and sizes.

    Raises:
        CheckpointError: names or sizes differ: another network.
    """
    stored = {
        name.removeprefix(prefix): tensor
        for name, tensor in snapshot.tensors.items()
        if name.startswith(prefix)
    }
    for name in into.keys() | stored.keys():
        if name not in into or name not in stored:
            where = "checkpoint" if name not in stored else "network"
            raise _misfit(source, f"{name} is not in the {where}")
        if local(into[name]).shape != stored[name].shape:
            shapes = f"{list(stored[name].shape)} instead of {list(local(into[name]).shape)}"
            raise _misfit(source, f"{name} {shapes}")
    with torch.no_grad():
        for name, tensor in into.items():
            local(tensor).copy_(stored[name])


def piece(whole: Tensor, processes: Processes) -> Tensor:
    """This process's part of a tensor along its first axis, as FSDP2 cuts it."""
    parts = torch.chunk(whole, processes.pieces)
    index = processes.rank % processes.pieces
    return parts[index] if index < len(parts) else whole[:0]


def random_states() -> dict[str, Tensor]:
    """States of torch's generators in this process."""
    states = {f"{OWN}random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"{OWN}random.cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(snapshot: Snapshot) -> None:
    """Set torch's generators as they were; those of further processes stay."""
    if f"{OWN}random.cpu" in snapshot.tensors:
        torch.set_rng_state(snapshot.tensors[f"{OWN}random.cpu"])
    if torch.cuda.is_available() and f"{OWN}random.cuda" in snapshot.tensors:
        torch.cuda.set_rng_state(snapshot.tensors[f"{OWN}random.cuda"])


def git_hash() -> str | None:
    """The commit of this code, None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _file_name(rank: int) -> str:
    return f"process_{rank:05d}.safetensors"


def _whole(name: str, files: list[Any], state: Mapping[str, Any]) -> Tensor:
    """Checkpoints without a number of pieces are from before there were copies."""
    pieces = state.get("pieces", state["processes"])
    return torch.cat([file.get_tensor(name) for file in files[:pieces]])


def _open(path: Path) -> Any:  # noqa: ANN401 - safetensors has no types
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged",
            found=error,
            fix="delete this checkpoint; the run goes on from the one before",
        ) from error


def _misfit(source: object, found: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is a checkpoint of another network",
        found=found,
        fix="use the run's own recipe, or another run.folder",
    )


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
