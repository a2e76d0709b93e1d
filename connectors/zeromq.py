"""ZeroMQ: a PULL or SUB source that counts what was lost, a PUSH or PUB sink that never blocks.

ZeroMQ acknowledges nothing: messages in its queues are lost silently when a process or a connection
dies, and PUB drops at a full queue without an error. So a source is at-most-once, and the only way
to *see* a loss is a number that the producer puts into each message (`sequence`).

Longer than most: source and sink share the checks of an address and the settings of a socket.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import zmq
from typing_extensions import override

from stream_rnn.spi import (
    Batch,
    Event,
    Guarantee,
    NotConnected,
    Position,
    Record,
    SettingError,
    Sink,
    Source,
    is_loopback,
)

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_BATCH_BYTES = 64 * _MIB  # a batch ends beyond this, however many events were asked for
_NO_HEADERS: Mapping[str, str] = {}
_MAX_FRAMES = 16
_READABLE = int(zmq.POLLIN)
_JUMP = 1 << 32  # a longer jump is no gap: the producer began a new numbering
_CLOSE_S = 2.0


class ZeromqSource(Source):
    """One event per message; the payload is the LAST frame. At most once: nothing is acknowledged.

    A message larger than `max_message_bytes` makes libzmq drop the connection it came over; the
    producer reconnects by itself and the source goes on (what it had queued there is lost). libzmq
    may hold up to `receive_hwm` messages per producer: choose both for the memory there is. Over
    ipc, what a producer that leaves has left in the kernel while that queue is full is lost; over
    tcp it still arrives.

    Args:
        address: "tcp://HOST:PORT" or "ipc://PATH".
        pattern: "pull" shares a stream among pullers; "sub" takes part in a broadcast.
        bind: listen at the address; otherwise connect to it.
        topic: "sub" only: the prefix of the messages wanted. The topic is a frame of its own.
        sequence: where the producer's number of a message stands. "none"; "frame": 8 bytes, big
            endian, in the frame before the payload; "field:NAME": the integer NAME at the top of
            the JSON or MessagePack payload. Counted are `sequence_gaps` (messages missing),
            `sequence_reordered` (repeated or late), `sequence_restarts` (numbering began anew at
            0 or 1, or jumped far) and `unnumbered`. One numbering per source, hence one producer.
        receive_hwm: messages queued per producer before it is held back ("pull") or loses ("sub").
        max_message_bytes: the largest frame accepted.
        insecure: allow to bind to an address that other machines can reach.
    """

    guarantee = Guarantee.FIRE_AND_FORGET

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:5555",
        pattern: Literal["pull", "sub"] = "pull",
        bind: bool = False,
        topic: str = "",
        sequence: str = "none",
        receive_hwm: int = 10_000,
        max_message_bytes: int = 64 * _MIB,
        insecure: bool = False,
    ) -> None:
        if topic and pattern != "sub":
            raise SettingError(f'topic: only pattern = "sub" has topics, got {topic!r}')
        _require_at_least_1("receive_hwm", receive_hwm)
        _require_at_least_1("max_message_bytes", max_message_bytes)
        self._place = _checked(address, bind, insecure)
        self._address = address
        self._is_sub = pattern == "sub"
        self._bind = bind
        self._topic = topic
        self._receive_hwm = receive_hwm
        self._max_message_bytes = max_message_bytes
        self._numbering = _numbering(sequence)
        self._expected: int | None = None
        self._counters = {
            "sequence_gaps": 0,
            "sequence_reordered": 0,
            "sequence_restarts": 0,
            "unnumbered": 0,
            "malformed": 0,
        }
        self._position = 0
        self._connection: _Connection | None = None

    @override
    def open(self, resume: Position | None) -> None:
        self.close()
        # Never backwards: what was received since cannot be had again under a smaller number.
        self._position = max(self._position, int((resume or {}).get(self._address, 0)))
        self._connection = _Connection(zmq.SUB if self._is_sub else zmq.PULL)
        socket = self._connection.socket
        socket.set(zmq.RCVHWM, self._receive_hwm)
        socket.set(zmq.MAXMSGSIZE, self._max_message_bytes)
        if self._is_sub:
            socket.subscribe(self._topic)
        self._connection.attach(self._place, self._bind)

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._connection is None:
            raise NotConnected(f"{self._address} is not open")
        deadline = time.monotonic() + timeout_s
        socket, address, position = self._connection.socket, self._address, self._position
        receive = socket.recv
        knows_frames = self._is_sub or self._numbering is not None
        flags = zmq.DONTWAIT if timeout_s <= 0 else 0  # only for the first event is waited
        events: list[Event] = []
        n_bytes = 0
        try:
            self._connection.wait_at_most(timeout_s)
            while len(events) < max_events and n_bytes < _BATCH_BYTES:
                frame = receive(flags, copy=False)  # it knows itself whether it is the last one
                data, headers = frame.bytes, _NO_HEADERS
                if frame.more or knows_frames:
                    frames = _rest(socket, frame)
                    if len(frames) > _MAX_FRAMES:
                        self._counters["malformed"] += 1
                        if time.monotonic() >= deadline:
                            break
                        continue
                    data, headers = frames[-1], self._headers_of(frames)
                    self._count(frames)
                position += 1
                n_bytes += len(data)
                events.append(Event(address, position, data, None, None, headers))
                if not flags:
                    flags = zmq.DONTWAIT
                    if not int(socket.get(zmq.EVENTS)) & _READABLE:  # an error would cost more
                        break
        except zmq.Again:
            pass  # nothing more has come
        except zmq.ZMQError as error:
            if not events:
                raise NotConnected(f"{address}: {error}") from error
        self._position = position
        return Batch(events, {address: position})

    def _headers_of(self, frames: list[bytes]) -> Mapping[str, str]:
        """The topic of a broadcast: its first frame, unless that is the payload or the number."""
        if not self._is_sub:
            return _NO_HEADERS
        n_others = 1 + (self._numbering is _frame_number)
        if len(frames) <= n_others:
            return _NO_HEADERS
        return {"topic": frames[0].decode("utf-8", "replace")}

    def _count(self, frames: list[bytes]) -> None:
        """Compare a message's number with the one expected next."""
        if self._numbering is None:
            return
        number, expected = self._numbering(frames), self._expected
        if number is None:
            self._counters["unnumbered"] += 1
            return
        if expected is None or number == expected:
            pass
        elif (number <= 1 < expected) or abs(number - expected) > _JUMP:
            self._counters["sequence_restarts"] += 1
        elif number > expected:
            self._counters["sequence_gaps"] += number - expected
        else:
            self._counters["sequence_reordered"] += 1
            return
        self._expected = number + 1

    @override
    def counters(self) -> Mapping[str, int]:
        return dict(self._counters)

    @override
    def describe(self) -> str:
        pattern = "SUB" if self._is_sub else "PULL"
        return f"ZeroMQ {pattern} {'bound' if self._bind else 'connected'} to {self._address}"

    @override
    def close(self) -> None:
        if self._connection is not None:
            self._connection.close(linger_s=0)
            self._connection = None


class ZeromqSink(Sink):
    """One JSON object per message; never blocks, never confirms.

    The only buffer is libzmq's queue of `send_hwm` messages. When it is full, or a bound sink has
    no reader, PUSH drops the *newest* records, which are counted in `dropped` and announced by one
    log line when dropping begins and one when it ends. PUB drops per reader, and cannot tell.
    ZeroMQ does not acknowledge, so `flush` has nothing to wait for (and touches no socket: it may
    be another thread's); `close` gives the queue 2 s to leave.

    Args:
        address: "tcp://HOST:PORT" or "ipc://PATH".
        pattern: "push" shares the records among pullers; "pub" broadcasts them.
        bind: listen at the address; otherwise connect to it.
        topic: "pub" only: sent as a frame before the payload.
        send_hwm: how many messages wait for a slow reader.
        insecure: allow to bind to an address that other machines can reach.
    """

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:5556",
        pattern: Literal["push", "pub"] = "push",
        bind: bool = False,
        topic: str = "",
        send_hwm: int = 10_000,
        insecure: bool = False,
    ) -> None:
        if topic and pattern != "pub":
            raise SettingError(f'topic: only pattern = "pub" has topics, got {topic!r}')
        _require_at_least_1("send_hwm", send_hwm)
        self._place = _checked(address, bind, insecure)
        self._address = address
        self._is_pub = pattern == "pub"
        self._bind = bind
        self._prefix = [topic.encode()] if topic else []
        self._send_hwm = send_hwm
        self._encoder = msgspec.json.Encoder()
        self._connection: _Connection | None = None
        self._is_dropping = False
        self.dropped = 0

    @override
    def open(self) -> None:
        self.close()
        self._connection = _Connection(zmq.PUB if self._is_pub else zmq.PUSH)
        self._connection.socket.set(zmq.SNDHWM, self._send_hwm)
        self._connection.attach(self._place, self._bind)

    @override
    def write(self, records: Sequence[Record]) -> None:
        if self._connection is None:
            raise NotConnected(f"{self._address} is not open")
        socket, prefix = self._connection.socket, self._prefix
        for payload in [self._encoder.encode(record) for record in records]:
            try:
                if prefix:
                    socket.send_multipart([*prefix, payload], zmq.NOBLOCK)
                else:  # a third of the time
                    socket.send(payload, zmq.NOBLOCK)
            except zmq.Again:
                self.dropped += 1
                self._set_dropping(True)
            except zmq.ZMQError as error:
                raise NotConnected(f"{self._address}: {error}") from error
            else:
                if self._is_dropping:
                    self._set_dropping(False)

    def _set_dropping(self, is_dropping: bool) -> None:
        if is_dropping != self._is_dropping:
            self._is_dropping = is_dropping
            if is_dropping:
                log.warning("%s: no reader or a full queue; records are dropped", self._address)
            else:
                log.info("%s: records leave again; %d were dropped", self._address, self.dropped)

    def counters(self) -> Mapping[str, int]:
        """Monotone counts, as of a source."""
        return {"dropped": self.dropped}

    @override
    def describe(self) -> str:
        pattern = "PUB" if self._is_pub else "PUSH"
        return f"ZeroMQ {pattern} {'bound' if self._bind else 'connected'} to {self._address}"

    @override
    def close(self) -> None:
        if self._connection is not None:
            self._connection.close(linger_s=_CLOSE_S)
            self._connection = None


class _Connection:
    """A socket in a context of its own, so that closing one connector never waits for another."""

    def __init__(self, kind: zmq.SocketType) -> None:
        self._waits_s = -1.0  # unknown
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RECONNECT_IVL, 100)
        self.socket.set(zmq.RECONNECT_IVL_MAX, 5_000)
        # A peer that vanished without a word, e.g. behind a cut cable, is noticed and left. By TCP,
        # not by ZMTP heartbeats: a socket held back by a full queue does not read its peer's
        # answers, takes it for dead, and libzmq aborts the process (libzmq issue 3937, PR 4830).
        self.socket.set(zmq.TCP_KEEPALIVE, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_IDLE, 20)
        self.socket.set(zmq.TCP_KEEPALIVE_INTVL, 5)
        self.socket.set(zmq.TCP_KEEPALIVE_CNT, 4)

    def attach(self, address: str, bind: bool) -> None:
        self.socket.set(zmq.IPV6, int("[" in address))
        try:
            if bind:
                self.socket.bind(address)
            else:
                self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close(linger_s=0)
            remedy = "correct the address"
            if error.errno == zmq.EADDRINUSE:
                remedy = "stop the process that listens there, choose another port or set bind off"
            verb = "bind" if bind else "connect"
            raise SettingError(f"address: cannot {verb} to {address}: {error}; {remedy}") from error

    def wait_at_most(self, seconds: float) -> None:
        """So long does the socket wait for a message, where it may."""
        if seconds != self._waits_s:
            self._waits_s = seconds
            self.socket.set(zmq.RCVTIMEO, max(1, int(seconds * 1000)))

    def close(self, linger_s: float) -> None:
        self.socket.close(linger=int(linger_s * 1000))
        self.context.term()  # waits for what lingers


def _rest(socket: zmq.Socket[bytes], frame: zmq.Frame) -> list[bytes]:
    """The frames of the message that begins so, of which at most `_MAX_FRAMES` + 1 are kept."""
    frames = [frame.bytes]
    while frame.more:
        frame = socket.recv(zmq.DONTWAIT, copy=False)
        if len(frames) <= _MAX_FRAMES:
            frames.append(frame.bytes)
    return frames


def _numbering(sequence: str) -> Callable[[list[bytes]], int | None] | None:
    """What finds a message's number in its frames; None = messages carry none."""
    if sequence == "none":
        return None
    if sequence == "frame":
        return _frame_number
    kind, _, name = sequence.partition(":")
    if kind != "field" or not name:
        raise SettingError(
            'sequence: expected "none", "frame" or "field:NAME", e.g. "field:seq", '
            f"got {sequence!r}"
        )
    # Only this field is decoded; the rest of the payload is skipped over.
    payload: Any = msgspec.defstruct("Payload", [("number", int)], rename={"number": name})
    decode_json = msgspec.json.Decoder(payload).decode
    decode_msgpack = msgspec.msgpack.Decoder(payload).decode

    def field_number(frames: list[bytes]) -> int | None:
        data = frames[-1]
        decode = decode_json if data[:1] in b"{ \t\r\n" else decode_msgpack
        try:
            number: int = decode(data).number
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None  # counted as unnumbered; the codec will say what is wrong
        return number if number >= 0 else None

    return field_number


def _frame_number(frames: list[bytes]) -> int | None:
    if len(frames) < 2 or len(frames[-2]) != 8:
        return None
    return int.from_bytes(frames[-2], "big")


def _checked(address: str, bind: bool, insecure: bool) -> str:
    """The address as libzmq wants it; SettingError if it is malformed or open to the network."""
    if address.startswith(("ipc://", "inproc://")) and len(address) > len("inproc://"):
        return address
    match = re.fullmatch(r"tcp://(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) <= 65535:
        raise SettingError(
            f'address: expected "tcp://HOST:PORT", e.g. "tcp://127.0.0.1:5555", or "ipc://PATH", '
            f"got {address!r}"
        )
    host = match[1].strip("[]")
    if bind and not insecure and not is_loopback(host):
        raise SettingError(
            f"address: binding to {address} lets every machine that reaches this one send and read "
            "events, as ZeroMQ asks nobody who they are; bind to 127.0.0.1, or set insecure = true "
            "where a firewall or a tunnel stands in front"
        )
    # libzmq binds to addresses and interfaces, not to names.
    return f"tcp://127.0.0.1:{match[2]}" if bind and host == "localhost" else address


def _require_at_least_1(name: str, value: int) -> None:
    if value < 1:
        raise SettingError(f"{name}: must be at least 1, got {value}")
