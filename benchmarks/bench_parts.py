"""The kernels that a stream is made of, each against its floor: what the first hour on a GPU asks.

    python -m benchmarks.bench_parts [--device cuda:0] [--size full|tiny|least] [--only gemm,conv3d]

Random operands, never zeros; the median of many launches in a row. The floor is the counted work
over the rate of the machine, `--tflops` and `--tbps`; the defaults are those measured on one H200.
Without a GPU the same shapes run much smaller (`--size tiny`), and there is no floor.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measure import MILLI, kernel_seconds, machine, report, table
from hallo_live_core.config import HALLO_5B, TEXT_LENGTH, VideoVAEConfig
from hallo_live_core.devices import default_device, default_dtype, parse_device
from hallo_live_core.errors import RequestError
from hallo_live_core.models.dit.kernels import PACKAGES, Abilities, choose_attention
from hallo_live_core.models.dit.visibility import Attention
from hallo_live_core.models.video_vae.layers import ChannelNorm
from hallo_live_core.models.video_vae.tuning import find_norm_kernel

H200_TFLOPS, H200_TBPS = 790.0, 4.3
"""Dense bf16 products, and reading or writing memory, both measured."""

TERA = 1e12
LATENTS, BLOCKS, AUDIO_LATENTS = 6, 5, 30
"""Video latents of a block, blocks of a clip, audio latents of a block."""

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Shapes:
    """tokens: of one video latent. height, width: of a latent. divide: of all widths."""

    tokens: int
    height: int
    width: int
    divide: int

    def wide(self, number: int) -> int:
        return number // self.divide


SIZES = {
    "full": Shapes(496, 32, 62, 1),
    "tiny": Shapes(32, 8, 16, 8),
    "least": Shapes(4, 2, 2, 32),
}


@dataclass(frozen=True)
class Case:
    """One kernel and the work that cannot be avoided: multiply-adds count two, bytes once each."""

    group: str
    name: str
    work: Callable[[], object]
    flops: float
    nbytes: float


@dataclass(frozen=True)
class Place:
    device: torch.device
    dtype: torch.dtype
    shapes: Shapes

    def random(self, *size: int) -> Tensor:
        return torch.randn(*size, device=self.device, dtype=self.dtype)

    @property
    def item(self) -> int:
        return self.dtype.itemsize


def gemms(at: Place) -> Iterator[Case]:
    """The projections of one block of video, fused and single, and of the sound at its longest."""
    dim, ffn = (at.shapes.wide(n) for n in (HALLO_5B.video.dim, HALLO_5B.video.ffn_dim))
    widths = {
        "one of q, k, v, o": (dim, dim),
        "q k v in one": (dim, 3 * dim),
        "k v in one": (dim, 2 * dim),
        "MLP, first": (dim, ffn),
        "MLP, second": (ffn, dim),
    }
    rows = {"video": LATENTS * at.shapes.tokens, "sound": BLOCKS * AUDIO_LATENTS}
    for stream, count in rows.items():
        for name, (narrow, wide) in widths.items():
            x, weight, bias = at.random(count, narrow), at.random(wide, narrow), at.random(wide)
            nbytes = at.item * (count * (narrow + wide) + narrow * wide)
            yield Case(
                "gemm",
                f"{stream}, {name}: {count} x {narrow} to {wide}",
                lambda x=x, w=weight, b=bias: functional.linear(x, w, b),
                2.0 * count * narrow * wide,
                nbytes,
            )


def attentions(at: Place) -> Iterator[Case]:
    """Video over itself at the five lengths of its past, and the sound over all video."""
    dim = at.shapes.wide(HALLO_5B.video.dim)
    heads = max(1, HALLO_5B.video.num_heads // at.shapes.divide)
    block, sound = LATENTS * at.shapes.tokens, BLOCKS * AUDIO_LATENTS
    kernels = attention_kernels(at.device)
    pairs = [(f"video, block {i}", block, i * block) for i in range(1, BLOCKS + 1)]
    pairs += [("sound over video", sound, BLOCKS * block), ("prompt", block, TEXT_LENGTH)]
    for name, queries, keys in pairs:
        q = at.random(1, heads, queries, dim // heads)
        k, v = (at.random(1, heads, keys, dim // heads) for _ in range(2))
        for name_of, kernel in kernels.items():
            if not _runs(kernel, q, k, v):
                continue
            yield Case(
                "attention",
                f"{name}: {queries} x {keys}, {name_of}",
                lambda q=q, k=k, v=v, kernel=kernel: kernel(q, k, v),
                4.0 * queries * keys * dim,
                at.item * 2 * (queries + keys) * dim,
            )


def attention_kernels(device: torch.device) -> dict[str, Attention]:
    """PyTorch's own by backend, and those of packages that are installed."""
    own = {name: partial(_attend, kind) for name, kind in BACKENDS.items()}
    if device.type == "cuda":
        del own["math"]  # its scores alone would take gigabytes
    abilities = Abilities.of(device)
    kernels = dict(own)
    for name in PACKAGES:
        if abilities.runs(name):
            try:
                kernels[name] = choose_attention(name, device)
            except RequestError as error:
                print(error)
    return kernels


def _attend(kind: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(kind):
        return functional.scaled_dot_product_attention(q, k, v)


def _runs(kernel: Attention, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether this machine has the kernel, asked with few queries."""
    try:
        kernel(q[:, :, :8], k, v)
    except RuntimeError:
        return False
    return True


def levels(at: Place) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """The decoder's levels at a steady latent: name, channels, frames, and (height, width)."""
    config = VideoVAEConfig()
    frames, scale = 1, 1
    growth = (*config.temporal_downsample[::-1], False)
    for level, (multiplier, doubles) in enumerate(
        zip(config.multipliers[::-1], growth, strict=True)
    ):
        channels = at.shapes.wide(config.decoder_dim * multiplier)
        yield (
            f"level {level}",
            channels,
            frames,
            (at.shapes.height * scale, at.shapes.width * scale),
        )
        frames, scale = frames * (2 if doubles else 1), scale * 2


def convolutions(at: Place) -> Iterator[Case]:
    """The 3x3x3 convolution of each level, both layouts in memory."""
    for name, channels, frames, (height, width) in levels(at):
        x = at.random(1, channels, frames + 2, height, width)
        weight = at.random(channels, channels, 3, 3, 3)
        pixels = frames * height * width
        nbytes = at.item * (channels * (2 * pixels + 2 * height * width) + weight.numel())
        for layout in (torch.channels_last_3d, torch.contiguous_format):
            laid, kernel = (t.contiguous(memory_format=layout) for t in (x, weight))
            shown = str(layout).removeprefix("torch.")
            yield Case(
                "conv3d",
                f"{name}: {channels} channels, {frames} x {height} x {width}, {shown}",
                lambda x=laid, w=kernel: functional.conv3d(x, w, padding=(0, 1, 1)),
                2.0 * 27 * channels * channels * pixels,
                nbytes,
            )


def elementwise(at: Place) -> Iterator[Case]:
    """What stands between convolutions: norm and SiLU into the padded input, and the bare copy."""
    kernel = find_norm_kernel(at.device) if at.device.type == "cuda" else None
    ways = {"norm+silu": None} | ({"norm+silu, one kernel": kernel} if kernel else {})
    for name, channels, frames, (height, width) in levels(at):
        like = {"memory_format": torch.channels_last_3d}
        x = at.random(1, channels, frames, height, width).contiguous(**like)
        out = at.random(1, channels, frames + 2, height, width).contiguous(**like)
        nbytes = 2.0 * at.item * x.numel()
        shape = f"{name}: {channels} channels, {frames} x {height} x {width}"
        for way, kernel in ways.items():
            norm = ChannelNorm(channels, device=at.device, dtype=at.dtype).requires_grad_(False)
            norm.kernel = kernel
            work = partial(norm.silu_into, x, out[:, :, 2:])
            yield Case(way, shape, work, 0, nbytes)
        yield Case("padded copy", shape, partial(out[:, :, 2:].copy_, x), 0, nbytes)


GROUPS = {
    "gemm": gemms,
    "attention": attentions,
    "conv3d": convolutions,
    "elementwise": elementwise,
}


def measured(case: Case, at: Place, repeats: int, rates: tuple[float, float] | None) -> dict:
    """A row: time, achieved rates, and how much of the machine's that is."""
    took = kernel_seconds(case.work, at.device, repeats=repeats)
    row = {
        "group": case.group,
        "kernel": case.name,
        "ms": float(f"{took * MILLI:.3g}"),
        "TFLOP/s": f"{case.flops / took / TERA:.3g}",
        "TB/s": f"{case.nbytes / took / TERA:.3g}",
    }
    if rates is not None:
        floor = max(case.flops / rates[0], case.nbytes / rates[1]) / TERA
        row |= {"floor ms": float(f"{floor * MILLI:.3g}"), "of floor": f"{floor / took:.0%}"}
    return row


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="default: the first GPU, else the CPU")
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, else tiny")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {','.join(GROUPS)}")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tflops", type=float, default=H200_TFLOPS, help="the machine's, bf16")
    parser.add_argument("--tbps", type=float, default=H200_TBPS, help="the machine's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    device = parse_device(options.device) if options.device else default_device()
    size = options.size or ("full" if device.type == "cuda" else "tiny")
    at = Place(device, default_dtype(device), SIZES[size])
    rates = (options.tflops, options.tbps) if device.type == "cuda" else None
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    facts = machine(device)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    rows = []
    with torch.inference_mode():
        for group in options.only.split(","):
            for case in GROUPS[group](at):
                rows.append(measured(case, at, options.repeats, rates))
                if len(rows) == 1:
                    print(table(list(rows[0]), []))
                print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
    report({"machine": facts, "shapes": asdict(at.shapes), "rows": rows}, options.json)
    return rows


if __name__ == "__main__":
    main()
