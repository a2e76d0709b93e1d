"""The producer's side of `kind = "zeromq_router"`: numbered events, kept until they are durable.

    with Producer("tcp://127.0.0.1:5555", "sensor-7", spool="sensor-7.spool") as producer:
        producer.send(b'{"temperature": 21.5}')

Needs pyzmq and nothing else of this package: the file can be copied into a producer's own tree.
docs/zeromq-protocol.md describes what goes over the wire, for other languages.

Longer than most for that reason: the buffer, the spool and the conversation are one file.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import secrets
import socket as sockets
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import zmq

log = logging.getLogger(__name__)

HELLO, DATA, PING = b"SRP1H", b"SRP1D", b"SRP1P"
WELCOME, ACK, STRANGER, ERROR = b"SRP1W", b"SRP1A", b"SRP1S", b"SRP1E"
_HELLO = struct.Struct(">8sQQQ")  # nonce, turn, oldest event held, newest
_PING = struct.Struct(">QQ")  # newest event sent on this connection, newest held
_STATUS = struct.Struct(">QQQQQQQ")  # turn, last, acked, taken, credit, credit bytes, largest event
_RECORD = struct.Struct(">QII")  # sequence number, size, CRC-32 of both and the event
_SPOOL = b"SRSPOOL1"
_CHUNK = 64  # events sent between two looks at what came
_PATIENCE_S = 60.0  # with a silent source or until the next HELLO, at most


class Refused(Exception):
    """The source does not take this producer's events; `code` says why.

    "gap": events are missing that the producer no longer has. "superseded": a newer producer uses
    the id. "full": too many ids. "too_large": an event kept is larger than the source allows.
    "version", "malformed": the two do not understand each other.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Producer:
    """Sends events that count exactly once, whatever is killed; use it from any thread.

    Events are numbered 1, 2, 3... and kept, in memory and in the spool if there is one, until the
    source has them in a durable snapshot. What a *killed* producer had not yet got acknowledged is
    found again in its spool; without one it has to come from the caller's own log: number the
    events (`send(data, seq)`, e.g. by the line) and begin after `resume_after`. With neither, the
    events of a killed producer may be lost, and `send` numbers on behind what the source has taken.

    Nothing is opened before the first `connect`, `send` or `flush`, but for the spool.

    Args:
        address: where the source is bound, "tcp://HOST:PORT" or "ipc://PATH".
        id: 1 to 128 printable ASCII characters, the same in every life of this producer, and used
            by no other one.
        buffer_events, buffer_bytes: kept at most; `send` blocks when they are full. At least what
            is sent between two snapshots of the daemon, or it waits for them.
        spool: path of a file on disk, for this producer alone.
        fsync: flush the spool to disk with every event: it survives a power failure, too.
        curve_server_key, curve_public_key, curve_secret_key: encrypt; 40 characters each.
        heartbeat_s: seconds between two PINGs; a source silent for three is connected to anew.

    Raises:
        ValueError: an argument makes no sense.
        OSError: the spool cannot be opened, or another producer has it open.
    """

    def __init__(
        self,
        address: str,
        id: str,
        *,
        buffer_events: int = 100_000,
        buffer_bytes: int = 256 << 20,
        spool: str | os.PathLike[str] | None = None,
        fsync: bool = False,
        curve_server_key: str | None = None,
        curve_public_key: str | None = None,
        curve_secret_key: str | None = None,
        heartbeat_s: float = 5.0,
    ) -> None:
        if not re.fullmatch(r"[!-~]{1,128}", id):
            raise ValueError(f"id: expected 1 to 128 printable ASCII characters, got {id!r}")
        if not address.startswith(("tcp://", "ipc://")):
            raise ValueError(
                f'address: expected "tcp://HOST:PORT" or "ipc://PATH", got {address!r}'
            )
        if buffer_events < 1 or buffer_bytes < 1 or not heartbeat_s > 0:
            raise ValueError("buffer_events, buffer_bytes and heartbeat_s must be positive")
        curve = (curve_server_key, curve_public_key, curve_secret_key)
        if any(curve) and not all(curve):
            raise ValueError("curve_server_key, curve_public_key, curve_secret_key: all or none")
        self.id = id
        self._address = address
        self._buffer_events, self._buffer_bytes = buffer_events, buffer_bytes
        self._curve = [key.encode() for key in curve if key]
        self._heartbeat_s = heartbeat_s
        self._nonce = secrets.token_bytes(8)
        self._changed = threading.Condition()
        # Under `_changed`: `_kept` always holds consecutive numbers, up to `_next` - 1.
        self._spool = None if spool is None else _Spool(Path(spool), fsync)
        self._kept: dict[int, bytes] = {} if self._spool is None else self._spool.load()
        self._kept_bytes = sum(map(len, self._kept.values()))
        self._next = max(self._kept) + 1 if self._kept else None
        self._by_caller = False  # the caller numbers
        self._acked = 0
        self._resume_after: int | None = None
        self._last = 0  # of the newest WELCOME
        self._largest: int | None = None
        self._refused: Refused | None = None
        self._failure: BaseException | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._is_woken = False
        # The thread's own:
        self._live = False  # welcomed on this connection
        self._turn = 0  # of the newest HELLO: what answers an older one is stale
        self._sent = 0
        self._taken = 0
        self._credit = 0
        self._credit_bytes = 0
        self._hello_at = 0.0  # not before ...
        self._retry_s = heartbeat_s  # ... and how long after this one the next

    # ------------------------------------------------------------------ the caller's side

    def connect(self, timeout_s: float | None = None) -> int:
        """Wait for the source's welcome; the number after which a caller's own log goes on.

        Raises:
            TimeoutError: nobody answered in time; it goes on trying.
            Refused: the source does not want us.
        """
        with self._changed:
            self._wait(lambda: self._resume_after is not None, timeout_s)
            assert self._resume_after is not None
            return self._resume_after

    def send(self, data: bytes, seq: int | None = None, timeout_s: float | None = None) -> int:
        """Keep one event and send it as soon as the source takes it; its number.

        Blocks while the buffer is full, and without `seq` and spooled events until the source has
        said for the first time where to go on.

        Args:
            data: the event, as the daemon's codec expects it.
            seq: its number in the caller's own log, which holds the same event under it for ever;
                consecutive. What is acknowledged already is passed over.
            timeout_s: how long to block; None: for ever.

        Raises:
            TimeoutError: the event was not taken over.
            Refused: the source does not want us, and there is no more room to wait for it.
            ValueError: the event is too large, or the number does not follow.
            OSError: the spool could not be written; the event was not taken over.
        """
        data = bytes(data)
        with self._changed:
            if seq is not None and self._spool is not None:
                raise ValueError("seq: a spool numbers by itself; give one or the other")
            if seq is None and self._by_caller:
                raise ValueError("seq: events were numbered by the caller; go on so")
            self._wait(lambda: self._has_room(len(data), seq), timeout_s)
            if self._largest is not None and len(data) > self._largest:
                raise ValueError(
                    f"event of {len(data)} bytes: the source takes {self._largest} at most "
                    "(max_message_bytes)"
                )
            number = self._next if seq is None else self._checked(seq)
            assert number is not None
            if number <= self._acked:
                return number
            if self._spool is not None:
                self._spool.append(number, data)
            self._kept[number] = data
            self._kept_bytes += len(data)
            self._next = number + 1
            self._wake()
            return number

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything sent so far is in a durable snapshot; False: not yet.

        Raises:
            Refused: the source does not want us.
        """
        with self._changed:
            target = (self._next or 1) - 1
            try:
                self._wait(lambda: not self._kept or self._acked >= target, timeout_s)
            except TimeoutError:
                return False
            return True

    @property
    def acknowledged(self) -> int:
        """The newest event that is in a durable snapshot, as far as we were told."""
        return self._acked

    @property
    def newest(self) -> int | None:
        """The newest event that `send` took over, in any life; None until it is known."""
        return None if self._next is None else self._next - 1

    @property
    def resume_after(self) -> int | None:
        """Where a caller who numbers by itself goes on: behind it. None before `connect`."""
        return self._resume_after

    @property
    def refused(self) -> Refused | None:
        """Why the source does not take our events now; None: it does, or is not there."""
        return self._refused

    @property
    def n_kept(self) -> int:
        """Events not yet acknowledged."""
        return len(self._kept)

    def close(self) -> None:
        """Stop at once; what is not acknowledged stays in the spool, or is given up."""
        with self._changed:
            self._closing = True
            self._wake()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._wake_in.close()
            self._wake_out.close()
        if self._spool is not None:
            self._spool.close()
        elif self._kept and not self._by_caller:
            log.warning("%s: closed with %d events not acknowledged", self.id, len(self._kept))

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush()  # however long it takes; call close() to leave at once
        finally:
            self.close()

    # ------------------------------------------------------------------ under the lock

    def _wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> None:
        """Until `is_done`; a refusal ends it where waiting is all that is left to do."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name=f"producer {self.id}")
            self._thread.daemon = True  # must not keep a program alive that forgot to close
            self._wake_in, self._wake_out = sockets.socketpair()
            self._wake_in.setblocking(False)
            self._wake_out.setblocking(False)
            self._thread.start()
        while True:
            if self._failure is not None:
                raise RuntimeError(
                    f"producer {self.id} stopped: {self._failure}"
                ) from self._failure
            if self._closing:
                raise RuntimeError(f"producer {self.id} is closed")
            if is_done() and not self._is_superseded():
                return
            if self._refused is not None:
                raise Refused(self._refused.code, str(self._refused).partition(": ")[2])
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                kept = len(self._kept)
                raise TimeoutError(
                    f"producer {self.id}: {self._address} did not answer or take enough within "
                    f"{timeout_s:g} s; {kept} {'event is' if kept == 1 else 'events are'} kept"
                )
            self._changed.wait(left_s)

    def _is_superseded(self) -> bool:
        return self._refused is not None and self._refused.code == "superseded"

    def _has_room(self, size: int, seq: int | None) -> bool:
        if seq is not None and seq <= self._acked:
            return True
        if seq is None and self._next is None:
            return False  # not yet told where to go on
        is_full = len(self._kept) >= self._buffer_events
        return not is_full and not (self._kept and self._kept_bytes + size > self._buffer_bytes)

    def _checked(self, seq: int) -> int:
        """A caller's number, if it follows."""
        if not self._by_caller:
            if self._kept:
                raise ValueError("seq: events were sent without numbers; go on so")
            self._by_caller, self._next = True, None
        if seq < 1:
            raise ValueError(f"seq: numbers begin at 1, got {seq}")
        expected = None if self._next is None else max(self._next, self._acked + 1)
        if expected is not None and seq != expected and seq > self._acked:
            raise ValueError(f"seq: expected {expected}, the next one, got {seq}")
        if expected is None and self._resume_after is not None and seq > self._last + 1:
            raise ValueError(f"seq: {self._last + 1} is the next one the source needs, got {seq}")
        return seq

    def _wake(self) -> None:
        if self._thread is not None and self._thread.is_alive() and not self._is_woken:
            self._is_woken = True
            self._wake_in.send(b"!")

    def _forget(self, acked: int) -> None:
        """Everything up to `acked` is durable at the source."""
        if acked <= self._acked:
            return
        for seq in list(itertools.takewhile(lambda seq: seq <= acked, self._kept)):
            self._kept_bytes -= len(self._kept.pop(seq))
        self._acked = acked
        if self._spool is not None:
            self._spool.shrink(self._kept, self._kept_bytes)

    # ------------------------------------------------------------------ the thread's side

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        patience_s = 3 * self._heartbeat_s
        try:
            while not self._closing and not self._is_superseded():
                self._live = False
                with context.socket(zmq.DEALER) as socket:
                    self._attach(socket)
                    was_heard = self._converse(socket, patience_s)
                # Each attempt costs a source that is merely busy a connection: ever fewer of them.
                longest_s = max(_PATIENCE_S, 3 * self._heartbeat_s)
                patience_s = 3 * self._heartbeat_s if was_heard else min(2 * patience_s, longest_s)
        except Exception as error:  # told to whoever waits: nobody sees a thread die
            log.exception("producer %s stopped", self.id)
            self._failure = error
        finally:
            context.term()
            with self._changed:
                self._changed.notify_all()

    def _attach(self, socket: zmq.Socket[bytes]) -> None:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.IPV6, int("[" in self._address))
        socket.set(zmq.IMMEDIATE, 1)  # nothing waits in a queue to nowhere, to come late
        socket.set(zmq.PROBE_ROUTER, 1)  # each new connection begins with an empty message
        socket.set(zmq.RECONNECT_IVL, 100)
        socket.set(zmq.RECONNECT_IVL_MAX, 5_000)
        socket.set(zmq.TCP_KEEPALIVE, 1)
        socket.set(zmq.TCP_KEEPALIVE_IDLE, 20)
        socket.set(zmq.TCP_KEEPALIVE_INTVL, 5)
        socket.set(zmq.TCP_KEEPALIVE_CNT, 4)
        socket.set(zmq.TCP_MAXRT, 40_000)
        if self._curve:
            server, public, secret = self._curve
            socket.set(zmq.CURVE_SERVERKEY, server)
            socket.set(zmq.CURVE_PUBLICKEY, public)
            socket.set(zmq.CURVE_SECRETKEY, secret)
        socket.connect(self._address)

    def _converse(self, socket: zmq.Socket[bytes], patience_s: float) -> bool:
        """Until it is time to close or the source is silent for too long; whether it ever spoke."""
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        was_heard = False
        heard_at = ping_at = time.monotonic()
        while not self._closing and not self._is_superseded():
            now = time.monotonic()
            if now - heard_at > patience_s:
                if was_heard:
                    log.warning("%s is silent for %.0f s", self._address, patience_s)
                return was_heard
            if now >= ping_at:
                ping_at = now + self._heartbeat_s
                self._greet(socket)
            is_held_up = self._pour(socket)
            poller.register(socket, zmq.POLLIN | (zmq.POLLOUT if is_held_up else 0))
            poller.poll(max(1, int((min(ping_at, heard_at + patience_s) - now) * 1000)))
            self._drain()
            while (frames := _receive(socket)) is not None:
                heard_at, was_heard = time.monotonic(), True
                self._handle(socket, frames)
        return was_heard

    def _drain(self) -> None:
        with self._changed:
            if self._is_woken:
                self._wake_out.recv(64)
                self._is_woken = False

    def _greet(self, socket: zmq.Socket[bytes]) -> None:
        """A PING where we are known, else a HELLO unless we were just refused."""
        with self._changed:
            oldest, newest = next(iter(self._kept), None), (self._next or 1) - 1
        if self._live:
            _send(socket, PING + _PING.pack(self._sent, newest))
        elif time.monotonic() >= self._hello_at:
            # Who has sent nothing yet, in this life, begins wherever it is told: (0, 0).
            held = (0 if not newest else newest + 1 if oldest is None else oldest, newest)
            self._hello_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, max(_PATIENCE_S, self._heartbeat_s))
            self._live = False
            self._turn += 1
            _send(socket, HELLO + _HELLO.pack(self._nonce, self._turn, *held), self.id.encode())

    def _pour(self, socket: zmq.Socket[bytes]) -> bool:
        """Send what the credit allows; True: more could go if the connection took it."""
        while self._live and not self._closing:
            with self._changed:
                chunk = self._allowed()
            for seq, data in chunk:
                if not _send(socket, DATA + seq.to_bytes(8, "big"), data):
                    return True
                self._sent = seq
            if len(chunk) < _CHUNK or socket.poll(0):  # an answer first
                return len(chunk) == _CHUNK
        return False

    def _allowed(self) -> list[tuple[int, bytes]]:
        """The next events within the credit, at most `_CHUNK`; under the lock."""
        chunk: list[tuple[int, bytes]] = []
        end = min(self._next or 1, self._taken + self._credit + 1, self._sent + 1 + _CHUNK)
        if self._sent + 1 >= end:
            return chunk
        flying = range(self._taken + 1, self._sent + 1)
        n_bytes = sum(len(self._kept.get(seq, b"")) for seq in flying)
        for seq in range(self._sent + 1, end):
            data = self._kept[seq]
            n_bytes += len(data)
            if n_bytes > self._credit_bytes and seq != self._taken + 1:
                break
            chunk.append((seq, data))
        return chunk

    def _handle(self, socket: zmq.Socket[bytes], frames: list[bytes]) -> None:
        head = frames[0]
        kind = head[:5]
        if kind in (WELCOME, ACK) and len(head) == 5 + _STATUS.size:
            turn, *status = _STATUS.unpack_from(head, 5)
            with self._changed:
                if turn == self._turn and (self._live or kind == WELCOME):
                    self._status(kind == WELCOME, *status)
                else:  # an answer to an earlier HELLO: what was durable then still is
                    self._forget(status[1])
                self._changed.notify_all()
        elif kind == STRANGER:
            self._live = False
            if self._refused is None:
                self._hello_at = 0.0
            self._greet(socket)
        elif kind == ERROR and len(frames) == 3:
            code, text = (frame.decode("utf-8", "replace") for frame in frames[1:])
            with self._changed:
                self._refuse(code, text)
        else:
            log.warning("%s sent something that is no message: %r", self._address, head[:16])

    def _status(
        self,
        is_welcome: bool,
        last: int,
        acked: int,
        taken: int,
        credit: int,
        share: int,
        most: int,
    ) -> None:
        self._taken, self._credit, self._credit_bytes, self._largest = taken, credit, share, most
        if is_welcome:
            self._welcome(last, acked)
        self._forget(acked)
        if self._live and any(len(data) > most for data in self._kept.values() if is_welcome):
            self._refuse("too_large", f"an event kept is larger than {most} bytes")

    def _welcome(self, last: int, acked: int) -> None:
        """The source has everything up to `last`: go on behind it."""
        if self._refused is not None:
            log.info("producer %s is taken again", self.id)
        self._live, self._refused, self._retry_s = True, None, self._heartbeat_s
        if not self._by_caller and last >= (self._next or 1):
            if self._kept:  # a spool that lost its end in a power failure
                log.warning("producer %s: the source has more than the spool", self.id)
            self._kept.clear()
            self._kept_bytes = 0
            self._next = last + 1
        elif self._next is None and not self._by_caller:
            self._next = 1
        self._last = last
        self._sent = max(last, next(iter(self._kept), last + 1) - 1)
        if self._resume_after is None:
            self._resume_after = acked
            log.info("producer %s is welcome and goes on after event %d", self.id, last)

    def _refuse(self, code: str, text: str) -> None:
        if self._refused is None or self._refused.code != code:
            log.error("producer %s is refused: %s: %s", self.id, code, text)
        self._refused = Refused(code, text)
        self._live = False
        self._changed.notify_all()


class _Spool:
    """The events kept, in a file: appended one by one, written anew when most are acknowledged."""

    def __init__(self, path: Path, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync
        self._file: io.FileIO = path.open("a+b", buffering=0)
        self._size = 0

    def load(self) -> dict[int, bytes]:
        """What is kept; what a crash left behind it is cut off, into a file beside it."""
        try:
            _lock(self._file, self._path)
            return self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> dict[int, bytes]:
        self._file.seek(0)
        content = self._file.read()
        kept: dict[int, bytes] = {}
        if content and not _SPOOL.startswith(content[: len(_SPOOL)]):
            raise ValueError(f"spool: {self._path} is no spool; give another path")
        at = len(_SPOOL)
        while at + _RECORD.size <= len(content):
            seq, size, crc = _RECORD.unpack_from(content, at)
            end = at + _RECORD.size + size
            follows = not kept or seq == next(reversed(kept)) + 1
            if end > len(content) or not follows or crc != _crc(seq, content[end - size : end]):
                break
            kept[seq] = content[end - size : end]
            at = end
        if len(content) < len(_SPOOL):
            self._file.truncate(0)
            self._write(_SPOOL)
        elif at < len(content):
            beside = self._path.with_name(self._path.name + ".damaged")
            beside.write_bytes(content[at:])
            log.warning(
                "%s: the last %d bytes are damaged, moved to %s",
                self._path, len(content) - at, beside,
            )  # fmt: skip
            self._file.truncate(at)
        self._size = max(at, len(_SPOOL))
        return kept

    def append(self, seq: int, data: bytes) -> None:
        record = _record(seq, data)
        try:
            self._write(record)
        except OSError:
            self._file.truncate(self._size)  # half a record would hide what comes after it
            raise
        self._size += len(record)

    def shrink(self, kept: dict[int, bytes], kept_bytes: int) -> None:
        """Give back the room of what is acknowledged, once that is most of the file."""
        if not kept:
            self._file.truncate(len(_SPOOL))
            self._size = len(_SPOOL)
        elif self._size > (1 << 20) + 2 * (kept_bytes + _RECORD.size * len(kept)):
            beside = self._path.with_name(self._path.name + ".new")
            records = (_record(seq, event) for seq, event in kept.items())
            try:
                beside.write_bytes(_SPOOL + b"".join(records))
                file = beside.open("ab", buffering=0)
                _lock(file, beside)
                os.fsync(file.fileno())
                beside.replace(self._path)
            except OSError as error:
                log.warning("%s stays large: %s", self._path, error)
                return
            self._file.close()
            self._file, self._size = file, self._path.stat().st_size

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        if self._fsync:
            os.fsync(self._file.fileno())


def _record(seq: int, data: bytes) -> bytes:
    return _RECORD.pack(seq, len(data), _crc(seq, data)) + data


def _crc(seq: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack(">QI", seq, len(data))))


def _lock(file: io.FileIO, path: Path) -> None:
    try:
        import fcntl  # where there is none, nobody checks that a spool has one owner
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"spool: another producer has {path} open") from None


def _receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def _send(socket: zmq.Socket[bytes], *frames: bytes) -> bool:
    """False: there is no connection, or it takes nothing now."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
