"""Requests that no browser sends, over a plain socket, and what a server makes of them."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st

ANSWER_SECONDS = 20
LIE_SECONDS = 0.05
"""How long we wait for an answer to a request whose body never comes."""

odd = settings(max_examples=80, deadline=None, database=None, derandomize=True)


@dataclass(frozen=True)
class Raw:
    """One request as bytes; `lies`: it promises a body that does not come."""

    data: bytes
    lies: bool = False


def answer(port: int, raw: Raw) -> int | None:
    """The status of the answer; None if the server hung up or waits for more, which it may."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        if raw.lies:
            connection.settimeout(LIE_SECONDS)
        line = b""
        try:
            connection.sendall(raw.data)
            while b"\n" not in line and (part := connection.recv(4096)):
                line += part
        except ConnectionError:
            pass  # it hung up while we were still talking
        except TimeoutError:
            assert raw.lies, f"no answer in {ANSWER_SECONDS} s to {raw.data[:300]!r}"
    found = re.match(rb"HTTP/1\.[01] (\d{3})", line)
    assert found or not line, line
    return int(found[1]) if found else None


def request(method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Raw:
    """A request with these parts, none of them checked."""
    names = {name.lower() for name, _ in headers}
    lies = "transfer-encoding" in names or "expect" in names
    for name, value in headers:
        lies = lies or (name == "Content-Length" and value != str(len(body)))
    if body and "content-length" not in names:
        headers = [*headers, ("Content-Length", str(len(body)))]
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return Raw("\r\n".join([*head, "", ""]).encode("utf-8", "surrogatepass") + body, lies)


methods = st.one_of(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(
        ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "SPY", "G E T"]
    ),
)

ids = st.one_of(
    st.sampled_from(
        [
            "0" * 32,
            "A" * 32,
            "0" * 31,
            "x",
            "",
            ".",
            "..",
            "..%2f..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/etc/passwd",
            "....//....//etc/passwd",
            "..\\..\\windows\\win.ini",
            "C:%5Cwindows",
            "%00",
            "%",
            "%zz",
            "%C0%AF",
            "%ED%A0%80",
            "%E2%82%AC",
            "%0d%0aSet-Cookie:%20a=b",
            "a" * 5000,
            "*",
            "0" * 32 + "%0a",
            "<script>",
            "{id}",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n /?#"), min_size=1, max_size=40),
)

queries = st.sampled_from(["", "?from=start", "?from=%00", "?from=start&from=x", "?" + "a=1&" * 50])

headers = st.lists(
    st.one_of(
        st.tuples(
            st.just("Content-Type"),
            st.sampled_from(
                [
                    "application/json",
                    "application/json; charset=utf-16",
                    "application/json; charset=none-such",
                    "application/json;;;=",
                    "text/plain",
                    "multipart/form-data; boundary=x",
                    "multipart/form-data",
                    "",
                    "/",
                    "application/x-www-form-urlencoded",
                ]
            ),
        ),
        st.tuples(
            st.just("Content-Length"),
            st.sampled_from(["0", "-1", "999999999999999", "1e3", "0x10", " 5", "4294967296"]),
        ),
        st.tuples(
            st.sampled_from(["Transfer-Encoding", "transfer-encoding"]),
            st.sampled_from(["chunked", "gzip, chunked", "identity", "cheese"]),
        ),
        st.tuples(
            st.just("Content-Encoding"), st.sampled_from(["gzip", "deflate", "br", "zstd", "x"])
        ),
        st.tuples(st.just("Expect"), st.sampled_from(["100-continue", "200-ok", ""])),
        st.tuples(
            st.just("Range"),
            st.sampled_from(["bytes=0-", "bytes=-1", "bytes=9-1", "bytes=a-b", "lines=1-2", ""]),
        ),
        st.tuples(
            st.sampled_from(["If-Modified-Since", "If-Range", "If-None-Match"]),
            st.sampled_from(["x", "Thu, 99 Foo 2026 99:99:99 GMT", '"a', "*"]),
        ),
        st.tuples(st.just("Accept-Encoding"), st.sampled_from(["gzip", "br;q=x", "*;q=-1", ""])),
        st.tuples(
            st.sampled_from(["Connection", "Upgrade"]),
            st.sampled_from(["close", "keep-alive", "Upgrade", "websocket", "h2c"]),
        ),
        st.tuples(st.just("Cookie"), st.sampled_from(["a=b; " * 40, "=;=;", "\u00e9=\u00e9"])),
        st.tuples(
            st.sampled_from(["X-Odd", "X" * 300]), st.sampled_from(["", "\u2603", "a" * 9000])
        ),
    ),
    max_size=4,
)

foreign = st.one_of(
    st.tuples(
        st.just("Origin"),
        st.sampled_from(
            [
                "null",
                "http://[",
                "http://evil.example",
                "http://localhost:99999999",
                "javascript:alert(1)",
                "//",
                "",
                "http://127.0.0.1@evil.example",
            ]
        ),
    ),
    st.tuples(
        st.just("Host"),
        st.sampled_from(
            ["[", "[::1", "[::g]", "localhost:99999999", "a@b", "evil.example", "", "\u2603", "a b"]
        ),
    ),
)
"""Names of servers and pages, which a server compares with its own."""

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from([10**400, -1, "\ud800", "<S>", "x" * 5000]),
)
objects = st.dictionaries(
    st.sampled_from(
        ["prompt", "seconds", "seed", "width", "height", "lookahead", "text", "odd", ""]
    ),
    st.one_of(values, st.lists(values, max_size=2)),
    max_size=5,
)
bodies = st.one_of(
    st.just(b""),
    st.just(b"{}"),
    objects.map(lambda content: json.dumps(content).encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"[" * 50_000,
            b'{"a":' * 5_000,
            b'{"seed": ' + b"9" * 5_000 + b"}",
            b'{"prompt": "\\ud800"}',
            b"\xff\xfe{\x00}\x00",
            b"x" * 300_000,
            b"null",
            b'"',
            b"NaN",
        ]
    ),
)


def until(condition: Callable[[], bool], what: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something to become true, and say what it is instead if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)
