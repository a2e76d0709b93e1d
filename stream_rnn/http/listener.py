"""Accepts connections and answers each on a thread of its own: bounded, and ended cleanly."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from typing_extensions import override

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.connection import Connection
from stream_rnn.http.guard import Guard
from stream_rnn.http.routes import Answer, Request, Route, Routes, Stream, text
from stream_rnn.http.tls import Certificate

_log = logging.getLogger(__name__)

LEAVE_S = 2.0  # for the answers under way when the server closes


class Listener(socketserver.TCPServer):
    """Accepts connections, each for a thread of its own, never more than its bounds say.

    `listening` is closed with it.
    """

    def __init__(
        self,
        routes: Routes,
        guard: Guard,
        certificate: Certificate | None,
        bounds: Bounds,
        listening: socket.socket,
    ) -> None:
        self.routes, self.guard, self.bounds = routes, guard, bounds
        self.closing = threading.Event()
        self.kept = threading.BoundedSemaphore(bounds.kept)
        self._certificate = certificate
        self._slots = threading.BoundedSemaphore(bounds.connections)
        self._lock = threading.Lock()
        self._at_work: dict[threading.Thread, socket.socket] = {}
        self._failing: dict[str, str] = {}  # path -> class of the error logged last
        super().__init__(listening.getsockname()[:2], Connection, bind_and_activate=False)
        self.socket.close()  # the base made one
        self.socket = listening

    def answer(self, path: str, route: Route, request: Request) -> Answer | Stream:
        """What the route says; an error of its own is a 500 that names it, and a line in the log.

        Called by a thread per connection.
        """
        try:
            answer = route.handle(request)
        except Exception as error:  # the server must outlive what it asks; it says so, and logs
            name = type(error).__name__
            if self._failing.get(path) != name:  # once, not at every probe
                _log.exception("%s cannot be answered", path)
            self._failing[path] = name
            words = f"{path}: {name}, see the daemon's log\n"
            return text(HTTPStatus.INTERNAL_SERVER_ERROR, words)
        self._failing.pop(path, None)
        return answer

    @override
    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)  # out of file descriptors: the socket stays readable, do not spin
            raise

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        worker = threading.Thread(
            target=self._work, args=(request, client_address), name="http connection", daemon=True
        )
        with self._lock:
            self._at_work[worker] = request
        try:
            worker.start()
        except BaseException:  # no thread was started that would give the slot back
            self._leave(worker)
            raise

    def _work(self, request: socket.socket, client_address: Any) -> None:
        connection = request
        try:
            if self._certificate is not None:
                connection = self._secured(request, self._certificate)
            self.finish_request(connection, client_address)
        except Exception:
            self.handle_error(connection, client_address)
        finally:
            self.shutdown_request(connection)
            self._leave(threading.current_thread())

    def _secured(self, request: socket.socket, certificate: Certificate) -> ssl.SSLSocket:
        """Shake hands here, on the connection's own thread, within the patience for a request."""
        request.settimeout(self.bounds.patience_s)
        secured = certificate.context().wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        )
        with self._lock:
            self._at_work[threading.current_thread()] = secured
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()  # the plain socket gave its descriptor away
            raise
        return secured

    def _leave(self, worker: threading.Thread) -> None:
        with self._lock:
            self._at_work.pop(worker, None)
        self._slots.release()

    @override
    def shutdown_request(self, request: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # a farewell; whether it arrives is all the same
                request.settimeout(0)
                request.unwrap()
        super().shutdown_request(request)

    def end(self) -> None:
        """Wait for the connections to end, and end those that do not."""
        with self._lock:
            at_work = dict(self._at_work)
        for connection in at_work.values():
            _shut(connection, socket.SHUT_RD)  # who waits for a request reads its end
        until = time.monotonic() + LEAVE_S
        for worker, connection in at_work.items():
            worker.join(max(0.0, until - time.monotonic()))
            if worker.is_alive():
                _shut(connection, socket.SHUT_RDWR)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), OSError):
            _log.debug("a client of the HTTP server broke off", exc_info=True)
        else:
            _log.exception("a request could not be answered")


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # it ended by itself meanwhile
        socket.socket.shutdown(connection, how)  # beneath TLS, whose answer may be under way
