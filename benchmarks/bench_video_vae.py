"""The video decoder against a straightforward one that follows the specification.

    python -m benchmarks.bench_video_vae [--latents 32x62] [--device cuda:0] [--json FILE]

All decode the same latents with the same random weights, in one process and in turns, forth and
back; on a CPU seconds are those of its cores, so that what else runs counts little. What matters is
the ratio to `benchmarks/reference/video_decoder.py`, beside the largest difference of a pixel.
Channels are the published ones; `--latents 32x62` is a picture of 512x992.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import fill_random, machine, report, seconds, spread, table
from benchmarks.reference.video_decoder import ReferenceDecoder
from hallo_live_core.cli.loading import parse_size
from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.devices import default_dtype, parse_device
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.tuning import tune

LATENTS = 3
"""The clip's first one, one to warm up, and the one that is timed."""

Step = Callable[[Tensor], Tensor]


def decoders(config: VideoVAEConfig, device: torch.device) -> dict[str, WanVideoDecoder]:
    """The published weights' shapes, and as a loader leaves them; both share what they can."""
    at = {"device": device, "dtype": default_dtype(device)}
    plain = WanVideoDecoder(config, **at)
    fill_random(plain)
    tuned = WanVideoDecoder(config, device="meta", dtype=at["dtype"])
    tuned.load_state_dict(plain.state_dict(), assign=True)
    tuned.eval().requires_grad_(False)
    tune(tuned, device)
    return {"plain": plain, "tuned": tuned}


def streams(config: VideoVAEConfig, made: dict[str, WanVideoDecoder]) -> dict[str, Step]:
    """A fresh clip through each decoder: give it latents one by one."""

    def ours(decoder: WanVideoDecoder) -> Step:
        state = None

        def step(latent: Tensor) -> Tensor:
            nonlocal state
            state = state or decoder.initial_state(1, *latent.shape[-2:])
            video, state = decoder.decode(latent, state)
            return video

        return step

    reference = ReferenceDecoder(config, made["plain"].state_dict())
    return {"straightforward": reference.decode} | {k: ours(d) for k, d in made.items()}


def run(step: Step, latent: Tensor, device: torch.device) -> tuple[Tensor, float]:
    """What a decoder makes of a latent, and the seconds that it takes."""
    made: list[Tensor] = []
    took = seconds(lambda: made.append(step(latent)), device)
    return made[0], took


def compare(
    config: VideoVAEConfig, size: tuple[int, int], device: torch.device, rounds: int
) -> dict[str, dict[str, object]]:
    """Seconds of one steady latent, ratio and largest difference, by decoder."""
    made = decoders(config, device)
    generator = torch.Generator(device).manual_seed(1)
    clip = torch.randn(1, LATENTS, 48, *size, device=device, generator=generator)
    *before, timed = clip.split(1, dim=1)
    times: dict[str, list[float]] = {}
    videos: dict[str, Tensor] = {}
    for turn in range(rounds):
        steps = streams(config, made)
        for name in [*steps] if turn % 2 == 0 else [*steps][::-1]:
            for latent in before:
                steps[name](latent)
            videos[name], took = run(steps[name], timed, device)
            times.setdefault(name, []).append(took)
    slow, expected = statistics.median(times["straightforward"]), videos["straightforward"]
    return {
        name: {
            "seconds": taken,
            "ratio": slow / statistics.median(taken),
            "difference": float((videos[name] - expected).abs().max()),
        }
        for name, taken in times.items()
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256, help="channels of the last level")
    parser.add_argument("--latents", type=parse_size, default=(4, 6), help="height x width")
    parser.add_argument("--device", type=parse_device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    config = VideoVAEConfig(decoder_dim=given.width)
    rows = compare(config, given.latents, given.device, given.rounds)
    head = ("decoder", "seconds per steady latent", "ratio", "largest difference")
    cells = [
        (name, spread(row["seconds"]), f"{row['ratio']:.2f}", f"{row['difference']:.1e}")
        for name, row in rows.items()
    ]
    print(table(head, cells))
    height, width = (16 * side for side in given.latents)
    facts = machine(given.device) | {"width": given.width, "picture": f"{height}x{width}"}
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    report({"machine": facts, "rows": rows}, given.json)
    return rows


if __name__ == "__main__":
    main()
