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
from stream_rnn.http.judging import wants_to_stay
from stream_rnn.http.rendering import SERVER, head, headers_of
from stream_rnn.http.routes import TEXT, Answer, Request, Stream

if TYPE_CHECKING:
    from stream_rnn.http.listener import Listener

_log = logging.getLogger(__name__)

LINGER_S = 1.0  # for a refused body to arrive, so that closing does not destroy the answer
LINGER_BYTES = 1 << 20
STREAM_BUFFER_BYTES = 64 * 1024  # what the system holds for a slow reader of a stream


class Connection(BaseHTTPRequestHandler):
    """Answers one request, or several where the route keeps the connection.

    One that is kept may go on elsewhere, see `stays`.

    Args:
        before: bytes that were read of it already.
        is_kept: it has one of the server's places for connections that are kept.

    Attributes:
        stays: it was answered and waits for another request, for which this thread is not needed.
        behind: bytes of that request that have arrived already.
    """

    server: Listener
    server_version = SERVER
    default_request_version = "HTTP/1.0"  # 0.9 would get errors without a head
    sys_version = ""  # which Python runs here is nobody's business
    error_content_type = TEXT
    error_message_format = "%(code)d %(message)s\n"
    disable_nagle_algorithm = True  # the pieces of a stream

    def __init__(
        self,
        request: socket.socket,
        client_address: Any,
        server: Listener,
        before: bytes = b"",
        *,
        is_kept: bool = False,
    ) -> None:
        self._before, self._is_kept = before, is_kept
        self.stays, self.behind = False, b""
        super().__init__(request, client_address, server)

    @override
    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._limited = Limited(self.connection, self._before)
        self.rfile = io.BufferedReader(self._limited)
        self.wfile = Timed(self.connection, self.server.bounds.patience_s)

    @override
    def handle(self) -> None:
        self.close_connection = False
        while not self.close_connection and not self.stays:
            self.handle_one_request()
            self.stays = not self.close_connection and self.server.can_keep(self.connection)
        if self.stays:
            self._limited.stop()
            self.behind = self.rfile.read()

    @override
    def finish(self) -> None:
        if self._is_kept and not self.stays:
            self.server.places.release()
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
        route = self.server.judge.judge(self.command, path, self.headers)
        if isinstance(route, Answer):  # a refusal
            self._send(route)
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
        if not wants_to_stay(self.request_version, self.headers):
            return
        if not self._is_kept:
            self._is_kept = self.server.places.acquire(blocking=False)
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
        version, ends = self.protocol_version, self.close_connection
        self.wfile.write(head(version, code, *headers, ends=ends) + body)

    def _send(self, answer: Answer) -> None:
        body = b"" if self.command == "HEAD" else answer.body
        self._head(answer.code, *headers_of(answer), body=body)

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
