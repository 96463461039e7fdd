"""How much memory loading a large transformer takes, against the size of its file.

    python -m benchmarks.load_memory [--layers 8] [--folder /tmp]

Writes random bf16 weights of the published widths and names, as many layers as asked for (0.77 GB
each; the published model has 30), loads them in fresh processes and reads every page of every
weight, as the first pass of a run does. Prints a Markdown table; deletes its files. Linux only.
Ends with 1 when a bf16 file takes more than 1.15 times its size, Python and torch included.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from hallo_live_core.checkpoints.convert import convert_to_fp8
from hallo_live_core.checkpoints.files import read_file
from hallo_live_core.checkpoints.load import load_transformer
from hallo_live_core.checkpoints.safetensors_writer import write_safetensors
from hallo_live_core.config import HALLO_5B
from hallo_live_core.models.dit.fusion import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published

LIMIT = 1.15
SAMPLE_SECONDS = 0.005
PATTERN = 2**20
"""Random numbers that repeat themselves through the file; what they are does not matter."""

PAGE = 4096
GIGA = 1e9


@dataclass(frozen=True)
class Peaks:
    """Bytes of a process: before it loads, the most while it does, and after all was read."""

    before: int
    anonymous: int
    loading: int
    after: int


def status(*entries: str) -> int:
    """The sum of entries of /proc/self/status, in bytes."""
    lines = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line
    )
    return sum(int(lines[entry].split()[0]) * 1024 for entry in entries)


class Watch:
    """Samples the memory of this process; the kernel keeps no peak of the anonymous part."""

    def __init__(self) -> None:
        self.anonymous = self.resident = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.anonymous = max(self.anonymous, status("RssAnon"))
            self.resident = max(self.resident, status("VmRSS"))


def touch(module: nn.Module) -> None:
    for tensor in module.state_dict().values():
        tensor.reshape(-1).view(torch.uint8)[::PAGE].sum()


def measure(answer: Connection, path: Path) -> None:
    """In a process of its own."""
    before = status("VmRSS")
    with Watch() as watch:
        module = load_transformer(path, dtype=torch.bfloat16)
        touch(module)
    gc.collect()
    after = status("VmRSS")
    answer.send(Peaks(before, watch.anonymous, max(watch.resident, after), after))


def peaks_of(path: Path) -> Peaks:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=measure, args=(there, path))
    process.start()
    try:
        return here.recv()
    finally:
        process.join()


def write(path: Path, layers: int) -> None:
    """Random weights, made as they are written."""
    config = replace(HALLO_5B, num_layers=layers)
    names = to_published(DualStreamDiT(config, device="meta").state_dict())
    noise = torch.randn(PATTERN, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()

    def fill(tensor: Tensor) -> Tensor:
        repeats = -(-tensor.numel() // PATTERN)
        return noise.repeat(repeats)[: tensor.numel()].reshape(tensor.shape)

    encoders = dict.fromkeys(names, (torch.bfloat16, fill))
    write_safetensors(path, names, metadata={}, dtype=torch.bfloat16, encoders=encoders)


def as_pickle(source: Path, target: Path) -> None:
    torch.save({f"model.{name}": t for name, t in read_file(source).tensors.items()}, target)


CASES: tuple[tuple[str, str, Callable[[Path, Path], object] | None], ...] = (
    ("safetensors, bf16", "full.safetensors", None),
    ("published form (.pt), bf16", "full.pt", as_pickle),
    ("scaled fp8, widened to bf16", "small.safetensors", convert_to_fp8),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        full = Path(folder) / CASES[0][1]
        write(full, options.layers)
        weights = full.stat().st_size
        print(f"{options.layers} of {HALLO_5B.num_layers} layers, {weights / GIGA:.2f} GB in bf16")
        print(
            "| file | on disk | before | most while loading | of it copies | after | most / bf16 |"
        )
        print("|---|---|---|---|---|---|---|")
        for title, name, make in CASES:
            path = Path(folder) / name
            if make is not None:
                make(full, path)
            found = peaks_of(path)
            ratio = found.loading / weights
            if make is not convert_to_fp8:
                worst = max(worst, ratio)
            sizes = (path.stat().st_size, found.before, found.loading, found.anonymous, found.after)
            cells = " | ".join(f"{size / GIGA:.2f} GB" for size in sizes)
            print(f"| {title} | {cells} | {ratio:.2f} |", flush=True)
            if path != full:
                path.unlink()
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
