"""All that this machine can measure in a few minutes: `make bench`, or `python -m benchmarks`.

Without a GPU: the loop against the straightforward one, the kernels in small, a tiny stream. With
one: the same at full size, with random weights and each way to run the transformer; with two,
decoders on the second and the split, too. Each runs in a process of its own; Markdown is printed,
numbers go to `out/bench/*.json`. With `--publish` the rows also go to the tables of BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.measure import ROOT

TARGET = Path("out/bench")
PUBLISHED = ROOT / "BENCHMARKS.md"

CPU_RUNS = {
    "loop": ("bench_cpu",),
    "kernels": ("bench_parts", "--size", "tiny", "--repeats", "5"),
    "video_decoder": ("bench_video_vae",),
    "stream": ("bench_stream", "--device", "cpu", "--clips", "3", "--prompts", "5"),
}
FULL = ("bench_stream", "--size", "full", "--device")
GPU_RUNS = {
    "loop": ("bench_cpu", "--size", "full", "--device", "cuda:0"),
    "kernels": ("bench_parts", "--device", "cuda:0"),
    "video_decoder": ("bench_video_vae", "--latents", "32x62", "--device", "cuda:0"),
    "stream": (*FULL, "cuda:0", "--profile"),
    "stream_graphs": (*FULL, "cuda:0", "--cuda-graphs"),
    "stream_graphs_beside": (*FULL, "cuda:0", "--cuda-graphs", "--audio-beside"),
    "stream_compiled": (*FULL, "cuda:0", "--compile", "blocks"),
    "stream_decoding_beside": (*FULL, "cuda:0", "--decode-beside"),
    "stream_light": (*FULL, "cuda:0", "--light"),
}
TWO_GPU_RUNS = {
    "stream_beside": (*FULL, "cuda:0", "--decode-device", "cuda:1", "--cuda-graphs"),
    "stream_split": (*FULL, "cuda:0,cuda:1", "--split", "sequence"),
}


def runs(gpus: int) -> dict[str, tuple[str, ...]]:
    """Name and command of everything that so many GPUs can measure."""
    if not gpus:
        return CPU_RUNS
    return GPU_RUNS | (TWO_GPU_RUNS if gpus > 1 else {})


def run(command: list[str]) -> tuple[str, int]:
    """Run a command, show what it prints as it comes, and return that and its exit status."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), process.returncode


def publish(printed: str, document: str) -> str:
    """The document with the rows of every printed table behind those of its table with that head.

    Tables that the document does not have are left out.
    """
    lines = document.splitlines()
    shown = printed.splitlines()
    for at, head in enumerate(shown[:-1]):
        if not (shown[at + 1].startswith("| ---") and head in lines):
            continue
        rows = _table_end(shown, at + 2)
        end = _table_end(lines, lines.index(head) + 2)
        lines[end:end] = shown[at + 2 : rows]
    return "\n".join(lines) + "\n"


def _table_end(lines: list[str], start: int) -> int:
    return next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publish", action="store_true", help=f"write to {PUBLISHED.name}, too")
    options = parser.parse_args(arguments)
    failed: list[str] = []
    printed: list[str] = []
    for name, (module, *rest) in runs(torch.cuda.device_count()).items():
        command = [sys.executable, "-m", f"benchmarks.{module}", *rest]
        print(f"\n## {name}: python -m benchmarks.{module} {' '.join(rest)}\n", flush=True)
        shown, code = run([*command, "--json", str(TARGET / f"{name}.json")])
        if code:
            failed.append(name)
        else:
            printed.append(shown)
    if options.publish:  # at the end, so that no row is of changed files
        document = PUBLISHED.read_text(encoding="utf-8")
        PUBLISHED.write_text(publish("\n".join(printed), document), encoding="utf-8")
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall done")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
