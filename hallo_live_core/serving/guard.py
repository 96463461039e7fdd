"""Who may talk to the server: only its own page, and programs that are meant to."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

LOCAL_NAME = "localhost"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    if host == LOCAL_NAME:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def why_refused(host: str | None, origin: str | None, *, loopback: bool) -> str | None:
    """Why a request with these headers is not answered; None if it is.

    A server on loopback answers to loopback names only: a foreign name that leads here (DNS
    rebinding) would make a foreign page ours. A browser names the origin of the page that asks;
    programs name none.
    """
    try:
        name = urlsplit(f"//{host or ''}").hostname
        page = None if origin is None else urlsplit(origin).netloc
    except ValueError:  # brackets that hold no IPv6 address
        return "the headers Host and Origin must hold addresses"
    if loopback and (name is None or not is_loopback(name)):
        return "this server answers to localhost only"
    if page is not None and page != host:
        return "requests from pages of other origins are not answered"
    return None
