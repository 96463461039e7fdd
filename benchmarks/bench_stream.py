"""A whole stream, from the prompt to frames in host memory: the row of BENCHMARKS.md.

    python -m benchmarks.bench_stream [--size tiny|full | --models FOLDER] [--device cuda:0]
        [--decode-device cuda:1] [--split sequence --device cuda:0,cuda:1] [--json FILE]

Random weights, never zeros, unless there are real ones. Two clips warm up outside the clock; then
come whole clips, then prompts of different length up to the end of their first block. With
`--profile` one more clip runs under the profiler: kernels, busy share, where the host waits.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import MILLI, machine, percentile, report, table
from benchmarks.parity import parity, shown
from benchmarks.stream_engine import opened
from benchmarks.stream_probe import Clip, Watched, between, gpus_of, make
from hallo_live_core import Placement, Request
from hallo_live_core.cli.loading import add_model_options, parse_size, placement
from hallo_live_core.cli.profile import decoder, profile
from hallo_live_core.models.dit.kernels import AUTO, Abilities

SENTENCE = "A woman with short silver hair looks into the camera in a bright studio and smiles. "
SPEECH = "She says, <S>Welcome to our channel, I am glad that you are here.<E> "
SOUND = "<AUDCAP>Clear female voice, soft room tone.<ENDAUDCAP>"
MOST_SENTENCES = 20

SIZES = {"full": (512, 992), "tiny": (128, 256)}
"""Pixels, height and width."""

WARM_UP = 2
GIGA = 1e9
MEGA = 1e6
STEADY_FRAMES, BLOCK_LATENTS = 24, 6
"""Frames and latents of a block after the first."""


def prompt(number: int) -> str:
    return SENTENCE * (1 + number % MOST_SENTENCES) + SPEECH + SOUND


def clips_of(watched: Watched, request: Request, count: int) -> list[Clip]:
    return [make(watched, replace(request, seed=seed)) for seed in range(count)]


def delays_of(watched: Watched, request: Request, count: int) -> list[Clip]:
    requests = [replace(request, prompt=prompt(number), seed=number) for number in range(count)]
    return [make(watched, r, only_first_block=True) for r in requests]


# -- from clips to numbers ------------------------------------------------------------------------


def parts_of(clips: list[Clip]) -> dict[str, float]:
    """Milliseconds of every part, medians over clips."""
    blocks = [clip.probe.block_seconds() for clip in clips]
    latents = [[between(*pair) for pair in clip.probe.latents] for clip in clips]
    sounds = [sum(between(*pair) for pair in clip.probe.sounds) for clip in clips]
    texts = [between(*clip.probe.texts[0]) for clip in clips]

    def middle(values: list[float]) -> float:
        return round(statistics.median(values) * MILLI, 2)

    return {
        "dit_first_block": middle([b[0] for b in blocks]),
        "dit_mean_block": middle([statistics.mean(b) for b in blocks]),
        "dit_last_block": middle([b[-1] for b in blocks]),
        "vae_first_latent": middle([one[0] for one in latents]),
        "vae_steady_latent": middle([statistics.median(one[1:]) for one in latents]),
        "sound_per_block": middle([s / len(b) for s, b in zip(sounds, blocks, strict=True)]),
        "text": middle(texts),
    }


def passes_of(clips: list[Clip]) -> list[list[float]]:
    """Milliseconds of every pass of every block, the context pass last; medians over clips."""
    blocks: dict[int, list[float]] = {}
    for passes in zip(*(clip.probe.passes for clip in clips), strict=True):
        took = statistics.median(between(first, second) for _, first, second in passes)
        blocks.setdefault(passes[0][0], []).append(round(took * MILLI, 2))
    return list(blocks.values())


def speed_of(clips: list[Clip], delays: list[Clip], beside: bool) -> dict[str, Any]:
    """Frames per second, waits and smoothness; beside: decoders have a device to themselves."""
    parts = parts_of(clips)
    decode = BLOCK_LATENTS * parts["vae_steady_latent"] + parts["sound_per_block"]
    block = (max if beside else lambda *x: sum(x))(parts["dit_last_block"], decode)
    late = [clip.lateness() for clip in clips]
    wall = statistics.median(clip.last_frame for clip in clips)
    first = [clip.first_frame for clip in delays]
    used = statistics.median(busy_seconds(clip) for clip in clips)
    return {
        "fps_hand_out": round(statistics.median(c.hand_out_fps for c in clips), 3),
        "fps_hand_out_spread": [round(f(c.hand_out_fps for c in clips), 3) for f in (min, max)],
        "fps_prompt_to_end": round(statistics.median(c.total_fps for c in clips), 3),
        "fps_endless": round(STEADY_FRAMES / block * MILLI, 3),
        "first_frame_ms_p50": round(percentile(first, 0.5) * MILLI, 1),
        "first_frame_ms_p95": round(percentile(first, 0.95) * MILLI, 1),
        "first_sound_ms_p50": round(percentile([c.first_sound for c in delays], 0.5) * MILLI, 1),
        "block_one_ms_p50": round(percentile([c.first_block for c in delays], 0.5) * MILLI, 1),
        "clip_seconds": round(wall, 3),
        "parts_of_wall": round(used / wall, 3),
        "underruns": sum(value > 0 for one in late for value in one),
        "latest_ms": round(max(max(one) for one in late) * MILLI, 1),
        "frames": clips[0].frames,
    }


def busy_seconds(clip: Clip) -> float:
    """Time of all parts, those beside each other added."""
    probe = clip.probe
    pairs = [*probe.latents, *probe.sounds, *probe.texts]
    return sum(probe.block_seconds()) + sum(between(*pair) for pair in pairs)


# -- the device's own account ---------------------------------------------------------------------


def account(watched: Watched, request: Request) -> dict[str, Any]:
    """Memory, allocations and host waits of one clip; nothing of it without CUDA.

    The opening of a clip, and its first block, may wait for the device; what follows must not.
    """
    devices = gpus_of(watched.on)
    if not devices:
        return {}
    retries = {d: torch.cuda.memory_stats(d).get("num_alloc_retries", 0) for d in devices}
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            watched.waits = lambda: sum("synchroniz" in str(w.message) for w in said)
            clip = make(watched, request)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in said if "synchroniz" in str(w.message)]
    steady = clip.probe.steady_waits()
    watched.waits = int
    return {
        "peak_gb": {
            str(d): [
                round(torch.cuda.max_memory_allocated(d) / GIGA, 2),
                round(torch.cuda.max_memory_reserved(d) / GIGA, 2),
            ]
            for d in devices
        },
        "host_waits": len(waits),
        "host_waits_steady": steady,
        "host_waits_at": places_of(waits),
        "host_waits_steady_at": places_of(waits[len(waits) - steady :]),
        "growth_mb": round(clip.probe.growth() / MEGA, 1),
        "alloc_retries": sum(
            torch.cuda.memory_stats(d).get("num_alloc_retries", 0) - retries[d] for d in devices
        ),
    }


def places_of(waits: list[warnings.WarningMessage]) -> list[str]:
    return sorted({f"{Path(w.filename).name}:{w.lineno}" for w in waits})


def profiled(watched: Watched, request: Request) -> dict[str, Any]:
    """Kernels of one clip, the share of its time in which one ran, and a table of the longest."""
    if not gpus_of(watched.on):
        return {}
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        clip = make(watched, request)
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    print(profile.key_averages().table(sort_by="self_device_time_total", row_limit=20))
    busy = covered([(e.time_range.start, e.time_range.end) for e in kernels])
    return {
        "kernels": len(kernels),
        "kernels_per_pass": round(len(kernels) / max(1, len(clip.probe.passes)), 1),
        "busy_share": round(busy / MEGA / clip.last_frame, 3),
    }


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


# -- the row --------------------------------------------------------------------------------------

HEAD = (
    "date", "commit", "GPU (n)", "host CPU", "torch / cuDNN", "config", "DiT ms b1 / mean / last",
    "VAE ms first / steady latent", "text ms", "FPS hand-out / prompt-to-end",
    "first frame p50 / p95 ms", "block one ms", "underruns", "peak GB alloc / reserved",
    "syncs, growth MB", "parity by block (picture / sound)",
)  # fmt: skip


def row(result: dict[str, Any]) -> tuple[str, ...]:
    facts, parts, speed, used = (result[name] for name in ("machine", "parts", "speed", "device"))
    peaks = used.get("peak_gb", {})
    return (
        facts["date"],
        facts["commit"],
        f"{facts['gpu']} ({len(peaks)})" if "gpu" in facts else "none",
        f"{facts['cpu']}, {facts['threads']} threads, load {facts['load']}",
        f"{facts['torch']} / {facts.get('cudnn', '-')}",
        result["config"],
        f"{parts['dit_first_block']} / {parts['dit_mean_block']} / {parts['dit_last_block']}",
        f"{parts['vae_first_latent']} / {parts['vae_steady_latent']}",
        str(parts["text"]),
        f"{speed['fps_hand_out']} / {speed['fps_prompt_to_end']}",
        f"{speed['first_frame_ms_p50']} / {speed['first_frame_ms_p95']}",
        str(speed["block_one_ms_p50"]),
        f"{speed['underruns']} (latest {speed['latest_ms']} ms)",
        ", ".join(f"{a} / {r}" for a, r in peaks.values()) or "-",
        f"{used['host_waits_steady']}, {used['growth_mb']}" if used else "-",
        shown(result["parity"]),
    )


def attention_of(options: argparse.Namespace, on: Placement) -> str:
    """The kernel that was asked for; behind `auto`, the one that it is here."""
    if options.sage_attention or options.attention != AUTO:
        return "sage" if options.sage_attention else options.attention
    return f"{AUTO} ({Abilities.of(on.transformer).best})"


def config_of(options: argparse.Namespace, on: Placement, request: Request) -> str:
    where = [options.device]
    if options.decode_device:
        where.append(f"decoders on {options.decode_device}")
    if options.split != "off":
        where.append(f"split={options.split}")
    settings = {
        f"attention {attention_of(options, on)}": True,
        f"compile {options.compile}": options.compile != "off",
        "audio beside": options.audio_beside,
        "CUDA graphs": options.cuda_graphs,
        "decoding beside": options.decode_beside,
        **asdict(profile(options)),
    }
    where += [name for name, used in settings.items() if used]
    model = options.size if options.models is None else "published files"
    size = f"{request.height}x{request.width}, {request.seconds:g} s"
    return f"{model}, {size}, {decoder(options)}, {', '.join(where)}"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, models_required=False)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="of random weights")
    parser.add_argument("--pixels", type=parse_size, metavar="HxW", help="default: by --size")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clips", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=20, help="of different length, for waits")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="clips outside the clock")
    parser.add_argument("--profile", action="store_true", help="one more clip, with kernels")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    options = parsed(arguments)
    on = placement(options)
    size = "full" if options.models is not None else options.size
    height, width = options.pixels or SIZES[size]
    request = Request(prompt=prompt(2), seconds=options.seconds, height=height, width=width)
    config = config_of(options, on, request)
    facts = machine(on.transformer)
    with opened(options, on) as engine:
        watched = Watched(engine)
        began = time.perf_counter()
        clips_of(watched, request, options.warm_up)
        warm_up = time.perf_counter() - began
        clips = clips_of(watched, request, options.clips)
        delays = delays_of(watched, request, options.prompts)
        result = {
            "machine": facts,
            "config": config,
            "warm_up_seconds": round(warm_up, 2),
            "parts": parts_of(clips),
            "passes_ms": passes_of(clips),
            "speed": speed_of(clips, delays, on.decoder not in (on.transformer, *on.sharers)),
            "device": account(watched, request),
            "profile": profiled(watched, request) if options.profile else {},
            "parity": parity(engine, request),
        }
    print(table(HEAD, [row(result)]))
    for group in ("parts", "speed", "device", "profile"):
        for name, value in result[group].items():
            print(f"{group}.{name}: {value}")
    print(
        f"warm-up: {options.warm_up} clips, {warm_up:.1f} s; {options.clips} clips of "
        f"{clips[0].frames} frames; {options.prompts} prompts"
    )
    report(result, options.json)
    return result


if __name__ == "__main__":
    main()
