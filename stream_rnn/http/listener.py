"""Accepts connections and answers each on a thread of its own: bounded, and ended cleanly."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from typing_extensions import override

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.connection import Connection
from stream_rnn.http.guard import Guard
from stream_rnn.http.judging import Judge
from stream_rnn.http.kept import Kept
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
        self.judge, self.bounds = Judge(routes, guard), bounds
        self.closing = threading.Event()
        self.places = threading.BoundedSemaphore(bounds.kept)  # of connections that are kept
        self._kept = Kept(self)
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
        try:
            self._start(self._accepted, request, client_address)
        except BaseException:  # no thread was started that would give the slot back
            self._slots.release()
            raise

    def can_keep(self, connection: socket.socket) -> bool:
        """Whether it can be served without a thread of its own; one that speaks TLS cannot."""
        return not isinstance(connection, ssl.SSLSocket)

    def resume(self, connection: socket.socket, client_address: Any, before: bytes) -> None:
        """A connection that was kept gets a thread again, and what was read of its request."""
        try:
            self._start(self._work, connection, client_address, before, True)
        except RuntimeError:  # no thread can be started; the others are still served
            _log.warning("no thread for a connection; it is closed")
            self.let_go(connection)

    def let_go(self, connection: socket.socket) -> None:
        """A connection that was kept has ended."""
        self.places.release()  # first: whoever sees it closed may come again at once
        self.shutdown_request(connection)
        self._slots.release()

    def _start(self, work: Callable[..., None], request: socket.socket, *args: Any) -> None:
        worker = threading.Thread(
            target=work, args=(request, *args), name="http connection", daemon=True
        )
        with self._lock:
            self._at_work[worker] = request
        try:
            worker.start()
        except BaseException:
            with self._lock:
                self._at_work.pop(worker)
            raise

    def _accepted(self, request: socket.socket, client_address: Any) -> None:
        if self._certificate is None:
            self._work(request, client_address)
            return
        try:
            secured = self._secured(request, self._certificate)
        except Exception:
            self.handle_error(request, client_address)
            self._leave(request)
        else:
            self._work(secured, client_address)

    def _work(
        self, request: socket.socket, client_address: Any, before: bytes = b"", kept: bool = False
    ) -> None:
        stays = False
        try:
            served = Connection(request, client_address, self, before, is_kept=kept)
            if served.stays:
                stays = self._kept.take(request, client_address, served.behind)
                if not stays:
                    self.places.release()
        except Exception:
            self.handle_error(request, client_address)
        if stays:
            with self._lock:
                self._at_work.pop(threading.current_thread(), None)
        else:
            self._leave(request)

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

    def _leave(self, request: socket.socket) -> None:
        self.shutdown_request(request)
        with self._lock:
            self._at_work.pop(threading.current_thread(), None)
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
        self._kept.close()
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
