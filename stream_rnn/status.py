"""The status page: /metrics, /livez, /readyz and /status over HTTP, read-only, for this machine.

It is made to be probed by anything and to outlast it: one request per connection, a budget of
bytes and seconds for each, a bounded number at a time, and no page that changes anything. Those
bounds are why the file is longer than its neighbors: the standard library's server has none.

The functions a page asks run on the server's threads: they may only read, and must not wait for
the loop.
"""

from __future__ import annotations

import errno
import http.client
import io
import ipaddress
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from typing_extensions import override

from stream_rnn.spi import SettingError, require_port

_log = logging.getLogger(__name__)

PATIENCE_S = 5.0  # for a whole request to arrive, and again for the answer to be taken
MAX_REQUEST_BYTES = 16 * 1024  # Prometheus and browsers need about 1 KiB
MAX_CONNECTIONS = 32  # at a time; further ones are closed unread
POLL_S = 0.2  # how soon `close` is noticed

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_INDEX = """<!doctype html><meta charset="utf-8"><title>stream-rnn</title><h1>stream-rnn</h1><ul>
<li><a href="/status">/status</a> what the daemon does, as JSON
<li><a href="/metrics">/metrics</a> for Prometheus
<li><a href="/livez">/livez</a> 200 while the loop turns
<li><a href="/readyz">/readyz</a> 200 while it learns as it should, else the reasons
</ul>
"""


class StatusServer:
    """Serves the page on a thread of its own between `open` and `close`.

    Args:
        address: "host:port"; port 0 takes a free one, which `port` then tells.
        registry: what /metrics shows.
        status: what /status shows; plain values, called at every request.
        live: reasons why the process should be restarted; none means alive.
        ready: reasons why the daemon does not do its job right now; none means ready.
        insecure: allow an address that other machines can reach.

    Raises:
        SettingError: the address is malformed, or reachable from elsewhere without `insecure`.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        status: Callable[[], Mapping[str, object]],
        live: Callable[[], list[str]],
        ready: Callable[[], list[str]],
        *,
        insecure: bool = False,
    ) -> None:
        self._host, self.port = require_port(address)
        self.local = _is_this_machine(self._host)
        if not self.local and not insecure:
            raise SettingError(
                f"address: {address} can be reached by other machines, and the page asks for no "
                f'password; use "127.0.0.1:{self.port}", or set insecure = true where every '
                "machine around is trusted"
            )
        self._registry, self._status, self._live, self._ready = registry, status, live, ready
        self._failing: dict[str, str] = {}  # page -> class of the error logged last
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Take the port and start serving.

        Raises:
            SettingError: the port is in use, or the address is not this machine's.
        """
        self._server = _listen(self, self._host, self.port)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="status", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and release the port; a second call does nothing."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def __enter__(self) -> StatusServer:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        """Code, content type and body of a page. Called by a thread per request."""
        try:
            answer = self._page(path, accept)
        except Exception as error:  # the page must outlive what it asks; it says so, and logs
            name = type(error).__name__
            if self._failing.get(path) != name:  # once, not at every probe
                _log.exception("%s cannot be answered", path)
            self._failing[path] = name
            text = f"{path}: {name}, see the daemon's log\n"
            return HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, text.encode()
        self._failing.pop(path, None)
        return answer

    def _page(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/metrics":
            # only our own words go on: the library echoes what it is sent into a header
            wanted = "application/openmetrics-text"
            encode, kind = choose_encoder(f"{wanted}; version=1.0.0" if wanted in accept else "")
            return HTTPStatus.OK, kind, encode(self._registry)
        if path == "/livez":
            return _verdict(self._live())
        if path == "/readyz":
            return _verdict(self._ready())
        if path == "/status":
            return HTTPStatus.OK, _JSON, _json(self._status())
        if path == "/":
            return HTTPStatus.OK, "text/html; charset=utf-8", _INDEX.encode()
        return HTTPStatus.NOT_FOUND, _TEXT, b"no such page; / lists them\n"


def _verdict(reasons: list[str]) -> tuple[HTTPStatus, str, bytes]:
    if not reasons:
        return HTTPStatus.OK, _TEXT, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, _JSON, _json({"failing": reasons})


def _json(value: object) -> bytes:
    # NaN becomes null, and what JSON does not know its text
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n"


def _is_this_machine(host: str) -> bool:
    """Stricter than a prefix: 127.0.0.1.example.com is a name anyone can register."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(page: StatusServer, host: str, port: int) -> _Server:
    where = f"address: {host}:{port}"
    try:
        return _Server(page, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError(
                f"{where} is in use by another process; choose another port or stop that process"
            ) from error
        if error.errno == errno.EACCES:
            raise SettingError(f"{where} needs privileges; choose a port above 1023") from error
        raise SettingError(
            f"{where} cannot be listened on ({error.strerror or error}); use an address of this "
            'machine, e.g. "127.0.0.1:9464"'
        ) from error


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True  # a restart must not wait for TIME_WAIT; a listener still refuses
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, page: StatusServer, host: str, port: int) -> None:
        self.page = page
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

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
            super().process_request(request, client_address)
        except BaseException:  # no thread was started that would give the slot back
            self._slots.release()
            raise

    @override
    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a client of the status page broke off", exc_info=True)


class _Limited(io.RawIOBase):
    """A socket's bytes, up to a number of them and a moment, whatever the pace they come in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = MAX_REQUEST_BYTES
        self._until = time.monotonic() + PATIENCE_S

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        patience_s = self._until - time.monotonic()
        if patience_s <= 0.0:
            raise TimeoutError("the request took too long to arrive")
        if self._left <= 0:
            raise http.client.LineTooLong("request")
        self._connection.settimeout(patience_s)
        n = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= n
        return n


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "stream-rnn"
    default_request_version = "HTTP/1.0"  # 0.9 would get errors without a head
    sys_version = ""  # which Python runs here is nobody's business
    error_content_type = _TEXT
    error_message_format = "%(code)d %(message)s\n"

    @override
    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Limited(self.connection))

    @override
    def handle_one_request(self) -> None:
        self.requestline = self.command = ""
        self.request_version = "HTTP/1.0"
        try:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                self._respond()
        except http.client.LineTooLong:
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)

    def _respond(self) -> None:
        if self.command not in ("GET", "HEAD"):
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET and HEAD\n")
        elif not self._addressed_to_us():
            text = b"this page answers to localhost only, see the Host header\n"
            self._send(HTTPStatus.FORBIDDEN, _TEXT, text)
        else:
            accept = self.headers.get("Accept", "")
            self._send(*self.server.page.answer(self.path.partition("?")[0], accept))

    def _addressed_to_us(self) -> bool:
        # DNS rebinding: a web page whose name is made to resolve to 127.0.0.1 reads what it asks
        # for, in the user's browser; its own name in the Host header gives it away
        hosts = self.headers.get_all("Host", [])
        if not self.server.page.local:
            return True
        try:
            return all(_is_this_machine(urlsplit(f"//{host}").hostname or "") for host in hosts)
        except ValueError:
            return False

    def _send(self, code: HTTPStatus, kind: str, body: bytes) -> None:
        self.connection.settimeout(PATIENCE_S)  # for all of the answer, not for each piece
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """A probe is not a change of state; what a client sent is never written raw."""
        _log.debug("status page: %r", format % args)
