"""The options of streams that go on: their window, and what is said when."""

from __future__ import annotations

import argparse
import csv
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import HalloLiveError, RequestError, shortened
from ..functional.script import NextSaid, Script, ScriptLine
from ..live.lines import Lines
from ..prompts import respeak
from ..types import Request

COLUMNS = ("prompt", "speech", "seconds")
"""Of a script; `prompt` or `speech` may be missing, and so may the seconds of the last line."""

UNTRAINED = (
    "The published model was trained on clips of five seconds. Beyond, words and lips fall apart, "
    "with any window; see the README."
)


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """Register the options that `stream_settings` and `said_next` read."""
    defaults = Request()
    group = parser.add_argument_group("long streams", UNTRAINED)
    group.add_argument(
        "--window",
        type=int,
        default=defaults.window_blocks,
        metavar="BLOCKS",
        help="remember only so many blocks of a second; 0: all of them (with --seconds 0: 5)",
    )
    group.add_argument(
        "--sink",
        type=int,
        default=defaults.sink_blocks,
        metavar="BLOCKS",
        help="of them, the first blocks of the stream that always stay; default: 1",
    )
    group.add_argument(
        "--constant-rate",
        action="store_true",
        help="24 fps to the end: picture and sound drift by 40 ms a second once the window moves",
    )
    group.add_argument(
        "--script",
        type=Path,
        metavar="FILE.csv",
        help="what is said when: columns prompt and/or speech, and seconds",
    )
    group.add_argument(
        "--say",
        action="store_true",
        help="say every line that comes on standard input while the stream runs",
    )
    group.add_argument(
        "--look-back",
        action="store_true",
        help="when the prompt changes, run through what is remembered again under the new one",
    )


def stream_settings(options: argparse.Namespace, request: Request) -> Request:
    """The request with its window."""
    return replace(
        request,
        window_blocks=options.window,
        sink_blocks=options.sink,
        constant_rate=options.constant_rate,
        looks_back=options.look_back,
    )


def read_script(file: Path, scene: str | None = None) -> Script:
    """The lines of a CSV file; every mistake is told with its line.

    `speech` is said in the scene of its own `prompt`, else of the last one, first of all `scene`.

    Raises:
        RequestError: the file or one of its lines cannot be used.
        PromptError: a prompt's tags do not match.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as source:
            reader = csv.DictReader(source, strict=True)
            _check_columns(file, reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(
            f"Cannot read the script {file}", found=error, fix="name a CSV file in UTF-8"
        ) from error
    lines: list[ScriptLine] = []
    for number, row in rows:
        try:
            scene = _prompt(row, scene)
            lines.append(ScriptLine(scene, _seconds(row)))
        except HalloLiveError as error:
            raise RequestError(f"{file}, line {number}: {error}") from error
    try:
        return Script(lines)
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from error


def said_next(request: Request, script: Script | None, *, listens: bool) -> NextSaid | None:
    """What changes the prompt of a stream: a script, standard input, both, or nothing."""
    if not listens:
        return script
    lines = Lines(request.prompt, script)
    thread = threading.Thread(target=listen, args=(sys.stdin or (), lines), daemon=True)
    thread.start()
    return lines


def listen(source: Iterable[str], lines: Lines) -> None:
    """Say what comes, line by line; what cannot be said is told and left out."""
    for words in source:
        if not words.strip():
            continue
        try:
            lines.say(words.strip())
        except HalloLiveError as error:
            sys.stderr.write(f"not said: {error}\n")


def _check_columns(file: Path, columns: Iterable[str]) -> None:
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown or not {"prompt", "speech"} & set(columns):
        raise RequestError(
            f"{file} is not a script",
            found=", ".join(columns) or "no columns",
            fix=f"use the columns {', '.join(COLUMNS)}; prompt or speech may be missing",
        )


def _prompt(row: Mapping[str | None, str | None], scene: str | None) -> str:
    if None in row or None in row.values():
        raise RequestError(
            "The line has not as many cells as there are columns",
            fix="put words that hold commas between double quotes",
        )
    prompt, speech = ((row.get(name) or "").strip() for name in ("prompt", "speech"))
    base = prompt or scene
    if not prompt and not speech:
        raise RequestError(
            "The line has neither prompt nor speech", fix="fill one of them, or remove the line"
        )
    if base is None:
        raise RequestError(
            "There is no scene for this line",
            fix="give a PROMPT in the command, or a prompt in the first line",
        )
    return respeak(base, speech) if speech else base


def _seconds(row: Mapping[str | None, str | None]) -> float | None:
    text = (row.get("seconds") or "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise RequestError(
            "The seconds are not a number", found=shortened(text), fix="write them as 4 or 2.5"
        ) from None
