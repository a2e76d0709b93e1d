"""The server: made to be probed by anything and to outlast it.

A budget of bytes and seconds for each request, a bounded number of connections at a time, one
thread for each. The handlers run on these threads: they may only read, and must not wait for the
loop. Only a POST route's connection may be kept for another request.
"""

from __future__ import annotations

import errno
import socket
import threading
from types import TracebackType

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.guard import Guard, require_token
from stream_rnn.http.listener import Listener
from stream_rnn.http.routes import Routes
from stream_rnn.http.tls import Certificate
from stream_rnn.spi import SettingError, is_loopback, require_port


class HttpServer:
    """Serves routes on threads of its own between `open` and `close`.

    Args:
        address: "host:port"; port 0 takes a free one, which `port` then tells.
        routes: path -> what it does.
        insecure: let other machines read without a token.
        token: what POST needs, and what reading from other machines needs without `insecure`.
        certificate, key: PEM files; with them it speaks TLS, and nothing else.
        bounds: what clients may take.
        listening: a socket that listens at the address already, e.g. another process's; it is
            closed with the server. None: `open` makes one.

    Raises:
        SettingError: the address is malformed, or reachable from elsewhere without a token or
            `insecure`; a weak token; a certificate that cannot be used.
    """

    def __init__(
        self,
        address: str,
        routes: Routes,
        *,
        insecure: bool = False,
        token: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        bounds: Bounds | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        self._host, self.port = require_port(address)
        self.local = is_loopback(self._host)
        if token is not None:
            require_token(token)
        if certificate is None and key is not None:
            raise SettingError("key: it needs its certificate; name the file in certificate")
        self._certificate = None if certificate is None else Certificate(certificate, key)
        self.scheme = "http" if certificate is None else "https"
        self._guard = Guard(address, self.local, insecure, token, self.scheme)
        self._routes = dict(routes)
        self._bounds = Bounds() if bounds is None else bounds
        self._listening = listening
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Take the port and start serving.

        Raises:
            SettingError: the port is in use, or the address is not this machine's.
        """
        self._listener = self._listen()
        self.port = int(self._listener.server_address[1])
        self._thread = threading.Thread(
            target=self._listener.serve_forever,
            args=(self._bounds.poll_s,),
            name="http",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """End the streams, let answers under way leave, release the port. A second does nothing."""
        if self._listener is not None and self._thread is not None:
            self._listener.closing.set()
            self._listener.shutdown()
            self._listener.server_close()
            self._thread.join()
            self._listener.end()
            self._listener = self._thread = None

    def __enter__(self) -> HttpServer:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def bind(self) -> socket.socket:
        """Take the port without serving it: for another process. Raises like `open`."""
        return listen(self._host, self.port, self._bounds.connections)

    def _listen(self) -> Listener:
        listening = self._listening or self.bind()
        return Listener(self._routes, self._guard, self._certificate, self._bounds, listening)


def listen(host: str, port: int, waiting: int = 32) -> socket.socket:
    """A socket that listens; `waiting` connections may wait to be accepted.

    Raises:
        SettingError: the port is in use, or the address is not this machine's.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # a restart must not wait for TIME_WAIT; a listener still refuses
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(waiting)
    except OSError as error:
        made.close()
        raise _refused(f"address: {host}:{port}", error) from error
    return made


def _refused(where: str, error: OSError) -> SettingError:
    if error.errno == errno.EADDRINUSE:
        return SettingError(
            f"{where} is in use by another process; choose another port or stop that process"
        )
    if error.errno == errno.EACCES:
        return SettingError(f"{where} needs privileges; choose a port above 1023")
    return SettingError(
        f"{where} cannot be listened on ({error.strerror or error}); use an address of this "
        'machine, e.g. "127.0.0.1:9464"'
    )
