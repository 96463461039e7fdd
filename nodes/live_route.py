"""What viewers open in ComfyUI: `live_routes` of the core, on the host's web server."""

from __future__ import annotations

from typing import Any

from ..hallo_live_core import Sessions, live_routes

SESSIONS = Sessions()
"""The streams of this server: the stream sampler opens them, viewers find them by their id."""


def register(server: Any) -> None:
    """Add the live routes to the host's; safe to repeat."""
    known = {getattr(route, "path", None) for route in server.routes}
    for method, path, handler in live_routes(SESSIONS):
        if path not in known:
            server.routes.route(method, path)(handler)
