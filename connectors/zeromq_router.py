"""ZeroMQ that can be trusted: producers keep their events until a durable snapshot holds them.

A ROUTER is bound here, each producer is a DEALER (`stream_rnn.producer`, or any language after
docs/zeromq-protocol.md). A producer numbers its events 1, 2, 3...; the source takes them strictly
in order, asks again for what is missing, drops what comes twice, and acknowledges what is durable.
So whatever dies, whoever holds the rest sends it again, and every event counts exactly once.

No thread: the socket is served by `poll`, and by `ack`. Everything the source remembers is bounded
by its settings, whatever comes over the wire.

Longer than most: the states of one protocol belong together, and a connector is a single file.
"""

from __future__ import annotations

import logging
import re
import struct
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import zmq
from typing_extensions import override
from zmq.utils import z85

from stream_rnn.spi import (
    Batch,
    Event,
    Finding,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    SettingError,
    Source,
    is_loopback,
    worded,
)

log = logging.getLogger(__name__)

PROTOCOL = b"SRP1"  # the first bytes of every message; the digit is the version
HELLO, DATA, PING = b"SRP1H", b"SRP1D", b"SRP1P"
WELCOME, ACK, STRANGER, ERROR = b"SRP1W", b"SRP1A", b"SRP1S", b"SRP1E"

_MIB = 1024 * 1024
_PREFIX = "producer/"
_ID = re.compile(r"[!-~]{1,128}")
_HELLO = struct.Struct(">8sQQQ")  # nonce, turn, oldest event held, newest
_PING = struct.Struct(">QQ")  # newest event sent on this connection, newest held
_STATUS = struct.Struct(">QQQQQQQ")  # turn, last, acked, taken, credit, credit bytes, largest event
_SEQUENCE_END = 1 << 63
_BATCH_BYTES = 64 * _MIB  # a batch ends beyond this, however many events were asked for
_MAX_FRAMES = 4
_MESSAGES = 10_000  # events read ahead of the polls, at most
_CONTROL = 64  # messages other than events that a connection may have in our queues
_ASK_S = 1.0  # a producer is asked for the same missing event once per so long
_SWEEP_S = 0.25
_NONCES = 16  # former lives of a producer that are remembered
_LINGER_MS = 2000  # at most, for the last acknowledgment at the end
_PARTING_S = 0.5  # at most, until producers have read it
_PARTING_MS = 50  # between two words of it


@dataclass(slots=True, eq=False)
class _Producer:
    """What is known of one producer; all numbers are its own."""

    name: str
    last: int = 0  # newest event taken over, in order
    queued: int = 0  # of them, not yet polled
    acked: int = 0  # in a durable snapshot
    newest: int = 0  # that it says it holds
    told: int = 0  # `taken` as of the newest status sent
    told_share_bytes: int = 0  # the share of the memory as of that status
    untold_bytes: int = 0  # taken since then
    route: bytes | None = None  # its connection; None: away
    nonce: bytes = b""  # which life of it: drawn anew whenever a producer is made
    turn: int = 0  # which of that life's hellos: connections overtake each other
    former: deque[bytes] = field(default_factory=lambda: deque(maxlen=_NONCES))
    heard_at: float = 0.0
    asked_at: float = float("-inf")
    asked_last: int = -1
    gap: tuple[bytes, int] | None = None  # the life and the event that were refused

    @property
    def taken(self) -> int:
        """The newest event that a poll took: what counts for its credit."""
        return self.last - self.queued


class ZeromqRouterSource(Source):
    """Numbered, acknowledged events from producers that keep what is in no durable snapshot.

    A producer is `stream_rnn.producer.Producer`, or anything that follows docs/zeromq-protocol.md.
    Each has an id of its own and a partition of its own, "producer/ID"; positions are its numbers.
    Events of one producer come strictly in order, each counts exactly once. How the events of
    *several* producers interleave depends on the network and is not the same in a second run.

    Producers send again what no durable snapshot holds, so they must outlive a crash of ours: as a
    process, by a spool on disk, or by a log that they can read again. Where one returns without
    events that it has already given up (the newest snapshot was damaged and an older one is used,
    its spool was lost, its id was forgotten here), there is a gap, see `on_gap`.

    Args:
        address: "tcp://HOST:PORT" or "ipc://PATH", bound.
        credit: events that a producer may have sent and that no poll has taken yet.
        memory_bytes: of such events of all producers; each gets an equal share, one event at least.
        max_message_bytes: the largest event.
        max_producers: ids known at once; a further one is turned away.
        on_gap: "refuse" a producer that lacks events that are missing here, loudly, until somebody
            decides; or "accept" to go on behind the gap, counted: then the guarantee is less.
        expire_s: forget an id that was silent for so long and whose events are all in a durable
            snapshot. If it returns and numbers on, that is a gap. By default never.
        silent_s: a producer not heard of for so long counts as gone until it says hello again.
        curve_secret_key: of this side, 40 characters: encrypts, and opens other addresses than this
            machine's. Better "env:NAME" or "file:PATH". Needs `curve_keys`.
        curve_keys: path of a file with the public keys of those who may connect, one per line, a
            note behind it; lines that begin with "# " are passed over. Read again when it changes.
        insecure: allow an address that other machines can reach without CURVE.
    """

    guarantee = Guarantee.REPLAYABLE
    can_preview = False  # producers would be welcomed by somebody who knows nothing of them
    forgets_acked = True

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:5555",
        credit: int = 1000,
        memory_bytes: int = 256 * _MIB,
        max_message_bytes: int = 16 * _MIB,
        max_producers: int = 1024,
        on_gap: Literal["refuse", "accept"] = "refuse",
        expire_s: float | None = None,
        silent_s: float = 30.0,
        curve_secret_key: str | None = None,
        curve_keys: str | None = None,
        insecure: bool = False,
    ) -> None:
        for name, value in (
            ("credit", credit),
            ("memory_bytes", memory_bytes),
            ("max_message_bytes", max_message_bytes),
            ("max_producers", max_producers),
        ):
            if not 1 <= value < 1 << 31:
                raise SettingError(f"{name}: must be in 1..{(1 << 31) - 1}, got {value}")
        for name, seconds in (("expire_s", expire_s), ("silent_s", silent_s)):
            if seconds is not None and not seconds > 0:
                raise SettingError(f"{name}: must be positive, got {seconds}")
        if (curve_secret_key is None) != (curve_keys is None):
            missing = "curve_keys" if curve_keys is None else "curve_secret_key"
            raise SettingError(
                f"{missing}: curve_secret_key says who we are and curve_keys who may connect; "
                "give both or none"
            )
        self._keys = None
        if curve_secret_key is not None and curve_keys is not None:
            self._secret = _key("curve_secret_key", curve_secret_key)
            self._keys = _Keys(Path(curve_keys))
        self._place = _checked(address, insecure or self._keys is not None)
        self._address = address
        self._credit = credit
        self._memory_bytes = memory_bytes
        self._largest = max_message_bytes
        self._max_producers = max_producers
        self._accepts_gaps = on_gap == "accept"
        self._expire_s = expire_s
        self._silent_s = silent_s
        if self._accepts_gaps:
            self.guarantee = Guarantee.ACKABLE
        self._counters = dict.fromkeys(
            (
                "doubles",
                "out_of_order",
                "over_credit",
                "gaps_refused",
                "gaps_accepted",
                "gap_events",
                "superseded",
                "turned_away",
                "strangers",
                "malformed",
                "curve_refused",
                "expired",
            ),
            0,
        )
        self._was_open = False
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._clear()

    def _clear(self) -> None:
        self._producers: dict[str, _Producer] = {}
        self._by_route: dict[bytes, _Producer] = {}
        self._ready: deque[tuple[_Producer, int, bytes]] = deque()
        self._ready_bytes = 0
        self._untold: set[_Producer] = set()  # whose credit grew
        self._resume: dict[str, int] = {}
        self._swept_at = time.monotonic()

    # ------------------------------------------------------------------ opening

    @override
    def open(self, resume: Position | None) -> None:
        self._close(linger_ms=0)
        durable = {producer.name: producer.acked for producer in self._producers.values()}
        self._clear()
        for partition, position in (resume or {}).items():
            if not partition.startswith(_PREFIX) or not isinstance(position, int):
                log.warning("%s: %s is no producer's position", self._address, partition)
                continue
            name = partition.removeprefix(_PREFIX)
            # The first resume position is a snapshot's. A later one is where the loop stands: of
            # that only what was acknowledged is durable.
            acked = min(durable.get(name, 0), position) if self._was_open else position
            self._producers[name] = _Producer(
                name, position, acked=acked, newest=position, heard_at=self._swept_at
            )
            self._resume[partition] = position
        self._was_open = True
        self._attach()

    def _attach(self) -> None:
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        socket = self._socket = self._context.socket(zmq.ROUTER)
        socket.set(zmq.LINGER, 0)
        # A peer that vanished is noticed by TCP and by the protocol's PING, not by ZMTP heartbeats:
        # see connectors/zeromq.py.
        socket.set(zmq.TCP_KEEPALIVE, 1)
        socket.set(zmq.TCP_KEEPALIVE_IDLE, 20)
        socket.set(zmq.TCP_KEEPALIVE_INTVL, 5)
        socket.set(zmq.TCP_KEEPALIVE_CNT, 4)
        socket.set(zmq.TCP_MAXRT, 40_000)
        socket.set(zmq.ROUTER_MANDATORY, 1)  # a send to nobody is an error, not a silence
        # Who keeps to the credit never meets this limit; who does not is held back by TCP.
        socket.set(zmq.RCVHWM, self._credit + _CONTROL)
        socket.set(zmq.SNDHWM, _CONTROL)
        socket.set(zmq.MAXMSGSIZE, max(self._largest, 4096))
        socket.set(zmq.IPV6, int("[" in self._place))
        self._zap = None
        if self._keys is not None:
            self._keys.read()
            self._zap = self._context.socket(zmq.REP)
            self._zap.set(zmq.LINGER, 0)
            self._zap.bind("inproc://zeromq.zap.01")
            self._poller.register(self._zap, zmq.POLLIN)
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_SECRETKEY, self._secret)
            socket.set(zmq.ZAP_DOMAIN, b"stream-rnn")
        self._poller.register(socket, zmq.POLLIN)
        try:
            socket.bind(self._place)
        except zmq.ZMQError as error:
            self._close(linger_ms=0)
            remedy = "correct the address"
            if error.errno == zmq.EADDRINUSE:
                remedy = "stop the process that listens there, or choose another port"
            raise SettingError(
                f"address: cannot bind to {self._address}: {error}; {remedy}"
            ) from error

    @override
    def close(self) -> None:
        try:
            if self._context is not None:
                self._part()
        finally:
            self._close(_LINGER_MS)

    def _part(self) -> None:
        """Give those who are here a moment to read what they were told last.

        Where a connection ends a DEALER with ZMQ_IMMEDIATE drops what it has received and not yet
        read, maybe the acknowledgment it waits for. Each is made a stranger: its HELLO says that
        it has read all before.
        """
        here = set(self._by_route)
        deadline = time.monotonic() + _PARTING_S
        while here and time.monotonic() < deadline:
            here = {route for route in here if self._send(route, STRANGER)}
            self._socket.poll(_PARTING_MS)
            try:
                while time.monotonic() < deadline:
                    route, frames = _receive(self._socket)
                    if frames and frames[0][:5] == HELLO:
                        here.discard(route)
            except zmq.Again:
                pass  # no more of them now

    def _close(self, linger_ms: int) -> None:
        if self._context is not None:
            if self._zap is not None:
                self._zap.close(linger=0)
            self._socket.close(linger=linger_ms)
            self._context.term()
            self._context = None

    # ------------------------------------------------------------------ the loop's side

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._context is None:
            raise NotConnected(f"{self._address} is not open")
        deadline = time.monotonic() + timeout_s
        try:
            self._read(deadline)
            while not self._ready:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._poller.poll(int(left_s * 1000) or 1)
                self._read(deadline)
            events = self._take(max_events)
            self._tell_credit()
        except zmq.ZMQError as error:
            raise NotConnected(f"{self._address}: {error}") from error
        return Batch(events, dict(self._resume))

    def _take(self, max_events: int) -> list[Event]:
        events: list[Event] = []
        n_bytes = 0
        while self._ready and len(events) < max_events and n_bytes < _BATCH_BYTES:
            producer, seq, data = self._ready.popleft()
            size = len(data)
            producer.queued -= 1
            producer.untold_bytes += size
            self._untold.add(producer)
            n_bytes += size
            partition = _PREFIX + producer.name
            self._resume[partition] = seq
            events.append(Event(partition, seq, data))
        self._ready_bytes -= n_bytes
        return events

    @override
    def ack(self, resume: Position) -> None:
        for producer in self._producers.values():
            position = resume.get(_PREFIX + producer.name, 0)
            if isinstance(position, int) and producer.acked < position <= producer.last:
                producer.acked = position
                if self._context is not None:
                    self._tell(producer, ACK)

    @override
    def lag(self) -> Lag | None:
        if not self._by_route:
            return None
        waiting = (max(0, p.newest - p.taken) for p in self._by_route.values())
        return Lag(events=sum(waiting))

    @override
    def check(self, resume: Position | None) -> list[Finding]:
        known = sum(partition.startswith(_PREFIX) for partition in resume or {})
        found = [
            Finding(
                True,
                f"{known} of at most {self._max_producers} producers "
                f"{worded(known, 'is', 'are')} known; each must keep its "
                "events until they are acknowledged (its process alive, a spool, or its own log)",
            )
        ]
        if self._accepts_gaps:
            text = 'on_gap = "accept": what a producer no longer has is skipped, and counted'
            found.append(Finding(True, text))
        return found

    @override
    def counters(self) -> Mapping[str, int]:
        return dict(self._counters)

    @override
    def describe(self) -> str:
        how = ", CURVE" if self._keys is not None else ""
        return f"ZeroMQ ROUTER bound to {self._address}, credit {self._credit} events{how}"

    # ------------------------------------------------------------------ the wire's side

    def _read(self, deadline: float) -> None:
        """Handle what has arrived: until nothing is left, memory is full or time is up."""
        if self._zap is not None and self._keys is not None:
            self._counters["curve_refused"] += self._keys.answer(self._zap)
        n_read = 0
        while self._ready_bytes < self._memory_bytes and len(self._ready) < _MESSAGES:
            try:
                route, frames = _receive(self._socket)
            except zmq.Again:
                self._sweep()
                return
            self._handle(route, frames)
            n_read += 1
            if n_read % 256 == 0 and time.monotonic() >= deadline:
                return

    def _handle(self, route: bytes, frames: list[bytes]) -> None:
        head = frames[0] if frames else b""
        kind, n_frames = head[:5], len(frames)
        if kind == DATA and n_frames == 2 and len(head) == 13:
            self._data(route, int.from_bytes(head[5:], "big"), frames[1])
        elif kind == HELLO and n_frames == 2 and len(head) == 5 + _HELLO.size:
            self._hello(route, frames[1], *_HELLO.unpack_from(head, 5))
        elif kind == PING and n_frames == 1 and len(head) == 5 + _PING.size:
            self._ping(route, *_PING.unpack_from(head, 5))
        elif n_frames == 1 and not head:  # a connection began: ZMQ_PROBE_ROUTER
            self._send(route, STRANGER)
        else:
            self._counters["malformed"] += 1
            if head[:3] == PROTOCOL[:3] and head[3:4] != PROTOCOL[3:]:
                self._send(route, ERROR, b"version", b"this side speaks version 1")

    def _data(self, route: bytes, seq: int, data: bytes) -> None:
        producer = self._by_route.get(route)
        if producer is None:
            self._counters["strangers"] += 1
        elif seq <= producer.last:
            self._counters["doubles"] += 1
        elif len(data) > self._largest or seq >= _SEQUENCE_END:
            self._counters["malformed"] += 1
        elif producer.queued >= self._credit:
            self._counters["over_credit"] += 1
            self._ask(producer)
        elif seq != producer.last + 1:
            self._counters["out_of_order"] += 1
            self._ask(producer)
        else:
            size = len(data)
            producer.last = seq
            producer.queued += 1
            self._ready_bytes += size
            self._ready.append((producer, seq, data))
            if seq > producer.newest:
                producer.newest = seq

    def _ping(self, route: bytes, sent: int, newest: int) -> None:
        producer = self._by_route.get(route)
        if producer is None or max(sent, newest) >= _SEQUENCE_END:
            self._send(route, STRANGER)
            return
        producer.heard_at = time.monotonic()
        producer.newest = max(producer.last, newest)
        if sent > producer.last:
            self._ask(producer)  # something was lost behind the newest that came
        else:
            self._tell(producer, ACK)

    def _hello(
        self, route: bytes, given: bytes, nonce: bytes, turn: int, oldest: int, newest: int
    ) -> None:
        name = given.decode("ascii", "replace")
        is_sound = oldest <= newest + 1 and newest < _SEQUENCE_END - 1 and (oldest or not newest)
        if not is_sound or not _ID.fullmatch(name):
            self._counters["malformed"] += 1
            self._send(route, ERROR, b"malformed", b"an id is 1 to 128 printable ASCII characters")
            return
        producer = self._producers.get(name) or _Producer(name, heard_at=time.monotonic())
        if nonce == producer.nonce and turn <= producer.turn:
            return  # from a connection that is no more, overtaken by a newer one
        if producer.nonce not in (b"", nonce) and not self._send(route, self._status(producer, 0)):
            return  # a dead producer's last word must not supersede its living successor
        if nonce in producer.former:
            self._send(route, ERROR, b"superseded", b"a newer producer uses this id")
            return
        if name not in self._producers and not self._has_room():
            self._turn_away(route, name)
            return
        if (
            newest
            and oldest > producer.last + 1
            and not self._crosses(producer, route, nonce, oldest)
        ):
            return
        self._seat(producer, route, nonce)
        producer.turn = turn
        producer.newest = max(producer.last, newest)
        log.info("producer %s is here and goes on after event %d", name, producer.last)
        self._tell(producer, WELCOME)

    def _crosses(self, producer: _Producer, route: bytes, nonce: bytes, oldest: int) -> bool:
        """A producer lacks events that are missing here: go on behind them, or refuse."""
        first, n_missing = producer.last + 1, oldest - 1 - producer.last
        text = (
            f"events {first} to {oldest - 1} of producer {producer.name} are missing: they are in "
            "no snapshot here and the producer no longer has them"
        )
        if not self._accepts_gaps:
            if producer.gap != (nonce, oldest):
                producer.gap = (nonce, oldest)
                self._counters["gaps_refused"] += 1
                log.error(
                    '%s; it is refused (on_gap = "accept" goes on behind the gap, as does '
                    "another id)",
                    text,
                )
            self._producers.setdefault(producer.name, producer)  # so that it is said once
            self._send(route, ERROR, b"gap", text.encode())
            return False
        self._counters["gaps_accepted"] += 1
        self._counters["gap_events"] += n_missing
        log.error("%s; they are skipped", text)
        producer.last = oldest - 1
        return True

    def _seat(self, producer: _Producer, route: bytes, nonce: bytes) -> None:
        """From now on this connection is that producer, and no other one is."""
        before = self._by_route.pop(route, None)
        if before is not None:
            before.route = None
        if producer.route is not None:
            self._by_route.pop(producer.route, None)
        if producer.nonce and nonce != producer.nonce:
            producer.former.append(producer.nonce)
            text = b"a newer producer uses this id"
            if producer.route is not None and self._send(
                producer.route, ERROR, b"superseded", text
            ):
                self._counters["superseded"] += 1
                log.warning("producer %s is superseded by a newer one of that id", producer.name)
        producer.nonce, producer.route, producer.gap = nonce, route, None
        producer.heard_at = time.monotonic()
        self._producers[producer.name] = producer
        self._by_route[route] = producer

    def _turn_away(self, route: bytes, name: str) -> None:
        self._counters["turned_away"] += 1
        if self._counters["turned_away"] == 1:
            log.warning("producer %s is turned away: max_producers ids are known", name)
        known = (
            f"{self._max_producers} {worded(self._max_producers, 'producer is', 'producers are')}"
        )
        text = f"{known} known; raise max_producers or set expire_s"
        self._send(route, ERROR, b"full", text.encode())

    def _has_room(self) -> bool:
        """Whether one more id can be known; ids that never sent anything and are gone make room."""
        if len(self._producers) >= self._max_producers:
            for producer in list(self._producers.values()):
                if not producer.last and producer.route is None:
                    del self._producers[producer.name]
        return len(self._producers) < self._max_producers

    def _sweep(self) -> None:
        """Now and then, with nothing left to read: who is gone, and who may be forgotten."""
        now = time.monotonic()
        if now - self._swept_at < _SWEEP_S:
            return
        self._swept_at = now
        for producer in list(self._producers.values()):
            silent_s = now - producer.heard_at
            if producer.route is not None and silent_s > self._silent_s:
                self._leave(producer)
                log.warning("producer %s is silent for %.0f s", producer.name, silent_s)
            is_settled = producer.route is None and producer.acked == producer.last
            if self._expire_s is not None and is_settled and silent_s > self._expire_s:
                del self._producers[producer.name]
                self._untold.discard(producer)
                self._resume.pop(_PREFIX + producer.name, None)
                self._counters["expired"] += 1
                log.info("producer %s is forgotten after %.0f s", producer.name, silent_s)

    def _leave(self, producer: _Producer) -> None:
        if producer.route is not None:
            self._by_route.pop(producer.route, None)
            producer.route = None

    # ------------------------------------------------------------------ answers

    def _ask(self, producer: _Producer) -> None:
        """Say what came last, so that the producer sends again what follows; not too often."""
        now = time.monotonic()
        if producer.asked_last != producer.last or now - producer.asked_at >= _ASK_S:
            producer.asked_last, producer.asked_at = producer.last, now
            self._tell(producer, WELCOME)

    def _tell_credit(self) -> None:
        """Tell those of whose credit a quarter or more is free again."""
        for producer in tuple(self._untold):
            if (
                producer.taken - producer.told >= max(1, self._credit // 4)
                or producer.untold_bytes >= producer.told_share_bytes // 4
            ):
                self._tell(producer, ACK)
                self._untold.discard(producer)  # who cannot be told now asks by its next PING

    def _tell(self, producer: _Producer, kind: bytes) -> None:
        """Where we stand with a producer. What gets lost on the way comes with the next PING."""
        status = self._status(producer, producer.turn, kind)
        if producer.route is not None and self._send(producer.route, status):
            producer.told, producer.told_share_bytes = producer.taken, self._share_bytes()
            producer.untold_bytes = 0

    def _status(self, producer: _Producer, turn: int, kind: bytes = ACK) -> bytes:
        return kind + _STATUS.pack(
            turn,
            producer.last,
            producer.acked,
            producer.taken,
            self._credit,
            self._share_bytes(),
            self._largest,
        )

    def _share_bytes(self) -> int:
        return self._memory_bytes // max(1, len(self._by_route))

    def _send(self, route: bytes, *frames: bytes) -> bool:
        """False: nobody is there any more, or somebody does not read."""
        try:
            self._socket.send_multipart([route, *frames], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            producer = self._by_route.get(route)
            if producer is not None:
                self._leave(producer)
            return False
        return True


class _Keys:
    """The public keys that may connect, and ZeroMQ's question (ZAP, RFC 27) whether one does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: frozenset[bytes] = frozenset()
        self._stamp: tuple[int, int] | None = None

    def read(self) -> None:
        """Take the file's keys; SettingError where it has none or something else."""
        try:
            status, text = self._path.stat(), self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"curve_keys: the file {self._path}: {error}") from error
        words = (line.split(maxsplit=1)[0] for line in text.splitlines() if line.strip())
        keys = frozenset(
            z85.decode(_key(f"curve_keys: {self._path}", word)) for word in words if word != "#"
        )
        if not keys:
            raise SettingError(f"curve_keys: {self._path} holds no key: nobody could connect")
        self._stamp, self._keys = (status.st_mtime_ns, status.st_size), keys

    def answer(self, socket: zmq.Socket[bytes]) -> int:
        """Answer all questions waiting; how many were answered with no."""
        n_refused = 0
        while True:
            try:
                version, request, _, _, _, mechanism, *credentials = socket.recv_multipart(
                    zmq.NOBLOCK
                )
            except zmq.Again:
                return n_refused
            self._look_again()
            is_known = mechanism == b"CURVE" and credentials[0] in self._keys
            n_refused += not is_known
            verdict = (b"200", b"OK") if is_known else (b"400", b"unknown key")
            socket.send_multipart([version, request, *verdict, b"", b""])

    def _look_again(self) -> None:
        try:
            status = self._path.stat()
            if (status.st_mtime_ns, status.st_size) != self._stamp:
                self.read()
        except (OSError, SettingError) as error:
            if self._stamp is not None:  # once, until the file is whole again
                log.warning("the keys stay as they are: %s", error)
                self._stamp = None


def _receive(socket: zmq.Socket[bytes]) -> tuple[bytes, list[bytes]]:
    """Who sent a message and its frames, `_MAX_FRAMES` of them kept; zmq.Again if there is none."""
    route = socket.recv(zmq.NOBLOCK)
    frames: list[bytes] = []
    while socket.get(zmq.RCVMORE):
        frame = socket.recv(zmq.NOBLOCK)
        if len(frames) < _MAX_FRAMES:
            frames.append(frame)
    return route, frames


def _key(name: str, text: str) -> bytes:
    """A CURVE key as 40 characters of Z85."""
    try:
        if len(text) == 40 and len(z85.decode(text)) == 32:
            return text.encode()
    except (ValueError, KeyError, struct.error):
        pass  # told below, without the key: it may be the secret one
    raise SettingError(
        f"{name}: expected a CURVE key, 40 characters of Z85, got {len(text)} characters; "
        'make a pair with python -c "import zmq; print(zmq.curve_keypair())"'
    )


def _checked(address: str, open_to_others: bool) -> str:
    """The address as libzmq wants it; SettingError if it is malformed or open to the network."""
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return address
    match = re.fullmatch(r"tcp://(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) <= 65535:
        raise SettingError(
            f'address: expected "tcp://HOST:PORT", e.g. "tcp://127.0.0.1:5555", or "ipc://PATH", '
            f"got {address!r}"
        )
    host = match[1].strip("[]")
    if not open_to_others and not is_loopback(host):
        raise SettingError(
            f"address: binding to {address} lets every machine that reaches this one send events; "
            "bind to 127.0.0.1, or set curve_secret_key and curve_keys, or insecure = true where a "
            "firewall or a tunnel stands in front"
        )
    # libzmq binds to addresses and interfaces, not to names.
    return f"tcp://127.0.0.1:{match[2]}" if host == "localhost" else address
