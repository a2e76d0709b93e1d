"""An answer as the bytes that are sent."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from stream_rnn.http.routes import Answer

HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
)
"""On every answer: what protects a browser."""

SERVER = "stream-rnn"  # its version is nobody's business

_ALWAYS = "\r\n".join(f"{name}: {value}" for name, value in HEADERS)


def head(version: str, code: int, *headers: tuple[str, str], ends: bool) -> bytes:
    """What stands before a body, its empty line included.

    Args:
        version: "HTTP/1.0" or "HTTP/1.1".
        code: the status.
        headers: names and values, beside those that stand on every answer.
        ends: the connection is closed afterwards.
    """
    lines = [
        f"{version} {code} {HTTPStatus(code).phrase}",
        f"Server: {SERVER}",
        f"Date: {_date(int(time.time()))}",
        *(f"{name}: {value}" for name, value in headers),
        _ALWAYS,
    ]
    if ends:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "strict")


def headers_of(answer: Answer) -> tuple[tuple[str, str], ...]:
    """Its own, beside those on every answer."""
    length = ("Content-Length", str(len(answer.body)))
    return ("Content-Type", answer.kind), length, *answer.headers


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
