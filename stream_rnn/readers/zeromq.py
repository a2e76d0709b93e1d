"""Readers over ZeroMQ: a ROUTER that REQ and DEALER sockets ask, and the client that asks it.

A request is one frame of JSON, its answer two: the status as in HTTP, in digits, and JSON. Frames
before an empty one are an envelope and come back: a DEALER with several requests on their way puts
a number there, since one that is sent away overtakes others. What is no request is answered as
such, and never stops the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from stream_rnn.spi import SettingError, is_loopback, require_port

if TYPE_CHECKING:
    import zmq

_log = logging.getLogger(__name__)

POLL_MS = 200  # how soon `close` is noticed
QUEUE = 64  # requests of each client that libzmq holds
UNREAD = 1000  # answers of each client; those it does not take are dropped
TURN = 16  # requests that wait to be answered; those beyond are sent away at once
MAX_FRAMES = 5  # identity, envelope, delimiter, request, and one to tell that there are more


class ReadersSocket:
    """Serves requests on a thread of its own, one after the other, between `open` and `close`.

    Args:
        address: "tcp://HOST:PORT"; port 0 takes a free one, which `address` then tells.
        answer: a request -> status and answer; raises nothing.
        busy: the same for a request that there is no time for.
        max_bytes: of a frame; who sends a larger one is disconnected.
        insecure: allow an address that other machines can reach.
        listening: descriptor of a socket that listens at the address already, e.g. another
            process's; it is closed with the socket. None: `open` makes one.

    Raises:
        SettingError: the address is malformed, or reachable from elsewhere without `insecure`.
    """

    def __init__(
        self,
        address: str,
        answer: Callable[[bytes], tuple[int, bytes]],
        busy: Callable[[], tuple[int, bytes]],
        max_bytes: int,
        insecure: bool = False,
        listening: int | None = None,
    ) -> None:
        require_place(address, insecure)
        self.address = address
        self._listening = listening
        self._answer = answer
        self._busy = busy
        self._waiting: deque[list[bytes]] = deque()
        self._max_bytes = max_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    def open(self) -> None:
        """Take the port and start serving; raises SettingError if that fails."""
        try:
            import zmq
        except ImportError:
            raise SettingError(
                "address: needs pyzmq (pip install pyzmq); or ask over HTTP, and leave it out"
            ) from None

        context = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, self._max_bytes)
        socket.set(zmq.RCVHWM, QUEUE)
        socket.set(zmq.SNDHWM, UNREAD)
        socket.set(zmq.IPV6, 1 if "[" in self.address else 0)
        if self._listening is not None:
            socket.set(zmq.USE_FD, self._listening)
        try:
            socket.bind(self.address.replace("localhost", "127.0.0.1"))
        except zmq.ZMQError as error:
            socket.close()
            context.term()
            raise SettingError(
                f"address: {self.address} cannot be listened on ({error}); choose another port, "
                "or stop who uses it"
            ) from error
        self.address = socket.get_string(zmq.LAST_ENDPOINT)
        self._context, self._socket = context, socket
        self._thread = threading.Thread(target=self._serve, name="readers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and release the port; a second call does nothing."""
        if self._thread is not None and self._context is not None:
            self._closing = True
            self._thread.join()
            self._context.term()
            self._thread = self._context = None

    def _serve(self) -> None:
        import zmq

        socket = self._socket
        assert socket is not None
        with contextlib.closing(socket):
            while not self._closing:
                try:
                    self._receive(socket)
                    if self._waiting:
                        self._reply(socket, self._waiting.popleft())
                except zmq.ZMQError as error:  # out of memory or descriptors: do not spin
                    _log.warning("readers at %s: %s", self.address, error)
                    time.sleep(POLL_MS / 1000)

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        """Take what has come: in libzmq's queues it would wait unseen, and for how long."""
        import zmq

        for _ in range(QUEUE):
            if not socket.poll(0 if self._waiting else POLL_MS):
                return
            frames: list[bytes] = [socket.recv()]
            while socket.get(zmq.RCVMORE):
                frame = socket.recv()
                if len(frames) < MAX_FRAMES:  # those beyond are thrown away
                    frames.append(frame)
            if len(self._waiting) < TURN:
                self._waiting.append(frames)
            else:
                self._reply(socket, frames, is_busy=True)

    def _reply(self, socket: zmq.Socket[bytes], frames: list[bytes], is_busy: bool = False) -> None:
        import zmq

        n = frames.index(b"", 1) + 1 if b"" in frames[1:] else 1  # behind the envelope
        way = frames[:n]
        request = frames[len(way) :]
        if is_busy:
            status, body = self._busy()
        else:  # what is no request is told what was expected
            status, body = self._answer(request[0] if len(request) == 1 else b"")
        with contextlib.suppress(zmq.Again):  # who asked does not read: the answer is dropped
            socket.send_multipart([*way, str(status).encode(), body], zmq.NOBLOCK)


def ask(address: str, body: bytes, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Ask a daemon's readers; raises TimeoutError if no answer comes, SettingError if none can."""
    _parts(address)
    import zmq

    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise SettingError(f"{address} cannot be connected to: {error}") from error
        socket.send(body)
        if not socket.poll(int(timeout_s * 1000)):
            raise TimeoutError(f"no answer from {address} within {timeout_s:g} s")
        frames = socket.recv_multipart()
    if len(frames) != 2 or not frames[0].isdigit():
        raise SettingError(f"{address}: what answers there is no daemon's [readers] address")
    return int(frames[0]), frames[1]


def require_place(address: str, insecure: bool) -> tuple[str, int]:
    """Host and port of "tcp://HOST:PORT".

    Raises:
        SettingError: it is malformed, or reachable from elsewhere without `insecure`.
    """
    host, port = _parts(address)
    if not is_loopback(host) and not insecure:
        raise SettingError(
            f"address: {address} can be reached by other machines, and readers are asked for "
            f'no password; use "tcp://127.0.0.1:{port}", or set insecure = true where every '
            "machine around is trusted"
        )
    return host.replace("localhost", "127.0.0.1"), port


def _parts(address: str) -> tuple[str, int]:
    scheme, colon, rest = address.partition("://")
    if scheme != "tcp" or not colon:
        raise SettingError(f'address: expected "tcp://127.0.0.1:5570", got {address!r}')
    return require_port(rest)
