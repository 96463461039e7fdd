"""The transformer's loop against a straightforward one that follows the specification.

    python -m benchmarks.bench_cpu [--size small|full] [--device cuda:0] [--json FILE]

Both make the same clip from the same random weights and the same noise, in one process, in turns
(A B B A), and on a CPU seconds are those of its cores, so that what else runs counts little. What
matters is the ratio; parity is printed beside it. A is `benchmarks/reference/`, B what users run.
`--size full` needs a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import fill_random, machine, report, seconds, spread, table
from benchmarks.parity import distance, shown
from benchmarks.reference.rollout import rollout
from benchmarks.reference.transformer import ReferenceTransformer
from hallo_live_core.config import HALLO_5B, BlockSizes, StreamConfig, TransformerConfig
from hallo_live_core.devices import default_dtype, parse_device
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import ClipShape, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import DualStreamDiT, fuse_projections
from hallo_live_core.models.dit.weights import to_published
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import TextContext

ROUNDS = 3
"""Rounds of A B B A: six clips of each."""


@dataclass(frozen=True)
class Size:
    """height and width of latents; text: rows of the prompt."""

    config: TransformerConfig
    blocks: int
    height: int
    width: int
    text: int


def _stream(channels: int, patch: tuple[int, ...], dim: int, text: int) -> StreamConfig:
    return StreamConfig(
        in_channels=channels,
        dim=dim,
        ffn_dim=4 * dim,
        num_heads=max(1, dim // 128),
        patch=patch,
        text_dim=64,
        text_len=text,
    )


def _config(dim: int, layers: int, text: int) -> TransformerConfig:
    video, audio = _stream(48, (1, 2, 2), dim, text), _stream(20, (1,), dim, text)
    return TransformerConfig(video=video, audio=audio, num_layers=layers)


SIZES = {
    "tiny": Size(_config(24, 1, 8), blocks=2, height=2, width=4, text=4),
    # A block has 768 tokens and the prompt 128: about as many of each other as at full size.
    "small": Size(_config(256, 3, 128), blocks=3, height=16, width=32, text=60),
    "full": Size(HALLO_5B, blocks=5, height=32, width=62, text=200),
}


class Pair:
    """Both ways to make one clip."""

    def __init__(self, size: Size, device: torch.device, dtype: torch.dtype) -> None:
        model = DualStreamDiT(size.config, device=device, dtype=dtype)
        fill_random(model)
        self.reference = ReferenceTransformer(to_published(model.state_dict()), size.config)
        self.model = fuse_projections(model)
        self.plan, self.schedule = ClipPlan(BlockSizes(), size.blocks), NoiseSchedule()
        self.shape = SessionShape(self.plan, size.height, size.width)
        clip = ClipShape(self.plan, (48, size.height, size.width), 20)
        self.noise = SeededNoise(clip, 1, device=device, dtype=dtype)
        rows = torch.randn(1, size.text, size.config.video.text_dim, device=device, dtype=dtype)
        self.text = TextContext.shared(rows)
        self.dtype = dtype

    def plain(self) -> tuple[list[Tensor], list[Tensor]]:
        text = (self.text.video, self.text.audio)
        return rollout(self.reference, text, self.plan, self.schedule, self.noise)

    @torch.inference_mode()
    def ours(self) -> tuple[list[Tensor], list[Tensor]]:
        state = open_session(self.model, self.text, self.shape, self.schedule, dtype=self.dtype)
        denoiser = Denoiser(self.model, state, self.schedule)
        blocks = list(stream_blocks(denoiser, self.noise))
        return [b.video for b in blocks], [b.audio for b in blocks]

    def parity(self) -> list[tuple[float, float]]:
        """Relative L2 distance of both clips, per block: picture and sound."""
        ours, plain = self.ours(), self.plain()
        return [
            tuple(distance(stream[i], other[i]) for stream, other in zip(ours, plain, strict=True))
            for i in range(self.plan.num_blocks)
        ]


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of A B B A")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    device = parse_device(options.device)
    dtype = getattr(torch, options.dtype) if options.dtype else default_dtype(device)
    size = SIZES[options.size]
    torch.manual_seed(0)
    facts = machine(device)
    pair = Pair(size, device, dtype)
    parity = pair.parity()  # warms up, too
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(options.rounds):
        for name in ("plain", "ours", "ours", "plain"):
            times[name].append(seconds(getattr(pair, name), device))
    ratio = statistics.median(times["plain"]) / statistics.median(times["ours"])
    where = f"{facts.get('gpu') or facts['cpu']}, {facts['threads']} threads, load {facts['load']}"
    cells = {
        "date": facts["date"],
        "commit": facts["commit"],
        "machine": where,
        "size": f"{options.size}, {str(dtype).removeprefix('torch.')}",
        "straightforward, s": spread(times["plain"]),
        "ours, s": spread(times["ours"]),
        "ratio": f"**{ratio:.2f}**",
        "parity by block (picture / sound)": shown(parity),
    }
    print(table(list(cells), [list(cells.values())]))
    result = {
        "machine": facts,
        "size": options.size,
        "seconds": times,
        "ratio": ratio,
        "parity": parity,
    }
    report(result, options.json)
    return result


if __name__ == "__main__":
    main()
