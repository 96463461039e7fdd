"""The `hallo-live` command: make, serve and score clips; memory; weights."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from ..errors import HalloLiveError
from . import budget, files, generate, score, serve
from .exit_codes import EXIT_FAILED, EXIT_INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. What users can cause is one line on stderr."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return EXIT_INTERRUPTED
    except (HalloLiveError, OSError) as error:
        if options.verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each stores the function to call as `run`."""
    parser = argparse.ArgumentParser(
        prog="hallo-live", description="A prompt becomes a talking avatar, block by block."
    )
    parser.add_argument("--verbose", action="store_true", help="log details, show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate.add_parser(commands)
    serve.add_parser(commands)
    score.add_parser(commands)
    budget.add_parser(commands)
    files.add_convert_parser(commands)
    files.add_make_tiny_parser(commands)
    return parser
