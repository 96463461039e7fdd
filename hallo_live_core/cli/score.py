"""`hallo-live score`: what the judges say of a clip, or of every clip in a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tqdm import tqdm

from ..devices import Placement
from ..errors import Cancelled, HalloLiveError, MediaError, RequestError
from ..judging.panel import JUDGES, check_names, load_judges, score_clip
from ..judging.report import Judged, as_json, judged, write_csv, write_html
from ..judging.tables import score_table, take_table
from ..media.clip_reader import read_clip, read_prompt
from ..media.encoders import jpeg
from ..rewards.base import JudgeProgress, Reward
from ..rewards.sync.judge import Faces
from .exit_codes import EXIT_FAILED, EXIT_INTERRUPTED
from .stopping import StopFlag, stop_on_signal

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
CSV_NAME, HTML_NAME = "scores.csv", "scores.html"


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `score`."""
    parser = commands.add_parser("score", help="ask the judges about a clip, or a folder of clips")
    parser.add_argument("clip", type=Path, help="a video file, or a folder of them")
    parser.add_argument(
        "--prompt",
        help="what the clip was to show; default: what `hallo-live generate` stored in the file",
    )
    parser.add_argument("--models", type=Path, required=True, help="folder with the weight files")
    parser.add_argument(
        "--judges",
        type=lambda text: tuple(text.split(",")),
        default=JUDGES,
        metavar=",".join(JUDGES),
        help="which judges to ask; the others' files are not needed",
    )
    parser.add_argument(
        "--faces",
        choices=get_args(Faces),
        default=get_args(Faces)[0],
        help="with several faces, the mean of all or the best of them counts for lip sync",
    )
    parser.add_argument(
        "--device", default="auto", help="of the judges: auto (default), cpu, cuda:0 ..."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help=f"where {CSV_NAME} and {HTML_NAME} of a folder go; default: into it",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score one clip or all of a folder; a clip that fails does not stop the others."""
    check_names(options.judges)
    files = _files(options.clip)
    device = Placement.on(options.device).transformer
    judges = load_judges((options.models,), options.judges, device=device, faces=options.faces)
    done: list[Judged] = []
    with stop_on_signal() as stop:
        try:
            for number, path in enumerate(files, 1):
                done.append(_score(path, judges, options, f"{number}/{len(files)}", stop))
        except Cancelled:
            sys.stderr.write(f"stopped after {len(done)} of {len(files)} clips\n")
    if options.clip.is_dir() and done:
        _write_reports(options.output or options.clip, done)
    _show(done, options)
    if stop.raised:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(entry.error for entry in done) else 0


class JudgeBar:
    """A tqdm bar that begins anew with every stage of every judge."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar = tqdm(desc=title, leave=False)

    def __enter__(self) -> JudgeBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, progress: JudgeProgress) -> None:
        """Show where the judge stands."""
        self._bar.set_description(f"{self._title} {progress.judge}: {progress.stage}", False)
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)


def _score(
    path: Path, judges: Sequence[Reward], options: argparse.Namespace, number: str, stop: StopFlag
) -> Judged:
    """What the judges say of a file, or why it could not be judged."""
    try:
        prompt = read_prompt(path) if options.prompt is None else options.prompt
        clip = read_clip(path, prompt=prompt)
        with JudgeBar(number) as bar:
            scores = score_clip(judges, clip, on_progress=bar, should_stop=stop)
    except Cancelled:
        raise
    except HalloLiveError as error:
        sys.stderr.write(f"error: {path.name}: {error}\n")
        return Judged(path, error=str(error))
    return judged(path, clip, scores, jpeg)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise RequestError(
            f"There are no clips in {path}",
            found=f"no file that ends in {', '.join(sorted(VIDEO_SUFFIXES))}",
            fix="name a folder with video files, or one file",
        )
    return files


def _write_reports(folder: Path, done: Sequence[Judged]) -> None:
    """The table for programs and the page for people.

    Raises:
        MediaError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / CSV_NAME, done)
        write_html(folder / HTML_NAME, done)
    except OSError as error:
        raise MediaError(
            f"Cannot write the report into {folder}", found=error, fix="choose a folder with -o"
        ) from error
    sys.stderr.write(f"wrote {folder / CSV_NAME} and {folder / HTML_NAME}\n")


def _show(done: Sequence[Judged], options: argparse.Namespace) -> None:
    told = [entry for entry in done if not entry.error]
    if options.json:
        entries = as_json(done)
        content = entries if options.clip.is_dir() else next(iter(entries), None)
        sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
    elif options.clip.is_dir():
        if told:
            sys.stdout.write(take_table([entry.take for entry in told]) + "\n")
    else:
        for entry in told:
            sys.stdout.write(f"{entry.path}\n{score_table(entry.scores)}\n")
