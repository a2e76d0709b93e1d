"""Connections that stay for another request: one thread for all of them, and what it knows.

A client that asks a thousand times a second sends the same head again and again. A head that was
judged once is known by its bytes, and its request is answered here; whatever else comes, in
whatever way, goes back to a thread of its own, which reads it from the beginning.
"""

from __future__ import annotations

import logging
import re
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stream_rnn.http.judging import Repeatable
from stream_rnn.http.rendering import head as rendered
from stream_rnn.http.rendering import headers_of
from stream_rnn.http.routes import Request, Stream

if TYPE_CHECKING:
    from stream_rnn.http.listener import Listener

_log = logging.getLogger(__name__)

QUICK_BYTES = 1024  # of a body: a longer one may keep a thread, but not this one
KNOWN = 256  # heads; they differ in the length of the body
PIECE = 64 * 1024
SWEEP_S = 0.5  # how often who is overdue is looked for

_END = re.compile(rb"\n\r?\n")  # of a head, as the standard library's parser sees it


@dataclass(slots=True, eq=False)
class _Staying:
    """A connection, and what has come of its next request."""

    connection: socket.socket
    client: Any
    until: float  # when that must be complete
    came: bytearray = field(default_factory=bytearray)
    is_queued: bool = False  # more of it has come than was looked at; nothing else touches it


class Kept:
    """Serves connections that stay, on a thread that starts with the first of them.

    Args:
        server: whose they are; gets back those that want something else, and those that end.
    """

    def __init__(self, server: Listener) -> None:
        self._server = server
        self._heads: dict[bytes, Repeatable] = {}
        self._coming: deque[tuple[socket.socket, Any, bytes]] = deque()
        self._again: deque[_Staying] = deque()  # the queued ones
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        every_s = min(SWEEP_S, server.bounds.kept_s / 4, server.bounds.patience_s / 4)
        self._every_s = max(every_s, 0.01)

    def take(self, connection: socket.socket, client: Any, behind: bytes) -> bool:
        """From now on it is served here; False: it cannot be, close it. Any thread.

        Args:
            connection: whose last answer was sent.
            client: its address.
            behind: bytes of the next request that were read already.
        """
        with self._lock:
            if self._is_closing:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="http kept", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # too many on this machine; perhaps the next one finds room
                    _log.warning("no thread for connections that stay; one is closed")
                    return False
                self._thread = thread
            self._coming.append((connection, client, behind))
        self._wake()
        return True

    def close(self) -> None:
        """Let go of all; an answer under way is finished."""
        with self._lock:
            self._is_closing = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full of calls that were not heard yet
            self._waker.send(b".")

    # On the thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        sweep_at = time.monotonic() + self._every_s
        while not self._is_closing:
            wait_s = 0.0 if self._again else max(0.0, sweep_at - time.monotonic())
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    self._welcome()
                else:
                    self._receive(key.data)
            for _ in range(len(self._again)):
                staying = self._again.popleft()
                staying.is_queued = False
                self._go_on(staying)
            if time.monotonic() >= sweep_at:
                self._sweep()
                sweep_at = time.monotonic() + self._every_s
        self._welcome()
        for staying in self._all():
            self._drop(staying)

    def _welcome(self) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._coming:
            connection, client, behind = self._coming.popleft()
            connection.setblocking(False)
            until = time.monotonic() + self._server.bounds.kept_s
            staying = _Staying(connection, client, until, bytearray(behind))
            self._selector.register(connection, selectors.EVENT_READ, staying)
            if behind:
                self._queue(staying)

    def _queue(self, staying: _Staying) -> None:
        staying.is_queued = True
        self._again.append(staying)

    def _receive(self, staying: _Staying) -> None:
        if staying.is_queued:
            return
        try:
            piece = staying.connection.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._drop(staying)
            return
        if not staying.came:  # the first of a request
            staying.until = time.monotonic() + self._server.bounds.patience_s
        staying.came += piece
        self._go_on(staying)

    def _go_on(self, staying: _Staying) -> None:
        try:
            self._take_one(staying)
        except Exception:  # whatever it was, the others are served still
            _log.exception("a connection that was kept is closed")
            self._drop(staying)

    def _take_one(self, staying: _Staying) -> None:
        """Answer a request, if it is complete; one at a time, for others wait, too."""
        came = staying.came
        end = _END.search(came)
        if end is None:
            if len(came) > self._server.bounds.request_bytes:
                self._give_back(staying)
            return
        known = self._known(bytes(came[: end.end()]))
        if known is None or known.length > QUICK_BYTES:
            self._give_back(staying)
            return
        whole = end.end() + known.length
        if len(came) < whole:
            return
        body = bytes(came[end.end() : whole])
        del came[:whole]
        if not self._answer(staying, known, body):
            self._drop(staying)
            return
        bounds = self._server.bounds
        staying.until = time.monotonic() + (bounds.patience_s if came else bounds.kept_s)
        if came:
            self._queue(staying)

    def _known(self, head: bytes) -> Repeatable | None:
        known = self._heads.get(head)
        if known is None:
            known = self._server.judge.repeatable(head)
            if known is not None:
                if len(self._heads) >= KNOWN:
                    self._heads.clear()
                self._heads[head] = known
        return known

    def _answer(self, staying: _Staying, known: Repeatable, body: bytes) -> bool:
        """Whether the connection stays."""
        request = Request(known.path, known.accept, body)
        answer = self._server.answer(known.path, known.route, request)
        ends = self._server.closing.is_set()
        if isinstance(answer, Stream):
            raise TypeError(f"{known.path}: a route whose connections are kept cannot stream")
        made = rendered("HTTP/1.1", answer.code, *headers_of(answer), ends=ends)
        made += answer.body
        try:
            # short beside what the system holds: who lets that fill up does not read
            return staying.connection.send(made) == len(made) and not ends
        except OSError:
            return False

    def _give_back(self, staying: _Staying) -> None:
        self._selector.unregister(staying.connection)
        self._server.resume(staying.connection, staying.client, bytes(staying.came))

    def _sweep(self) -> None:
        now = time.monotonic()
        for staying in self._all():
            if now >= staying.until and not staying.is_queued:
                self._drop(staying)

    def _all(self) -> list[_Staying]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _drop(self, staying: _Staying) -> None:
        self._selector.unregister(staying.connection)
        self._server.let_go(staying.connection)
