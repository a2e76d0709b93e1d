"""What becomes of a request, by its head alone: a route, or the reason against it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from typing_extensions import override

from stream_rnn.http.guard import Guard
from stream_rnn.http.routes import JSON, Answer, Route, Routes, text


class Judge:
    """Knows the paths and who may ask. The same head is always judged the same."""

    def __init__(self, routes: Routes, guard: Guard) -> None:
        self._routes, self._guard = routes, guard

    def judge(self, command: str, path: str, headers: Message) -> Route | Answer:
        """The route of a path without its query, or why the request is not answered."""
        route = self._routes.get(path)
        refusal = self._guard.refuses(headers, route)
        if refusal is not None:
            return refusal
        if route is None:
            return text(HTTPStatus.NOT_FOUND, "no such page; / lists them\n")
        return _misuse(command, route) or _unfit(headers, route) or route

    def repeatable(self, head: bytes) -> Repeatable | None:
        """What every further request with this head gets: None, if its connection is not kept."""
        parsed = _Parsed(head)
        if not parsed.is_sound or "Expect" in parsed.headers:
            return None
        path = parsed.path.partition("?")[0]
        route = self.judge(parsed.command, path, parsed.headers)
        if isinstance(route, Answer) or not route.kept:
            return None
        if not wants_to_stay(parsed.request_version, parsed.headers):
            return None
        accept = parsed.headers.get("Accept", "")
        return Repeatable(path, route, accept, int(parsed.headers["Content-Length"]))


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A head that was judged: a POST that is answered on a connection that stays."""

    path: str
    route: Route
    accept: str
    length: int  # of the body


def wants_to_stay(version: str, headers: Message) -> bool:
    """Whether a client may be kept for another request, and has nothing against it."""
    return version == "HTTP/1.1" and "close" not in headers.get("Connection", "").lower()


class _Parsed(BaseHTTPRequestHandler):
    """The standard library's parser on bytes that have arrived."""

    default_request_version = "HTTP/1.0"
    protocol_version = "HTTP/1.1"  # does not ask for a body that waits to be asked for

    def __init__(self, head: bytes) -> None:
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.raw_requestline = self.rfile.readline()
        self.command, self.close_connection = "", True
        self.is_sound = self.parse_request()

    @override
    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Who handles the request anew says what is wrong with it."""

    @override
    def handle_expect_100(self) -> bool:
        return True


def _misuse(command: str, route: Route) -> Answer | None:
    if command == route.method or (command == "HEAD" and route.method == "GET"):
        return None
    words = f"only {route.allowed.replace(', ', ' and ')}\n"
    return text(HTTPStatus.METHOD_NOT_ALLOWED, words, ("Allow", route.allowed))


def _unfit(headers: Message, route: Route) -> Answer | None:
    """Why the body of a POST is not read."""
    if route.method != "POST":
        return None
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != JSON:  # which no HTML form can send
        return text(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {JSON}\n")
    lengths = headers.get_all("Content-Length", [])
    if "Transfer-Encoding" in headers or len(lengths) != 1:
        return text(HTTPStatus.LENGTH_REQUIRED, "one Content-Length is needed\n")
    length = lengths[0].strip()
    if not (length.isascii() and length.isdigit()):
        return text(HTTPStatus.BAD_REQUEST, "Content-Length: expected a number\n")
    # digits beyond reason are not converted
    if len(length) > 18 or int(length) > route.max_body_bytes:
        words = f"at most {route.max_body_bytes} bytes\n"
        return text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
    return None
