"""The daemon's side of readers in a process of their own: sockets, shared memory, a supervisor.

The sockets are made here and handed over. So an address that is taken is refused at the start, and
who connects while the process is started anew waits instead of being turned away.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stream_rnn.assembly.settings import MetricsTable, ReadersTable
from stream_rnn.config import ConfigError
from stream_rnn.engine.engine import Engine
from stream_rnn.http.guard import LEAST_TOKEN_CHARS
from stream_rnn.http.server import HttpServer, listen
from stream_rnn.readers.shared import Shared
from stream_rnn.readers.supervisor import Supervisor
from stream_rnn.readers.zeromq import require_place
from stream_rnn.spi import SettingError, require_port

MODULE = "stream_rnn.serving"
PATIENCE_S = 4.0  # with a port in use


@dataclass(frozen=True)
class Apart:
    """Readers in a process of their own, running.

    Attributes:
        shared: published to by the thread that learns.
        supervisor: keeps the process alive.
        http: URL of POST /predict; None: there is none.
        zeromq: address; None: there is none.
    """

    shared: Shared
    supervisor: Supervisor
    http: str | None
    zeromq: str | None

    @property
    def places(self) -> str:
        """Where they are asked."""
        return ", ".join(each for each in (self.http, self.zeromq) if each is not None)


@contextmanager
def apart(
    table: ReadersTable,
    engine: Engine,
    model: Mapping[str, Any],
    metrics: MetricsTable,
    token: Callable[[], str],
    ready: Callable[[], list[str]],
) -> Iterator[Apart]:
    """Start the process, and end it on the way out.

    Args:
        table: `[readers]`, with `process`.
        engine: whose state is published.
        model: what it is built from, as in a snapshot.
        metrics: whose certificate is shown.
        token: what POST /predict needs; asked for once its port is taken.
        ready: reasons against the daemon's readiness, which the process passes on.

    Raises:
        ConfigError: an address is taken or refused; a certificate cannot be used.
    """
    doors: list[socket.socket] = []
    try:
        zeromq = _zeromq(table, doors)
        http, url = _http(table, metrics, token, doors)
        shared = Shared(engine, table.publish_ms / 1000)
    except ConfigError:
        _close(doors)
        raise
    except SettingError as error:
        _close(doors)
        raise ConfigError(f"[readers] {error}") from error
    except OSError as error:
        _close(doors)
        raise ConfigError(f"[readers] process: no memory can be shared ({error})") from error
    copies, page = shared.descriptors
    told = {
        "model": model,
        "max_concurrent": table.max_concurrent,
        "max_bytes": table.max_bytes,
        "http": http,
        "zeromq": zeromq,
        "copies": copies,
        "page": page,
    }
    inherited = [copies, page, *(door.fileno() for door in doors)]
    supervisor = Supervisor(MODULE, told, shared.words, inherited, ready)
    supervisor.open()
    try:
        yield Apart(shared, supervisor, url, None if zeromq is None else zeromq["address"])
    finally:
        supervisor.close()
        _close(doors)
        shared.close()


def rehearse(table: ReadersTable, metrics: MetricsTable) -> None:
    """Take the addresses and let them go; raises ConfigError as `apart`."""
    doors: list[socket.socket] = []
    try:
        _zeromq(table, doors)
        _http(table, metrics, lambda: metrics.token or "?" * LEAST_TOKEN_CHARS, doors)
    except SettingError as error:
        raise ConfigError(f"[readers] {error}") from error
    finally:
        _close(doors)


def _http(
    table: ReadersTable,
    metrics: MetricsTable,
    token: Callable[[], str],
    doors: list[socket.socket],
) -> tuple[dict[str, Any] | None, str | None]:
    if table.http is None:
        return None, None
    certificate, key = metrics.certificate, metrics.key
    place = require_port(table.http, "http")
    with _said_of("http"):
        door = _patiently(lambda: listen(*place))
        doors.append(door)
        needed = token()
        server = HttpServer(table.http, {}, token=needed, certificate=certificate, key=key)
    host, _, _ = table.http.rpartition(":")
    address = f"{host}:{door.getsockname()[1]}"
    secrets = {"token": needed, "certificate": certificate, "key": key}
    return secrets | {
        "address": address,
        "listening": door.fileno(),
    }, f"{server.scheme}://{address}/predict"


def _zeromq(table: ReadersTable, doors: list[socket.socket]) -> dict[str, Any] | None:
    if table.address is None:
        return None
    host, _ = place = require_place(table.address, table.insecure)
    door = _patiently(lambda: listen(*place))
    doors.append(door)
    shown = f"[{host}]" if ":" in host else host
    return {"address": f"tcp://{shown}:{door.getsockname()[1]}", "listening": door.fileno()}


def _patiently(bind: Callable[[], socket.socket]) -> socket.socket:
    """Of a daemon that was killed a moment ago, the process of readers may hold the port still."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return bind()
        except SettingError as error:
            is_taken = getattr(error.__cause__, "errno", None) == errno.EADDRINUSE
            if not is_taken or time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextmanager
def _said_of(key: str) -> Iterator[None]:
    """The server calls its place an address; here another key names it."""
    try:
        yield
    except SettingError as error:
        raise SettingError(f"{key}: {str(error).removeprefix('address: ')}") from error


def _close(doors: list[socket.socket]) -> None:
    for door in doors:
        door.close()
