"""The contract for plug-ins: events, positions, sources, sinks, codecs, exceptions that steer.

A source hands out *batches*; the position travels with the batch, so that it can be kept inside the
same snapshot as what was learned from it. A guarantee is a property of an instance, capped by its
class; no configuration can raise it.
"""

from __future__ import annotations

import enum
import ipaddress
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Protocol

import msgspec

Record = dict[str, Any]
"""A decoded event, or a line for a sink: field name -> value."""

Position = Mapping[str, int | str]
"""Partition -> LAST APPLIED position, inclusive, everywhere.

Within a partition positions strictly increase under Python's `<`, across reconnects too (pad
strings: Redis "10-0" < "9-0" is wrong; a rotated or truncated file is a new partition).
"""


class NotConnected(Exception):
    """Raised by `Source.open` or `poll`, `Sink.open` or `write`: back off, open again, go on."""


class EndOfStream(Exception):
    """Raised by `Source.poll` when the stream is exhausted for good: drain, snapshot, exit 0."""


class DecodeError(Exception):
    """Raised by `Codec.decode`: the event is counted, dead-lettered and skipped."""


class SettingError(ValueError):
    """Raised by a plug-in's constructor or `open` when a *setting* is wrong or cannot be honored.

    The message names the setting, the value that came and the remedy; the command line shows it
    behind the table it stands in (`[source] port: ...`) and exits with 78.
    """


class Event(msgspec.Struct, frozen=True):
    """One event as it came: bytes and where they stand. Made by the million: not a dataclass.

    Attributes:
        partition: name of the ordered sub-stream, e.g. a topic partition or a file's identity.
        position: strictly increasing within the partition.
        data: the undecoded payload.
        key: the producer's key, where the protocol has one.
        timestamp: seconds since the epoch, where the protocol has one.
        headers: protocol metadata.
    """

    partition: str
    position: int | str
    data: bytes
    key: str | None = None
    timestamp: float | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Batch(msgspec.Struct, frozen=True):
    """Events in order, and the complete position to resume from once ALL of them are applied.

    `resume` names every partition that still matters; those it leaves out are forgotten.
    """

    events: Sequence[Event]
    resume: Position


class Guarantee(enum.Enum):
    """What a source can promise when the daemon is killed."""

    REPLAYABLE = "replayable"  # rewinds to any resume position: exactly-once effect on the model
    ACKABLE = "ackable"  # redelivers what was not acknowledged: at least once
    FIRE_AND_FORGET = (
        "fire-and-forget"  # what was received and not snapshotted is lost: at most once
    )


LEVELS = {
    Guarantee.REPLAYABLE: "exactly-once-effect",
    Guarantee.ACKABLE: "at-least-once",
    Guarantee.FIRE_AND_FORGET: "at-most-once",
}
"""What a guarantee means for the model, from the most that can be promised down."""

WHY_SO = {
    Guarantee.REPLAYABLE: "it rewinds to the position that is inside the snapshot",
    Guarantee.ACKABLE: "it brings again what was not acknowledged, doubles included",
    Guarantee.FIRE_AND_FORGET: "it can neither rewind nor bring an event again",
}


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the source is behind its producer; `None` means unknown, never 0."""

    events: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One live condition behind a source's promise, as `stream-rnn check` prints it."""

    ok: bool
    text: str


class Source(ABC):
    """Where events come from. Used by one thread: construct, open, poll..., close.

    The constructor validates its arguments and opens nothing. Its keyword arguments ARE the schema
    of the `[source]` table.
    """

    guarantee: Guarantee = Guarantee.FIRE_AND_FORGET  # an instance may promise less than its class
    codec: ClassVar[str] = "json"  # the codec used when the configuration names none
    can_preview: ClassVar[bool] = True  # REPLAYABLE: a look at the first events disturbs nobody
    forgets_acked: ClassVar[bool] = False  # REPLAYABLE: what was acknowledged may be gone for good

    @abstractmethod
    def open(self, resume: Position | None) -> None:
        """Connect. The first event delivered afterwards is the one after `resume`.

        Called again after `NotConnected` with the newest position applied. `None` means from the
        configured start.

        Raises:
            NotConnected: not reachable now; the runtime backs off and calls again.
            SettingError: never going to work, e.g. a missing file.
        """

    @abstractmethod
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        """Return up to `max_events` events; wait at most `timeout_s`. An empty batch is normal.

        Raises:
            NotConnected: the connection broke; nothing of this poll is lost.
            EndOfStream: no event will ever come again.
        """

    def ack(self, resume: Position) -> None:
        """Everything up to and including `resume` is in a durable snapshot."""

    def wants_snapshot(self) -> bool:
        """Whether it is short of room that only an `ack` frees: a snapshot is taken soon then."""
        return False

    def lag(self) -> Lag | None:
        """How far behind; `None` = unknown."""
        return None

    def check(self, resume: Position | None) -> list[Finding]:
        """Live conditions behind the promise, e.g. retention against `resume`."""
        return []

    def counters(self) -> Mapping[str, int]:
        """Monotone counts of what the source itself noticed, e.g. `{"sequence_gaps": 3}`.

        Names come from a closed set and become a metric label.
        """
        return {}

    def describe(self) -> str:
        """One line for the banner: what is read, from where."""
        return type(self).__name__

    @abstractmethod
    def close(self) -> None:
        """Release everything. Called once, also after a failed `open`."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Sink(ABC):
    """Where predictions go. The constructor's keyword arguments ARE the schema of `[[sink]]`."""

    @abstractmethod
    def open(self) -> None:
        """Connect; cut a torn last line. Raises NotConnected or SettingError as a source does."""

    @abstractmethod
    def write(self, records: Sequence[Record]) -> None:
        """Take records in order; may buffer. Called by the loop thread; never blocks for long.

        Raises:
            NotConnected: nothing of this call was taken; the runtime backs off, opens, tries again.
            EndOfStream: nobody will ever read again: the daemon drains and stops.
        """

    def flush(self) -> None:
        """Return once everything written so far is delivered (files: fsync).

        May be called by the snapshot thread while the loop thread writes.
        """

    def describe(self) -> str:
        """One line for the banner."""
        return type(self).__name__

    @abstractmethod
    def close(self) -> None:
        """Flush and release everything."""


class Codec(Protocol):
    """Bytes -> record."""

    def decode(self, data: bytes) -> Record:
        """Raises DecodeError with a reason that names what came."""


def require_port(address: str, name: str = "address") -> tuple[str, int]:
    """Split "host:port" (IPv6 hosts in brackets); raise SettingError with the remedy otherwise."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise SettingError(f'{name}: expected "host:port", e.g. "127.0.0.1:9464", got {address!r}')
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether `host` reaches this machine only: localhost or a loopback address, no other name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_finite_number(value: object) -> bool:
    """Whether `value` is an int or float (not a bool) and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def worded(n: int, one: str, many: str = "") -> str:
    """The words that go with a count: `one` of one, else `many`, by default `one` with an s."""
    return one if n == 1 else many or f"{one}s"
