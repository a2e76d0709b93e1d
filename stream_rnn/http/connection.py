"""One connection: a request within its bounds, the guard, an answer within its bounds.

The standard library's parser is used, and bounded from outside: a budget of bytes and a deadline
for all that is read, whatever the pace it comes in.
"""

from __future__ import annotations

import http.client
import io
import logging
import socket
import time
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from stream_rnn.http.bounded import Limited, Timed
from stream_rnn.http.routes import JSON, TEXT, Answer, Request, Route, Stream, text

if TYPE_CHECKING:
    from stream_rnn.http.listener import Listener

_log = logging.getLogger(__name__)

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


ALWAYS = "\r\n".join(f"{name}: {value}" for name, value in HEADERS)
LINGER_S = 1.0  # for a refused body to arrive, so that closing does not destroy the answer
LINGER_BYTES = 1 << 20
STREAM_BUFFER_BYTES = 64 * 1024  # what the system holds for a slow reader of a stream


class Connection(BaseHTTPRequestHandler):
    """Answers one request, or several where the route keeps the connection."""

    server: Listener
    server_version = "stream-rnn"
    default_request_version = "HTTP/1.0"  # 0.9 would get errors without a head
    sys_version = ""  # which Python runs here is nobody's business
    error_content_type = TEXT
    error_message_format = "%(code)d %(message)s\n"
    disable_nagle_algorithm = True  # the pieces of a stream

    @override
    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._limited = Limited(self.connection)
        self.rfile = io.BufferedReader(self._limited)
        self.wfile = Timed(self.connection, self.server.bounds.patience_s)
        self._is_kept = False

    @override
    def finish(self) -> None:
        if self._is_kept:
            self.server.kept.release()
        super().finish()

    @override
    def handle_one_request(self) -> None:
        bounds = self.server.bounds
        self._limited.allow(
            bounds.request_bytes, bounds.kept_s if self._is_kept else bounds.patience_s
        )
        self.requestline = self.command = ""
        self.request_version = self.protocol_version = "HTTP/1.0"
        self.close_connection = True
        try:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                self._respond()
        except http.client.LineTooLong:
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)

    def _respond(self) -> None:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        refusal = self.server.guard.refuses(self.headers, route) or self._misuse(route)
        if refusal is None and route is not None and route.method == "POST":
            refusal = self._unfit(route)
        if refusal is not None or route is None:
            self._send(refusal or text(HTTPStatus.NOT_FOUND, "no such page; / lists them\n"))
            self._linger()
            return
        body = self._body() if route.method == "POST" else b""
        answer = self.server.answer(
            path, route, Request(path, self.headers.get("Accept", ""), body)
        )
        if isinstance(answer, Stream):
            self._stream(answer)
            return
        if route.kept and not self.server.closing.is_set():
            self._keep()
        self._send(answer)

    def _misuse(self, route: Route | None) -> Answer | None:
        if route is None:
            return text(HTTPStatus.NOT_FOUND, "no such page; / lists them\n")
        if self.command == route.method or (self.command == "HEAD" and route.method == "GET"):
            return None
        words = f"only {route.allowed.replace(', ', ' and ')}\n"
        return text(HTTPStatus.METHOD_NOT_ALLOWED, words, ("Allow", route.allowed))

    def _unfit(self, route: Route) -> Answer | None:
        """Why the body of a POST is not read."""
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != JSON:  # which no HTML form can send
            return text(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {JSON}\n")
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) != 1:
            return text(HTTPStatus.LENGTH_REQUIRED, "one Content-Length is needed\n")
        length = lengths[0].strip()
        if not (length.isascii() and length.isdigit()):
            return text(HTTPStatus.BAD_REQUEST, "Content-Length: expected a number\n")
        # digits beyond reason are not converted
        if len(length) > 18 or int(length) > route.max_body_bytes:
            words = f"at most {route.max_body_bytes} bytes\n"
            return text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words)
        return None

    def _body(self) -> bytes:
        length = int(self.headers["Content-Length"])
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._limited.allow(length, self.server.bounds.patience_s)
        body = self.rfile.read(length) if length else b""
        if len(body) < length:
            raise ConnectionAbortedError("the body ended early")
        return body

    def _keep(self) -> None:
        """Stay for another request, if the client may and wants to."""
        wants = self.headers.get("Connection", "").lower()
        if self.request_version != "HTTP/1.1" or "close" in wants:
            return
        if not self._is_kept:
            self._is_kept = self.server.kept.acquire(blocking=False)
        if self._is_kept:
            self.protocol_version = "HTTP/1.1"
            self.close_connection = False

    def _linger(self) -> None:
        """Take what is still under way: closing on unread bytes would destroy the answer."""
        if self.command != "POST":
            return
        raw = socket.socket  # beneath TLS: nothing of it is looked at
        raw.shutdown(self.connection, socket.SHUT_WR)
        until, left = time.monotonic() + LINGER_S, LINGER_BYTES
        while left > 0 and (patience_s := until - time.monotonic()) > 0.0:
            self.connection.settimeout(patience_s)
            try:
                n = len(raw.recv(self.connection, 65536))
            except OSError:
                return
            if not n:
                return
            left -= n

    def _head(self, code: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        """Head and body in one write: a reader would be woken for each."""
        self.log_request(code)
        lines = [
            f"{self.protocol_version} {code} {self.responses[HTTPStatus(code)][0]}",
            f"Server: {self.version_string()}",
            f"Date: {self.date_time_string()}",
            *(f"{name}: {value}" for name, value in headers),
            ALWAYS,
        ]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1", "strict")
        self.wfile.write(b"%s\r\n\r\n%s" % (head, body))

    def _send(self, answer: Answer) -> None:
        length = ("Content-Length", str(len(answer.body)))
        body = b"" if self.command == "HEAD" else answer.body
        self._head(answer.code, ("Content-Type", answer.kind), length, *answer.headers, body=body)

    def _stream(self, stream: Stream) -> None:
        if self.command == "HEAD":
            self._head(HTTPStatus.OK, ("Content-Type", stream.kind))
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER_BYTES)
        pieces = stream.pieces(self.server.closing)
        with closing(pieces):  # type: ignore[type-var]
            self._head(HTTPStatus.OK, ("Content-Type", stream.kind))
            for piece in pieces:
                self.wfile.write(piece)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """A probe is not a change of state; what a client sent is never written raw."""
        _log.debug("http: %r", format % args)
