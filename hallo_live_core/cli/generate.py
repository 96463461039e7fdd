"""`hallo-live generate`: one prompt, or a CSV of prompts, becomes MP4 files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import MediaClock
from ..config import HALLO_5B, KNOWN_SIZES, StreamSettings
from ..engine import HalloLive
from ..engine.memory import session_shape
from ..errors import Cancelled, HalloLiveError, MediaError, RequestError
from ..functional.request import check_request
from ..functional.script import Script
from ..live.delivery import Delivery, FileSink, Sink
from ..media.label import label
from ..media.mp4 import Mp4Writer
from ..paths import refuse_unwritable
from ..prompt_table import COLUMN, read_prompt_table
from ..prompts import file_stem
from ..sampling.denoiser import check_window
from ..types import Request
from .exit_codes import EXIT_FAILED, EXIT_INTERRUPTED
from .first_frame import add_image_option, encode_image, read_image
from .live import STANDARD_OUTPUT, add_live_option, check_live, messages, open_live
from .loading import add_model_options, add_size_option, load_engine, placement
from .report import ProgressBar, Stopwatch, table
from .script import add_stream_options, read_script, said_next, stream_settings
from .stopping import StopFlag, stop_on_signal

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

DEFAULT_OUTPUT = Path("out")


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `generate`."""
    defaults = Request()
    parser = commands.add_parser("generate", help="make a clip from a prompt")
    parser.add_argument("prompt", nargs="?", help="who speaks, <S>what they say<E>, how it sounds")
    parser.add_argument(
        "--csv", type=Path, help=f"prompts from column {COLUMN} (CSV, TSV); -o is then a folder"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="length of the clip; 0: until Ctrl-C; default: 5, or that of --script",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=defaults.seed,
        help=f"same seed and settings, same clip; default: {defaults.seed}",
    )
    parser.add_argument(
        "--lookahead",
        type=int,
        default=defaults.lookahead,
        help="audio latents (32 ms each) the picture may hear ahead; default, as published: 0",
    )
    parser.add_argument(
        "--opening",
        type=int,
        default=defaults.opening_latents,
        metavar="LATENTS",
        help="begin with a block of so many video latents (of 6) for an earlier first frame; "
        "the model was not trained so; default: 0, whole blocks only",
    )
    add_size_option(
        parser,
        f"multiples of 32; default: {defaults.height}x{defaults.width}, as trained; known: "
        + ", ".join(f"{h}x{w}" for h, w in KNOWN_SIZES[1:]),
    )
    add_image_option(parser)
    add_model_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, help=f"file.mp4 or folder; default: {DEFAULT_OUTPUT}"
    )
    add_live_option(parser)
    add_stream_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make every clip that was asked for; one that fails does not stop the others."""
    script = None if options.script is None else read_script(options.script, options.prompt)
    requests = _requests(options, script)
    picture = read_image(options)
    on = placement(options)
    clips = [
        Clip(
            request,
            _target(options, request),
            f"{number}/{len(requests)}",
            options.live,
            script,
            listens=options.say,
        )
        for number, request in enumerate(requests, 1)
    ]
    possible = [clip for clip in clips if _succeeds(clip, _check)]
    if not possible:
        return EXIT_FAILED
    if picture is not None:
        latent = encode_image(options, picture, requests[0], on)
        possible = [replace(c, request=replace(c.request, first_frame=latent)) for c in possible]
    engine = load_engine(options, on, possible[0].request)
    made = 0
    with stop_on_signal() as stop:
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
    """One clip to make, where it goes, and its place in the list."""

    request: Request
    target: Path | None
    number: str
    live: str | None
    script: Script | None
    listens: bool


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


def _check(clip: Clip) -> None:
    """Refuse what cannot be made or kept, before anything is loaded."""
    plan = check_request(clip.request)
    shape = session_shape(clip.request, plan, StreamSettings())
    check_window(plan, shape.tokens_per_latent(HALLO_5B))
    if clip.target is not None:
        refuse_unwritable(clip.target, MediaError)
    if clip.live is not None:
        check_live(clip.live)


def _make(engine: HalloLive, clip: Clip, stop: StopFlag) -> None:
    request, has_end = clip.request, clip.request.seconds > 0
    clock = engine.clock_for(request)
    watch = Stopwatch(clock)
    with _sinks(clip, clock) as sinks:
        text = engine.encode(request.prompt)
        watch.text_done()
        try:
            with (
                Delivery(*sinks) as delivery,
                Delivery(watch) as arrivals,
                ProgressBar(clip.number, watch) as progress,
            ):
                chunks = engine.stream(
                    request,
                    text=text,
                    on_progress=progress,
                    should_stop=stop if has_end else None,
                    should_finish=None if has_end else stop,
                    next_said=said_next(request, clip.script, listens=clip.listens),
                )
                for chunk in chunks:
                    delivery.write(chunk)
                    arrivals.write(chunk)
        except Cancelled:
            kept = f"kept {watch.clip_seconds:.2f} s in {clip.target or clip.live}"
            sys.stderr.write(f"stopped; {kept if watch.frames else 'kept nothing'}\n")
            raise
    messages(clip.live).write(f"{clip.target or clip.live}\n{table(watch.rows())}\n")


@contextlib.contextmanager
def _sinks(clip: Clip, clock: MediaClock) -> Iterator[list[Sink]]:
    """What takes the chunks: the finished file, the live stream, or both."""
    request, sinks = clip.request, list[Sink]()
    if clip.target is not None:
        metadata = label(request.prompt, _settings(request))
        sinks.append(Mp4Writer(clip.target, clock=clock, metadata=metadata))
    with contextlib.ExitStack() as stack:
        if clip.live is not None:
            sinks.append(FileSink(stack.enter_context(open_live(clip.live)), clock=clock))
        yield sinks


def _settings(request: Request) -> str:
    return (
        f"seed={request.seed} seconds={request.seconds:g} lookahead={request.lookahead}"
        f" size={request.height}x{request.width}"
        f"{'' if request.first_frame is None else ' first_frame=given'}"
    )


def _requests(options: argparse.Namespace, script: Script | None) -> list[Request]:
    prompt = options.prompt if script is None else str(script.first)
    if (prompt is None) == (options.csv is None):
        raise RequestError(
            "There must be one prompt, or one table of prompts",
            found="neither" if prompt is None else "both",
            fix="give either a PROMPT or --csv FILE",
        )
    length = Request().seconds if script is None else script.seconds
    height, width = options.size
    request = Request(
        seconds=length if options.seconds is None else options.seconds,
        seed=options.seed,
        lookahead=options.lookahead,
        opening_latents=options.opening,
        height=height,
        width=width,
    )
    if options.csv is not None:
        _check_list_output(options)
    request = stream_settings(options, request)
    prompts = [prompt] if options.csv is None else read_prompt_table(options.csv)
    return [replace(request, prompt=prompt) for prompt in prompts]


def _check_list_output(options: argparse.Namespace) -> None:
    if options.live is not None:
        raise RequestError(
            "A live stream holds one clip, not a list of them", fix="give either --csv or --live"
        )
    if options.say or options.seconds == 0:
        raise RequestError(
            "--say and --seconds 0 need a single prompt",
            fix="give a PROMPT instead of --csv",
        )
    if options.output is not None and options.output.suffix:
        raise RequestError(
            "With --csv every prompt gets a file of its own",
            found=f"-o {options.output}",
            fix="name a folder",
        )


def _target(options: argparse.Namespace, request: Request) -> Path | None:
    """The finished file; None if only the live stream is wanted."""
    if options.output is None and options.live is not None:
        return None
    output = options.output or DEFAULT_OUTPUT
    if output.suffix.lower() == ".mp4":
        return output
    if str(output) == STANDARD_OUTPUT:
        raise RequestError("A finished clip goes to a file", found="-o -", fix="use --live -")
    if output.suffix and not output.is_dir():
        raise RequestError(
            "Clips are MP4 files", found=f"-o {output}", fix="name a .mp4 file, or a folder"
        )
    stem = file_stem(request.prompt, height=request.height, width=request.width, seed=request.seed)
    return output / f"{stem}.mp4"
