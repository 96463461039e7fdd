"""`generate --live`: the clip as a stream that plays while it is made, in a pipe or a file."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from ..errors import MediaError, RequestError

STANDARD_OUTPUT = "-"


def add_live_option(parser: argparse.ArgumentParser) -> None:
    """Register `--live`."""
    parser.add_argument(
        "--live",
        metavar="FILE",
        help="also write a fragmented MP4 while the clip is made, that players can open at once; "
        "- is standard output (messages then go to standard error). Without -o, nothing else "
        "is written",
    )


def messages(target: str | None) -> TextIO:
    """Where messages go: standard output, unless the stream takes it."""
    return sys.stderr if target == STANDARD_OUTPUT else sys.stdout


def check_live(target: str) -> None:
    """Refuse what the stream cannot go to, before anything is loaded.

    Raises:
        RequestError: standard output is a terminal.
        MediaError: the file cannot be written.
    """
    if target != STANDARD_OUTPUT:
        if not Path(target).parent.is_dir() or Path(target).is_dir():
            raise MediaError(f"Cannot write {target}", fix="name a file in a folder that exists")
    elif sys.stdout.isatty():
        raise RequestError(
            "A live stream cannot be shown in a terminal",
            found="standard output is a terminal",
            fix="pipe it into a player, for example: ... --live - | ffplay -",
        )


@contextlib.contextmanager
def open_live(target: str) -> Iterator[BinaryIO]:
    """The file or pipe that the stream goes to, unbuffered.

    Raises:
        MediaError: the file cannot be written.
    """
    if target == STANDARD_OUTPUT:
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as pipe:
            yield pipe
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(Path(target).open("wb", buffering=0))
        except OSError as error:
            raise MediaError(
                f"Cannot write {target}", found=error, fix="name a file in a folder that exists"
            ) from error
        yield file
