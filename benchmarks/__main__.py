"""All that this machine can measure in a few minutes: `make bench`, or `python -m benchmarks`.

Without a GPU: the loop against the straightforward one, the kernels in small, a tiny stream. With
one: the same at full size, with random weights and each way to run the transformer; with two,
decoders on the second and the split, too. Each runs in a process of its own; Markdown is printed,
numbers go to `out/bench/*.json`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

TARGET = Path("out/bench")

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


def main() -> int:
    failed = 0
    for name, (module, *arguments) in runs(torch.cuda.device_count()).items():
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        print(f"\n## {name}: python -m benchmarks.{module} {' '.join(arguments)}\n", flush=True)
        code = subprocess.run([*command, "--json", str(TARGET / f"{name}.json")], check=False)
        failed += code.returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
