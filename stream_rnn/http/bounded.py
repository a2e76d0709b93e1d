"""What a client may take, and a socket read and written within it, whatever the pace.

The standard library's server has no such bounds.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from dataclasses import dataclass
from typing import Any

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may take.

    Attributes:
        connections: at a time; further ones are closed unread.
        request_bytes: of a request without its body; Prometheus and browsers need about 1 KiB.
        patience_s: for a whole request to arrive, and again for the answer (or a stream's piece)
            to be taken.
        kept: connections that may stay open for another request; the rest is for pages.
        kept_s: for how long one waits for its next request, which must have arrived by then.
        poll_s: how soon `close` is noticed.
    """

    connections: int = 32
    request_bytes: int = 16 * 1024
    patience_s: float = 5.0
    kept: int = 16
    kept_s: float = 15.0
    poll_s: float = 0.2


class Limited(io.RawIOBase):
    """A socket's bytes, up to a number of them and a moment, whatever the pace they come in.

    Args:
        before: bytes that were read of it already, and come first.
    """

    def __init__(self, connection: socket.socket, before: bytes = b"") -> None:
        self._connection = connection
        self._before = before
        self._is_over = False
        self.allow(0, 0.0)

    def allow(self, n_bytes: int, patience_s: float) -> None:
        """So much more, from now on."""
        self._left = n_bytes
        self._until = time.monotonic() + patience_s

    def stop(self) -> None:
        """Nothing more is read; who reads comes to an end."""
        self._is_over = True

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        if self._is_over:
            return 0
        patience_s = self._until - time.monotonic()
        if patience_s <= 0.0:
            raise TimeoutError("the request took too long to arrive")
        if self._left <= 0:
            raise http.client.LineTooLong("request")
        room = memoryview(buffer)[: self._left]
        if self._before:
            n = min(len(room), len(self._before))
            room[:n], self._before = self._before[:n], self._before[n:]
        else:
            self._connection.settimeout(patience_s)
            n = self._connection.recv_into(room)
        self._left -= n
        return n


class Timed(io.BufferedIOBase):
    """Writes each piece whole, or raises TimeoutError."""

    def __init__(self, connection: socket.socket, patience_s: float) -> None:
        self._connection = connection
        self._patience_s = patience_s

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        left, until = memoryview(data), time.monotonic() + self._patience_s
        while left:
            patience_s = until - time.monotonic()
            if patience_s <= 0.0:
                raise TimeoutError("the answer took too long to be taken")
            self._connection.settimeout(patience_s)  # one deadline for all of it, TLS or not
            left = left[self._connection.send(left[:65536]) :]
        return len(data)
