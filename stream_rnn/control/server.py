"""The daemon's end of the control socket: for its own user and root, bounded in every way.

A thread accepts, and one more per connection waits for its answer. Neither touches the model:
requests are handed over, the loop's thread does them.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path

from stream_rnn.control.line import (
    MAX_REQUEST_BYTES,
    Answer,
    BadLine,
    Request,
    encode,
    parse,
    read_line,
)
from stream_rnn.control.place import NAME, address, peer

_log = logging.getLogger(__name__)

CONNECTIONS = 4  # at a time; a further one is told so
BACKLOG = 16
PATIENCE_S = 2.0  # for a request to arrive, and again for its answer to be taken
POLL_S = 0.1  # how soon a hang-up and `close` are noticed
LAST_WORDS_S = 2.0  # for answers under way when the daemon leaves


class ControlServer:
    """Listens in the state folder between `open` and `close`.

    Args:
        directory: the state folder, locked by this process: a socket found there is a dead one's.
        ask: takes a verb and its argument, on any thread; the future gets the answer.
        stuck: why nothing is answered, e.g. that the loop does not turn; for the client's eyes.
    """

    def __init__(
        self,
        directory: Path,
        ask: Callable[[str, str], Future[Answer]],
        stuck: Callable[[], list[str]],
    ) -> None:
        self.path = directory / NAME
        self._directory = directory
        self._ask, self._stuck = ask, stuck
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._closing = threading.Event()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._talks: set[threading.Thread] = set()

    def open(self) -> None:
        """Bind, replacing the socket of a killed process, and start to listen.

        Raises:
            OSError: no socket can be made here; the text says why and what to do.
        """
        self._remove_stale()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with address(self._directory) as short:
                # Nobody is let in meanwhile: nothing listens yet, and `_talk` asks who it is.
                listening.bind(short)
                Path(short).chmod(0o600)
            listening.listen(BACKLOG)
            listening.settimeout(POLL_S)
        except BaseException:
            listening.close()
            raise
        self._socket = listening
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the answers under way and remove the socket; a second call does nothing."""
        if self._socket is None or self._thread is None:
            return
        self._closing.set()
        self._thread.join()
        until = time.monotonic() + LAST_WORDS_S
        for talk in list(self._talks):
            talk.join(max(0.0, until - time.monotonic()))
        self._socket.close()
        self._socket = self._thread = None
        self.path.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(0, f"{self.path} is there and is no socket; move it away")
        self.path.unlink()

    def _accept(self) -> None:
        assert self._socket is not None
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:  # out of file descriptors: it stays readable, do not spin
                _log.debug("the control socket cannot accept: %s", error)
                self._closing.wait(1.0)
                continue
            if not self._slots.acquire(blocking=False):
                self._refuse(connection)
                continue
            talk = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._talks.add(talk)
            try:
                talk.start()
            except RuntimeError as error:  # no thread to be had
                _log.warning("the control socket cannot answer: %s", error)
                self._talks.discard(talk)
                connection.close()
                self._slots.release()

    def _refuse(self, connection: socket.socket) -> None:
        text = f"{CONNECTIONS} others are being answered; try again"
        with connection:
            connection.setblocking(False)
            try:
                connection.send(encode({"ok": False, "text": text}))
            except OSError as error:
                _log.debug("a client of the control socket broke off: %s", error)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._talk(connection)
        except OSError as error:  # TimeoutError too
            _log.debug("a client of the control socket broke off: %r", error)
        finally:
            self._talks.discard(threading.current_thread())
            self._slots.release()

    def _talk(self, connection: socket.socket) -> None:
        uid = peer(connection)[1]
        if uid not in (0, os.geteuid()):
            text = f"user {uid} may not control a daemon of user {os.geteuid()}"
            answer: Answer = {"ok": False, "usage": True, "text": text}
        else:
            try:
                request = parse(read_line(connection, MAX_REQUEST_BYTES, PATIENCE_S))
            except BadLine as error:
                answer = {"ok": False, "usage": True, "text": str(error)}
            else:
                answer = self._answer(connection, request)
        connection.settimeout(PATIENCE_S)
        connection.sendall(encode(answer))

    def _answer(self, connection: socket.socket, request: Request) -> Answer:
        future = self._ask(request.verb, request.argument)
        until = time.monotonic() + request.patience_s
        while True:
            left_s = until - time.monotonic()
            try:
                return future.result(min(POLL_S, max(left_s, 0.0)))
            except NotYet:
                pass
            if left_s <= 0.0:
                future.cancel()  # not begun: it is not done later, behind the client's back
                reasons = "; ".join(self._stuck()) or "it may still be done"
                return {
                    "ok": False,
                    "late": True,
                    "text": f"{request.verb}: not done within {request.patience_s:g} s: {reasons}",
                }
            if _hung_up(connection):
                future.cancel()
                raise ConnectionResetError("the client left before the answer")


def _hung_up(connection: socket.socket) -> bool:
    watch = select.poll()
    watch.register(connection, select.POLLHUP | select.POLLERR)
    return bool(watch.poll(0))
