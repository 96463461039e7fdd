"""Seconds per clip and FLOPs of each judge at published size, with random weights.

    python benchmarks/judges.py --frames 117 --size 512x992 --device cpu

Speed does not depend on the weights, but on how many faces are found: here one, in every frame.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hallo_live_core.checkpoints.tiny_judges_hf import train_tokenizer
from hallo_live_core.cli.loading import parse_size
from hallo_live_core.devices import default_dtype
from hallo_live_core.rewards.audiobox import AudioBox, AudioBoxConfig, AudioJudge
from hallo_live_core.rewards.base import Clip, JudgeProgress, Reward
from hallo_live_core.rewards.sync.judge import SyncJudge
from hallo_live_core.rewards.sync.s3fd import S3FD
from hallo_live_core.rewards.sync.syncnet import SyncNet
from hallo_live_core.rewards.videoalign import VideoAlign, VideoAlignConfig, VideoJudge
from hallo_live_core.rewards.videoalign.prompt import tokenizer_from_json

FPS, SAMPLE_RATE = Fraction(24), 16_000
FACE_LEVEL, CERTAIN = 4, 20.0
SPREAD = 0.02


class OneFace(S3FD):
    """The whole detector, whose answer is then replaced by one face of 256 network pixels."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        regressions, logits, levels = super().forward(x)
        regressions, logits = torch.zeros_like(regressions), torch.zeros_like(logits)
        logits[..., 0] = CERTAIN
        first = sum(rows * columns for rows, columns in levels[:FACE_LEVEL])
        logits[:, first, 1] = 2 * CERTAIN
        return regressions, logits, levels


def sync_judge(device: torch.device) -> SyncJudge:
    return SyncJudge(ready(OneFace(), device), ready(SyncNet(), device))


def audio_judge(device: torch.device) -> AudioJudge:
    return AudioJudge(ready(AudioBox(AudioBoxConfig()), device))


def video_judge(device: torch.device) -> VideoJudge:
    """With a small vocabulary, which makes the text about half as long again."""
    network = VideoAlign(VideoAlignConfig(), device="meta", dtype=default_dtype(device))
    network = network.to_empty(device=device)
    for parameter in network.parameters():
        parameter.uniform_(-SPREAD, SPREAD)
    network.make_frequencies()
    return VideoJudge(network, tokenizer_from_json(train_tokenizer()))


JUDGES: dict[str, Callable[[torch.device], Reward]] = {
    "sync": sync_judge,
    "audio": audio_judge,
    "video": video_judge,
}


def ready(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device).eval().requires_grad_(False)


def made_clip(frames: int, height: int, width: int) -> Clip:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1, round(frames / FPS * SAMPLE_RATE), generator=generator) * 0.1
    picture = torch.randint(0, 256, (1, height, width, 3), generator=generator, dtype=torch.uint8)
    return Clip(picture.repeat(frames, 1, 1, 1), FPS, samples, SAMPLE_RATE, "A woman says: hello.")


class Stages:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, progress: JudgeProgress) -> None:
        now = time.perf_counter()
        self.seconds[progress.stage] = self.seconds.get(progress.stage, 0) + now - self.last
        self.last = now


def measure(judge: Reward, clip: Clip) -> str:
    stages = Stages()
    began = time.perf_counter()
    score = judge.score(clip, on_progress=stages)
    seconds = time.perf_counter() - began
    assert score.value is not None, score.reasons
    with FlopCounterMode(display=False) as counter:
        judge.score(clip)
    parts = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in stages.seconds.items())
    return f"| {judge.name} | {seconds:.1f} s | {counter.get_total_flops() / 1e12:.2f} | {parts} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=117)
    parser.add_argument("--size", type=parse_size, default=(512, 992), metavar="HxW")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--judges",
        nargs="+",
        choices=JUDGES,
        default=["sync", "audio"],
        help="video needs 10 GB of memory, and many minutes without a GPU",
    )
    options = parser.parse_args()
    height, width = options.size
    device = torch.device(options.device)
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg()) if hasattr(os, "getloadavg") else "?"
    print(
        f"{options.frames} frames of {height}x{width} on {device}, "
        f"{torch.get_num_threads()} threads, load of the machine before: {load}\n"
    )
    print("| judge | a clip | TFLOP | of which |")
    print("|---|---|---|---|")
    for name in options.judges:
        clip = made_clip(options.frames, height, width)
        print(measure(JUDGES[name](device), clip), flush=True)


if __name__ == "__main__":
    main()
