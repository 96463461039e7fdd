"""The application behind `hallo-live serve`: one page, a JSON API, and the live routes."""

from __future__ import annotations

import asyncio
import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HalloLiveError, RequestError, shortened
from ..live.sessions import TooManySessionsError
from ..types import Request
from .guard import why_refused
from .live_routes import (
    MAX_PROMPT,
    SAFE_HEADERS,
    SESSION,
    Handler,
    json_answer,
    live_routes,
    not_json,
    refused,
    require_aiohttp,
)
from .studio import Studio

if TYPE_CHECKING:
    from aiohttp import web

MAX_BODY = 64 * 2**10
"""Bytes of a request's body."""

MAX_SIDE = 2048
"""Pixels; beyond, memory and patience end."""

FIELDS: Mapping[str, tuple[type, ...]] = {
    "prompt": (str,),
    "seconds": (int, float),
    "seed": (int,),
    "lookahead": (int,),
    "height": (int,),
    "width": (int,),
    "window_blocks": (int,),
    "sink_blocks": (int,),
    "opening_latents": (int,),
}
"""What may be asked for, and as which JSON type."""

PAGE = Path(__file__).parent / "page"
PLAYER_IN_CHECKOUT = Path(__file__).parents[2] / "web" / "player"
PLAYER_INSTALLED = Path(sysconfig.get_path("data")) / "share" / "hallo-live" / "player"

PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.mjs": ("page.mjs", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/player/player.mjs": ("player.mjs", "text/javascript"),
    "/player/feed.mjs": ("feed.mjs", "text/javascript"),
    "/player/player.css": ("player.css", "text/css"),
}

PAGE_HEADERS = {
    **SAFE_HEADERS,
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def build_app(
    studio: Studio, *, loopback: bool, defaults: Request | None = None
) -> web.Application:
    """The routes of a running studio.

    loopback: answer to this machine's own names only. defaults: what the page starts with.

    Raises:
        HalloLiveError: aiohttp or the player's files are missing.
    """
    web = require_aiohttp()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        reason = why_refused(headers.get("Host"), headers.get("Origin"), loopback=loopback)
        return await handler(request) if reason is None else refused(403, reason)

    app = web.Application(middlewares=[guard], client_max_size=MAX_BODY)
    api = _Api(studio, defaults or Request())
    app.router.add_post("/api/generate", api.generate)
    app.router.add_get("/api/settings", api.settings)
    app.router.add_get(SESSION + "/file", api.file, allow_head=False)
    for method, path, handler in live_routes(studio.sessions):
        app.router.add_route(method, path, handler)
    for path in PAGE_FILES:
        app.router.add_get(path, _page)
    player_folder()

    async def end_streams(_: web.Application) -> None:
        await asyncio.to_thread(studio.close)

    app.on_shutdown.append(end_streams)
    return app


class _Api:
    def __init__(self, studio: Studio, defaults: Request) -> None:
        self._studio, self._defaults = studio, defaults

    async def generate(self, request: web.Request) -> web.Response:
        """{"prompt": ..., "seconds": ...} -> {"id", "stream", "file"}."""
        if (refusal := not_json(request)) is not None:
            return refusal
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):  # no JSON, no text, or numbers and nesting without end
            return refused(400, "the body is not JSON")
        try:
            wanted = request_from_json(body, self._defaults)
            session = await asyncio.to_thread(self._studio.submit, wanted)
        except TooManySessionsError as error:
            return refused(503, str(error))
        except HalloLiveError as error:
            return refused(400, str(error))
        answer = {
            "id": session.id,
            "stream": f"/hallolive/stream/{session.id}",
            "file": f"/hallolive/sessions/{session.id}/file",
        }
        return json_answer(answer, status=202)

    async def settings(self, _: web.Request) -> web.Response:
        """What the page starts with."""
        return json_answer({name: getattr(self._defaults, name) for name in FIELDS})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """The finished clip."""
        path = self._studio.file(request.match_info["id"])
        if path is None:
            return refused(404, "no such clip")
        headers = {**SAFE_HEADERS, "Content-Type": "video/mp4"}
        return require_aiohttp().FileResponse(path, headers=headers)


def request_from_json(body: Any, defaults: Request) -> Request:  # noqa: ANN401 - any JSON
    """What a client wants, or why that is not possible.

    Raises:
        RequestError: a field is unknown, of another type, or too large.
    """
    if not isinstance(body, dict):
        raise RequestError("The body must be a JSON object", found=type(body).__name__)
    for name, value in body.items():
        known = FIELDS.get(name)
        if known is None:
            raise RequestError("Unknown field", found=shortened(repr(name)), fix=", ".join(FIELDS))
        if not isinstance(value, known) or isinstance(value, bool):
            wanted = " or ".join(kind.__name__ for kind in known)
            raise RequestError(f"{name} must be {wanted}", found=type(value).__name__)
    values = {name: getattr(defaults, name) for name in FIELDS} | body
    if len(values["prompt"]) > MAX_PROMPT:
        raise RequestError(
            f"A prompt has at most {MAX_PROMPT} characters", found=len(values["prompt"])
        )
    if max(values["height"], values["width"]) > MAX_SIDE:
        raise RequestError(
            f"Height and width are at most {MAX_SIDE}",
            found=f"{values['height']}x{values['width']}",
        )
    return Request(**values)


def player_folder() -> Path:
    """Where the player's script lies: in a checkout beside the package, else where pip puts data.

    Raises:
        HalloLiveError: in neither.
    """
    for folder in (PLAYER_IN_CHECKOUT, PLAYER_INSTALLED):
        if (folder / "player.mjs").is_file():
            return folder
    raise HalloLiveError(
        "The files of the player are missing",
        found=f"neither {PLAYER_IN_CHECKOUT} nor {PLAYER_INSTALLED} has them",
        fix='run from a checkout of the repository, or pip install "hallo-live[serve]" anew',
    )


async def _page(request: web.Request) -> web.StreamResponse:
    name, kind = PAGE_FILES[request.path]
    folder = player_folder() if request.path.startswith("/player/") else PAGE
    headers = {**PAGE_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
    return require_aiohttp().FileResponse(folder / name, headers=headers)
