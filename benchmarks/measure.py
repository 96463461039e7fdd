"""What the speed benchmarks share: clocks, random weights, and where a number comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

MILLI = 1e3

WARM_UP = 3
"""Launches of a kernel before its time is taken."""

ROOT = Path(__file__).resolve().parents[1]


def machine(device: torch.device) -> dict[str, Any]:
    """Date, commit and everything a row must name, as of now."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
        }
    return facts


def commit() -> str:
    """The commit that is measured; with a plus if files differ from it."""
    name = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return (name or "unknown") + ("+" if changed else "")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What `work` takes: of the clock on a GPU, of all cores together where cores do the work.

    So what else runs on the machine counts little.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    synchronize(device)
    began = clock()
    work()
    synchronize(device)
    return clock() - began


def kernel_seconds(work: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """Median time of one `work` among many in a row, so that launches hide behind kernels."""
    for _ in range(WARM_UP):
        work()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(repeats):
            work()
            marks.append(time.perf_counter())
        return statistics.median(b - a for a, b in pairwise(marks))
    with torch.cuda.device(device):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) / MILLI for a, b in pairwise(marks))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all are not above (nearest rank)."""
    ordered = sorted(values)
    rank = -(-int(share * 100) * len(ordered) // 100)
    return ordered[max(0, rank - 1)]


def spread(values: Sequence[float]) -> str:
    """`median (smallest to largest)`, in seconds."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


@torch.no_grad()
def fill_random(module: nn.Module) -> nn.Module:
    """Weights that keep activations of about unit size; zeros would be faster than real ones."""
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    for name, p in module.named_parameters():
        if p.ndim < 2 and not name.endswith("bias"):
            p.fill_(1)
        else:
            p.normal_(0, 0.02 if p.ndim < 2 else p[0].numel() ** -0.5, generator=generator)
    return module.requires_grad_(False).eval()


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def report(result: dict[str, Any], target: Path | None) -> None:
    """Write the numbers of a run as JSON."""
    if target is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {target}", file=sys.stderr)
