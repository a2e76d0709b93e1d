"""What a service manager is told: ready, alive, what it does, leaving (systemd's sd_notify).

The protocol is one datagram of `KEY=VALUE` lines, so it needs no library. Everything here is called
by the loop's thread and never waits: a manager that does not listen costs a line in the log.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)

STARTING_S = 10.0  # between two words that the start goes on
EXTENSION_S = 60.0  # asked for with each of them, and while the last snapshot is written
STATUS_S = 5.0
MAX_STATUS = 200  # characters


class Notifier:
    """Tells the manager; does nothing without one.

    Args:
        address: of its datagram socket, a path or `@name` (abstract); None: nobody is told.
        watchdog_s: the manager kills what it has not heard of for so long; None: it does not watch.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._clock = clock
        self._socket: socket.socket | None = None
        self._is_ready = self._is_stopping = False
        self._next_status = -math.inf
        self._last_error = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Notifier:
        """What NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say; a senseless one is ignored."""
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None and address[0] not in "/@":
            _log.warning("NOTIFY_SOCKET=%r is neither a path nor @name; nobody is told", address)
            address = None
        usec = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID") in (None, "", str(os.getpid()))
        watched = is_ours and usec.isdecimal() and len(usec) < 20 and int(usec) > 0
        return cls(address, int(usec) / 1e6 if watched else None)

    @property
    def is_on(self) -> bool:
        """Whether somebody listens."""
        return self._address is not None

    def ready(self) -> None:
        """The state is restored and the source open."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1", *self._watchdog())

    def alive(self, now: float) -> float:
        """The loop turns; returns the moment (of `clock`) at which to say so again."""
        if not self.is_on or self._is_stopping:
            return math.inf
        half_s = math.inf if self._watchdog_s is None else self._watchdog_s / 2.0
        if not self._is_ready:  # a source may take longer to come than the manager has patience
            self._send(_extension())
            return now + min(STARTING_S, half_s)
        self._send(*self._watchdog())
        return now + half_s

    def status(self, line: Callable[[], str]) -> None:
        """One line for people, seldom; `line` is asked only when it is time."""
        now = self._clock()
        if self.is_on and not self._is_stopping and now >= self._next_status:
            self._next_status = now + STATUS_S
            self._send(f"STATUS={_one_line(line())}")

    def reloading(self) -> None:
        """The configuration is being read again; `reloaded` follows."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={usec}")

    def reloaded(self) -> None:
        """It was read, or refused."""
        if self._is_ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """No further event is taken; the last snapshot comes."""
        if not self._is_stopping:
            self._is_stopping = True
            self._send("STOPPING=1", "STATUS=writing the last snapshot")

    def still_stopping(self) -> None:
        """The last snapshot is still being written: neither hung nor done."""
        self._send(_extension(), *self._watchdog())

    def close(self) -> None:
        """Release the socket. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _watchdog(self) -> list[str]:
        return [] if self._watchdog_s is None else ["WATCHDOG=1"]

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        where = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)  # the loop waits for nobody
            self._socket.sendto("\n".join(lines).encode(), where)
            self._last_error = ""
        except OSError as error:
            text = error.strerror or str(error)
            if text != self._last_error:  # once, not at every turn
                _log.warning("NOTIFY_SOCKET=%s cannot be told anything: %s", self._address, text)
            self._last_error = text


def _extension() -> str:
    return f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1e6:.0f}"


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:MAX_STATUS]
