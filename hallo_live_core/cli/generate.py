"""`hallo-live generate`: one prompt, or a CSV of prompts, becomes MP4 files."""

from __future__ import annotations

import argparse
import contextlib
import csv
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..devices import Placement
from ..engine import DECODERS, HalloLive
from ..errors import Cancelled, HalloLiveError, RequestError
from ..functional.request import check_request
from ..media.mp4 import Mp4Writer
from ..prompts import file_stem
from ..types import Request
from .report import ProgressBar, Stopwatch, table

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

PROMPT_COLUMN = "text_prompt"
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `generate`."""
    defaults = Request()
    parser = commands.add_parser("generate", help="make a clip from a prompt")
    parser.add_argument("prompt", nargs="?", help="who speaks, <S>what they say<E>, how it sounds")
    parser.add_argument(
        "--csv", type=Path, help=f"prompts from column {PROMPT_COLUMN}; -o is then a folder"
    )
    parser.add_argument(
        "--seconds", type=float, default=defaults.seconds, help="length of the clip"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--lookahead",
        type=int,
        default=defaults.lookahead,
        help="audio latents (32 ms each) the picture may hear ahead; as published: 0",
    )
    parser.add_argument(
        "--size", type=parse_size, default=(defaults.height, defaults.width), metavar="HxW"
    )
    parser.add_argument("--models", type=Path, required=True, help="folder with the weight files")
    parser.add_argument("--decoder", choices=DECODERS, default=DECODERS[0], help="video decoder")
    parser.add_argument(
        "--device", default="auto", help="of the transformer: auto, cpu, cuda:0 ..."
    )
    parser.add_argument("--decode-device", help="of both decoders; default: as --device")
    parser.add_argument("--text-device", help="of the text encoder; default: as --device")
    parser.add_argument(
        "--raw-weights", action="store_true", help="not the EMA, if a file has both"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out"), help="file.mp4 or folder")
    parser.set_defaults(run=run)


def parse_size(text: str) -> tuple[int, int]:
    """`512x992` -> (height, width) in pixels."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x992")
    return int(match[1]), int(match[2])


def run(options: argparse.Namespace) -> int:
    """Make every clip that was asked for; one that fails does not stop the others."""
    requests = _requests(options)
    placement = Placement.on(
        options.device, decoder=options.decode_device, text_encoder=options.text_device
    )
    clips = [
        Clip(request, _target(options.output, request), f"{number}/{len(requests)}")
        for number, request in enumerate(requests, 1)
    ]
    possible = [clip for clip in clips if _succeeds(clip, lambda c: check_request(c.request))]
    if not possible:
        return EXIT_FAILED
    engine = HalloLive.load(
        options.models, placement=placement, decoder=options.decoder, ema=not options.raw_weights
    )
    made = 0
    with _stop_on_signal() as stop:
        for clip in possible:
            try:
                made += _succeeds(clip, lambda c: _make(engine, c, stop))
            except Cancelled:
                return EXIT_INTERRUPTED
    if len(requests) > 1:
        sys.stdout.write(f"{made} of {len(requests)} clips made\n")
    return 0 if made == len(requests) else EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip to make, the file it goes to, and its place in the list."""

    request: Request
    target: Path
    number: str


class StopFlag:
    """Becomes true when the user asks to stop."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.raised


def _succeeds(clip: Clip, action: Callable[[Clip], object]) -> bool:
    """Whether an action goes well; if not, the user is told why, and of which clip."""
    try:
        action(clip)
    except Cancelled:
        raise
    except HalloLiveError as error:
        sys.stderr.write(f"error: clip {clip.number}: {error}\n")
        return False
    return True


def _make(engine: HalloLive, clip: Clip, stop: StopFlag) -> None:
    request, target = clip.request, clip.target
    watch = Stopwatch(engine.clock)
    metadata = {"title": request.prompt, "comment": f"Hallo-Live {_settings(request)}"}
    text = engine.encode(request.prompt)
    watch.text_done()
    with (
        Mp4Writer(target, clock=engine.clock, metadata=metadata) as writer,
        ProgressBar(clip.number, watch) as progress,
    ):
        chunks = engine.stream(request, text=text, on_progress=progress, should_stop=stop)
        try:
            for chunk in watch.watch(chunks):
                writer.write(chunk)
        except Cancelled:
            kept = (
                f"kept {watch.clip_seconds:.2f} s in {target}" if watch.frames else "kept nothing"
            )
            sys.stderr.write(f"stopped; {kept}\n")
            raise
    sys.stdout.write(f"{target}\n{table(watch.rows())}\n")


def _settings(request: Request) -> str:
    return (
        f"seed={request.seed} seconds={request.seconds:g} lookahead={request.lookahead}"
        f" size={request.height}x{request.width}"
    )


def _requests(options: argparse.Namespace) -> list[Request]:
    if (options.prompt is None) == (options.csv is None):
        raise RequestError(
            "Nothing to say, or two sources of it", fix="give either a PROMPT or --csv FILE"
        )
    height, width = options.size
    request = Request(
        seconds=options.seconds,
        seed=options.seed,
        lookahead=options.lookahead,
        height=height,
        width=width,
    )
    if options.csv is not None and options.output.suffix:
        raise RequestError(
            "With --csv every prompt gets a file of its own",
            found=f"-o {options.output}",
            fix="name a folder",
        )
    prompts = [options.prompt] if options.csv is None else read_prompts(options.csv)
    return [replace(request, prompt=prompt) for prompt in prompts]


def read_prompts(file: Path) -> list[str]:
    """The prompts of a CSV file with a column `text_prompt`; empty cells stay and fail later."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = reader.fieldnames or []
            if PROMPT_COLUMN not in columns:
                raise RequestError(
                    f"{file} has no column {PROMPT_COLUMN}",
                    found=", ".join(columns) or "no columns",
                    fix=f"name the column with the prompts {PROMPT_COLUMN}",
                )
            return [row[PROMPT_COLUMN] or "" for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"Cannot read prompts from {file}", found=error) from error


def _target(output: Path, request: Request) -> Path:
    if output.suffix.lower() == ".mp4":
        return output
    stem = file_stem(request.prompt, height=request.height, width=request.width, seed=request.seed)
    return output / f"{stem}.mp4"


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[StopFlag]:
    """The first Ctrl-C (or SIGTERM) stops after the pass in hand, a second one at once."""
    stop = StopFlag()

    previous = {int(n): signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        stop.raised = True
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
