"""The live routes, the same in every server: find a stream, watch it, finish it, cancel it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import HalloLiveError, RequestError
from ..live.broadcast import Reader, TooManyReadersError
from ..live.lines import TooManyLinesError
from ..live.pacing import STALL_SECONDS
from ..live.sessions import LiveSession, NotListeningError, Sessions

if TYPE_CHECKING:
    from aiohttp import web

Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]

SESSIONS = "/hallolive/sessions"
SESSION = SESSIONS + "/{id}"
STREAM = "/hallolive/stream/{id}"

SAFE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

MAX_PROMPT = 4000
"""Characters of a prompt; the text encoder reads 512 tokens."""

MAX_SAY_BYTES = 32 * 2**10
"""Of a body that says something: `MAX_PROMPT` characters, however they are escaped."""

LOOK_UP_SECONDS = 1.0
"""How often a viewer who waits is looked at, in case it has left."""


def live_routes(sessions: Sessions) -> list[tuple[str, str, Handler]]:
    """(method, path, handler) of every route, for an aiohttp router or route table.

    Ids that are unknown or not ids are 404. What changes something is POST with a JSON content
    type, which a page of another origin cannot send unasked.
    """
    routes = _LiveRoutes(sessions)
    return [
        ("GET", SESSIONS, routes.list),
        ("GET", SESSION, routes.status),
        ("GET", STREAM, routes.stream),
        ("POST", SESSION + "/finish", routes.finish),
        ("POST", SESSION + "/cancel", routes.cancel),
        ("POST", SESSION + "/say", routes.say),
    ]


def require_aiohttp() -> ModuleType:
    """aiohttp's `web`, or an error that says how to get it.

    Raises:
        HalloLiveError: it is not installed.
    """
    try:
        from aiohttp import web
    except ImportError as error:
        raise HalloLiveError(
            "aiohttp is needed to serve", fix='pip install "hallo-live[serve]"'
        ) from error
    return web


def json_answer(content: Any, *, status: int = 200) -> web.Response:  # noqa: ANN401 - any JSON
    """An answer that nobody caches or takes for something else."""
    return require_aiohttp().json_response(content, status=status, headers=SAFE_HEADERS)


def refused(status: int, reason: str) -> web.Response:
    """An error as JSON: {"error": reason}."""
    return json_answer({"error": reason}, status=status)


def not_json(request: web.Request) -> web.Response | None:
    """A refusal of a body that is not declared as JSON, as a page of another origin may send it."""
    if request.content_type == "application/json":
        return None
    return refused(415, "send Content-Type: application/json")


class _LiveRoutes:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def list(self, _: web.Request) -> web.Response:
        statuses = self._sessions.statuses()
        return json_answer({"sessions": [status.as_json() for status in statuses]})

    async def status(self, request: web.Request) -> web.Response:
        session = self._find(request)
        return refused(404, "no such stream") if session is None else json_answer(_told(session))

    async def finish(self, request: web.Request) -> web.Response:
        return self._switch(request, LiveSession.finish)

    async def cancel(self, request: web.Request) -> web.Response:
        return self._switch(request, LiveSession.cancel)

    async def say(self, request: web.Request) -> web.Response:
        """{"text": ...}: said from the next block on."""
        session = self._find(request)
        if session is None:
            return refused(404, "no such stream")
        if (refusal := not_json(request)) is not None:
            return refusal
        body = await _read_little(request)
        if body is None:
            return refused(413, f"a body has at most {MAX_SAY_BYTES} bytes")
        try:
            session.say(_text_of(body))
        except TooManyLinesError as error:
            return refused(503, str(error))
        except NotListeningError as error:
            return refused(409, str(error))
        except HalloLiveError as error:
            return refused(400, str(error))
        return json_answer(_told(session))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        session = self._find(request)
        if session is None:
            return refused(404, "no such stream")
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        try:
            reader = session.broadcast.reader(
                from_start=request.query.get("from") == "start",
                wake=lambda: loop.call_soon_threadsafe(news.set),
            )
        except TooManyReadersError as error:
            return refused(503, str(error))
        with reader:
            return await _send(request, session, reader, news)

    def _find(self, request: web.Request) -> LiveSession | None:
        return self._sessions.get(request.match_info["id"])

    def _switch(self, request: web.Request, switch: Callable[[LiveSession], None]) -> web.Response:
        session = self._find(request)
        if session is None:
            return refused(404, "no such stream")
        if (refusal := not_json(request)) is not None:
            return refusal
        switch(session)
        return json_answer(_told(session))


async def _read_little(request: web.Request) -> bytes | None:
    """A body of at most `MAX_SAY_BYTES`; None if it is longer."""
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > MAX_SAY_BYTES:
            return None
    return bytes(body)


def _text_of(body: bytes) -> str:
    """What {"text": ...} holds.

    Raises:
        RequestError: it is something else.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):  # no JSON, no text, or numbers and nesting without end
        raise RequestError("the body is not JSON") from None
    if not isinstance(content, dict) or set(content) != {"text"}:
        raise RequestError('the body must be {"text": "..."}')
    text = content["text"]
    if not isinstance(text, str) or len(text) > MAX_PROMPT:
        raise RequestError(f"text must be a string of at most {MAX_PROMPT} characters")
    return text


def _told(session: LiveSession) -> dict[str, Any]:
    return session.status().as_json()


async def _send(
    request: web.Request, session: LiveSession, reader: Reader, news: asyncio.Event
) -> web.StreamResponse:
    """Hand a viewer the stream as it comes; the headers wait for the first bytes."""
    data = await _next(request, reader, news)
    if data is None:
        return refused(410, session.status().error or "the stream ended before it began")
    web = require_aiohttp()
    response = web.StreamResponse(
        headers={**SAFE_HEADERS, "Content-Type": session.mime or "video/mp4"}
    )
    try:
        await response.prepare(request)
        while data is not None:
            await asyncio.wait_for(response.write(data), STALL_SECONDS)
            data = await _next(request, reader, news)
        await asyncio.wait_for(response.write_eof(), STALL_SECONDS)
    except asyncio.TimeoutError:
        _hang_up(request)
    except ConnectionError:  # the viewer has left, which is nobody's fault
        pass
    return response


async def _next(request: web.Request, reader: Reader, news: asyncio.Event) -> bytes | None:
    """The next bytes, as soon as there are some; None at the end, or when the viewer has left."""
    while True:
        news.clear()
        data = reader.read()
        if data is None or data:
            return data
        if request.transport is None or request.transport.is_closing():
            return None
        try:
            await asyncio.wait_for(news.wait(), LOOK_UP_SECONDS)
        except asyncio.TimeoutError:
            continue


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
