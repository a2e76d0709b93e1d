"""Readers over ZeroMQ: a ROUTER that REQ and DEALER sockets ask, and the client that asks it.

A request is one frame of JSON, its answer two: the status as in HTTP, in digits, and JSON. What is
no request is answered as such where that is possible, and never stops the loop.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from stream_rnn.spi import SettingError, is_loopback, require_port

if TYPE_CHECKING:
    import zmq

_log = logging.getLogger(__name__)

POLL_MS = 200  # how soon `close` is noticed
QUEUE = 64  # messages each way, of each client; answers nobody takes are dropped
MAX_FRAMES = 4  # identity, delimiter, request, and one to tell that there are more


class ReadersSocket:
    """Serves requests on a thread of its own, one after the other, between `open` and `close`.

    Args:
        address: "tcp://HOST:PORT"; port 0 takes a free one, which `address` then tells.
        answer: a request -> status and answer; raises nothing.
        max_bytes: of a frame; who sends a larger one is disconnected.
        insecure: allow an address that other machines can reach.

    Raises:
        SettingError: the address is malformed, or reachable from elsewhere without `insecure`.
    """

    def __init__(
        self,
        address: str,
        answer: Callable[[bytes], tuple[int, bytes]],
        max_bytes: int,
        insecure: bool = False,
    ) -> None:
        host, port = _parts(address)
        if not is_loopback(host) and not insecure:
            raise SettingError(
                f"address: {address} can be reached by other machines, and readers are asked for "
                f'no password; use "tcp://127.0.0.1:{port}", or set insecure = true where every '
                "machine around is trusted"
            )
        self.address = address
        self._is_local = is_loopback(host)
        self._answer = answer
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
        socket.set(zmq.SNDHWM, QUEUE)
        socket.set(zmq.IPV6, 1 if "[" in self.address else 0)
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
                    if socket.poll(POLL_MS):
                        self._one(socket)
                except zmq.ZMQError as error:  # out of memory or descriptors: do not spin
                    _log.warning("readers at %s: %s", self.address, error)
                    time.sleep(POLL_MS / 1000)

    def _one(self, socket: zmq.Socket[bytes]) -> None:
        """One message in, at most one out; frames beyond the first few are thrown away."""
        import zmq

        frames: list[bytes] = [socket.recv(zmq.NOBLOCK)]
        while socket.get(zmq.RCVMORE):
            frame = socket.recv(zmq.NOBLOCK)
            if len(frames) < MAX_FRAMES:
                frames.append(frame)
        way = frames[:2] if frames[1:2] == [b""] else frames[:1]  # REQ sends a delimiter
        request = frames[len(way) :]
        if len(request) == 1:
            status, body = self._answer(request[0])
        else:
            status, body = self._answer(b"")  # says what was expected
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


def _parts(address: str) -> tuple[str, int]:
    scheme, colon, rest = address.partition("://")
    if scheme != "tcp" or not colon:
        raise SettingError(f'address: expected "tcp://127.0.0.1:5570", got {address!r}')
    return require_port(rest)
