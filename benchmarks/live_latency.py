"""How long a chunk takes from the engine's hands to a viewer's, over a real socket.

    python -m benchmarks.live_latency [--blocks 5] [--size 512x992] [--viewers 4]

Frames of moving noise are handed out at real-time pace; every viewer asks for the stream over HTTP
on this machine. Printed: encoding alone, and from chunk to bytes at the viewers, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import torch
from aiohttp import web

from hallo_live_core.cli.loading import parse_size
from hallo_live_core.clock import MediaClock
from hallo_live_core.live.delivery import Delivery, SessionSink
from hallo_live_core.live.sessions import Sessions
from hallo_live_core.media.mp4 import Mp4Writer
from hallo_live_core.serving.live_routes import live_routes
from hallo_live_core.types import MediaChunk

CLOCK = MediaClock()
LATENTS_PER_BLOCK = 6
SAMPLES_PER_BLOCK = 15_360
TARGET_MS = 250


def chunks(blocks: int, height: int, width: int):
    """Chunks as the engine makes them, of a picture that moves as a whole."""
    canvas = torch.rand(3, height // 16 + 8, width // 16 + 8)
    canvas = torch.nn.functional.interpolate(canvas[None], scale_factor=16, mode="bilinear")[0]
    canvas = canvas.mul(255).to(torch.uint8).permute(1, 2, 0)
    frame = sample = 0
    for latent in range(blocks * LATENTS_PER_BLOCK):
        count = CLOCK.frames(latent + 1) - frame
        shifts = [(frame + i) % 128 for i in range(count)]
        frames = torch.stack([canvas[s : s + height, s : s + width] for s in shifts])
        sound = SAMPLES_PER_BLOCK if latent % LATENTS_PER_BLOCK == 0 else 0
        yield MediaChunk(
            block=latent // LATENTS_PER_BLOCK,
            frames=frames,
            samples=torch.rand(sound).sub(0.5),
            first_frame=frame,
            first_sample=sample,
            frame_time=CLOCK.frame_time(frame),
            sample_time=CLOCK.sample_time(sample),
            is_last=latent == blocks * LATENTS_PER_BLOCK - 1,
        )
        frame, sample = frame + count, sample + sound


class Marks:
    """When each chunk was handed over, when it was encoded, and how many bytes that made so far."""

    def __init__(self, sink: SessionSink, session) -> None:
        self._sink, self._session = sink, session
        self.begun: list[float] = []
        self.encoded: list[float] = []
        self.bytes: list[int] = []

    def write(self, chunk: MediaChunk) -> None:
        self._sink.write(chunk)
        self.encoded.append(time.perf_counter())
        self.bytes.append(self._session.broadcast.nbytes)

    def close(self) -> None:
        self._sink.close()


def make_clip(session, marks: Marks, options, kept: Path) -> None:
    height, width = options.size
    prepared = list(chunks(options.blocks, height, width))
    with session.running(), Delivery(marks, Mp4Writer(kept)) as delivery:
        start = time.perf_counter()
        for chunk in prepared:
            wait = start + float(chunk.frame_time) - time.perf_counter()
            time.sleep(max(0.0, wait))
            marks.begun.append(time.perf_counter())
            delivery.write(chunk)


async def watch(url: str) -> list[tuple[int, float]]:
    """(bytes so far, when) of every arrival."""
    seen, total = [], 0
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        async for data in answer.content.iter_any():
            total += len(data)
            seen.append((total, time.perf_counter()))
    return seen


def arrival(seen: list[tuple[int, float]], total: int) -> float:
    return next(when for so_far, when in seen if so_far >= total)


def row(name: str, seconds: list[float]) -> str:
    ms = sorted(1000 * s for s in seconds)
    return (
        f"| {name} | {statistics.median(ms):.0f} | {ms[int(0.95 * (len(ms) - 1))]:.0f} "
        f"| {ms[-1]:.0f} |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--size", type=parse_size, default=(512, 992), metavar="HxW")
    parser.add_argument("--viewers", type=int, default=4)
    options = parser.parse_args()
    sessions = Sessions()
    session = sessions.open()
    marks = Marks(SessionSink(session), session)
    app = web.Application()
    for method, path, handler in live_routes(sessions):
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    place = SimpleNamespace(port=runner.addresses[0][1])
    url = f"http://127.0.0.1:{place.port}/hallolive/stream/{session.id}?from=start"
    viewers = [asyncio.create_task(watch(url)) for _ in range(options.viewers)]
    with tempfile.TemporaryDirectory() as folder:
        await asyncio.to_thread(make_clip, session, marks, options, Path(folder) / "kept.mp4")
    seen = await asyncio.gather(*viewers)
    await runner.cleanup()
    delays = [
        arrival(viewer, total) - begun
        for viewer in seen
        for begun, total in zip(marks.begun, marks.bytes, strict=True)
    ]
    height, width = options.size
    print(
        f"{len(marks.begun)} chunks of {height}x{width} at real-time pace, "
        f"{options.viewers} viewers, {marks.bytes[-1] / 2**20:.1f} MiB.\n"
    )
    print("| milliseconds | median | 95 % | most |\n|---|---|---|---|")
    encoding = [b - a for a, b in zip(marks.begun, marks.encoded, strict=True)]
    print(row("chunk to encoded", encoding))
    print(row("chunk to bytes at a viewer", delays))
    worst = 1000 * max(delays)
    print(f"\nTarget: under {TARGET_MS} ms. {'Met' if worst < TARGET_MS else 'MISSED'}.")


if __name__ == "__main__":
    asyncio.run(main())
