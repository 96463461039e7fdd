"""`hallo-live serve`: one page to type a prompt and watch, and the same as streams and JSON."""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HalloLiveError
from ..functional.request import plan_request
from ..serving.app import build_app
from ..serving.guard import is_loopback
from ..serving.live_routes import require_aiohttp
from ..serving.studio import Studio
from ..types import Request
from .loading import add_model_options, add_size_option, load_engine, placement

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8190
LAST_PORT = 65_535
SHUTDOWN_SECONDS = 5.0


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `serve`."""
    parser = commands.add_parser("serve", help="serve a page that plays clips while they are made")
    add_model_options(parser)
    parser.add_argument(
        "--host", default=DEFAULT_HOST, help=f"address to listen on; default: {DEFAULT_HOST}"
    )
    parser.add_argument("--port", type=port, default=DEFAULT_PORT, help=f"default: {DEFAULT_PORT}")
    add_size_option(parser, "size that the page starts with")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load the model, serve until Ctrl-C."""
    web = require_aiohttp()
    on = placement(options)
    height, width = options.size
    request = Request(height=height, width=width)
    plan_request(request)
    loopback = is_loopback(options.host)
    if not loopback:
        sys.stderr.write("Note: there is no password; whoever reaches this port can use it.\n")
    with listening(options.host, options.port) as listener:
        sys.stderr.write("Loading the model ...\n")
        engine = load_engine(options, on, request)
        with (
            tempfile.TemporaryDirectory(prefix="hallo-live-", ignore_cleanup_errors=True) as folder,
            Studio(engine, Path(folder)) as studio,
        ):
            app = build_app(studio, loopback=loopback, defaults=request)
            address = f"[{options.host}]" if ":" in options.host else options.host
            sys.stdout.write(f"Open http://{address}:{options.port} (Ctrl-C stops)\n")
            sys.stdout.flush()
            web.run_app(
                app,
                sock=listener,
                print=None,
                access_log=None,
                shutdown_timeout=SHUTDOWN_SECONDS,
            )
    return 0


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; taken before the model is read, and whoever comes early waits.

    Raises:
        HalloLiveError: another program has the port, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise HalloLiveError(
            f"Cannot listen on {host}:{port}", found=error, fix="choose another --port or --host"
        ) from error


def port(text: str) -> int:
    """A port number."""
    number = int(text)
    if not 1 <= number <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text} is no port; use 1 to {LAST_PORT}")
    return number
