"""The tables of a configuration that are no plug-ins, and what each of their keys may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stream_rnn import config
from stream_rnn.config import ConfigError
from stream_rnn.lanes import Batching
from stream_rnn.overload import Overload

MOST_READERS = 64  # each has a network of its own
LONGEST_WINDOW = 1_000_000  # of the breaker: 8 MB
LETTERS = "dead_letters.jsonl"  # in the state folder, unless [dead_letter] says otherwise
MOST_THREADS = 1024  # torch starts them all, and dies of too many
MOST_AT_ONCE = 1_000_000  # events are held in memory while they wait for their tick

Level = Literal["exactly-once-effect", "at-least-once"]
"""What can be required of a source; "at-most-once" is what every one promises."""

TABLES = {
    "source": "table",
    "codec": "table",
    "task": "table",
    "features": "table",
    "lanes": "table",
    "learner": "table",
    "sink": "tables",
    "state": "table",
    "dead_letter": "table",
    "limits": "table",
    "overload": "table",
    "metrics": "table",
    "journal": "table",
    "readers": "table",
}
"""Every table there may be; "tables" is written [[name]]."""


@dataclass(frozen=True)
class State:
    """`[state]`: where and how often snapshots are kept."""

    dir: str = "state"
    every_s: float | None = None
    every_events: int | None = None
    keep: int = 3

    def __post_init__(self) -> None:
        for name in ("every_s", "every_events", "keep"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.every_s is None and self.every_events is None:
            object.__setattr__(self, "every_s", 10.0)


@dataclass(frozen=True)
class DeadLetters:
    """`[dead_letter]`: where unusable events go."""

    path: str | None = None
    keep_bytes: int = 4096
    max_bytes: int = 64 << 20
    keep: int = 1

    def __post_init__(self) -> None:
        _require(self, 0, "keep_bytes")

    def file(self, state_dir: str) -> Path:
        """The file, where the state is in that folder."""
        return Path(self.path or Path(state_dir) / LETTERS)


@dataclass(frozen=True)
class Limits:
    """`[limits]`.

    Attributes:
        event_bytes: a larger event is dead-lettered undecoded.
        poll_events: events taken from the source at once.
        gone_s: a source not reachable for this long ends the daemon with exit code 75.
        unsaved_s: without a durable snapshot for this long the daemon says it is not ready.
        breaker_events: of so many events, the last ones, at most `breaker_share` may be refused:
            then the daemon stops polling until somebody resumes. Or false.
        breaker_share: above 0, at most 1.
        require: what the source must promise at least: "exactly-once-effect" or "at-least-once".
            A source that promises less is refused. Left out: any will do.
    """

    event_bytes: int = 16 << 20
    poll_events: int = 512
    gone_s: float = 3600.0
    unsaved_s: float = 300.0
    breaker_events: int | bool = 1000
    breaker_share: float = 0.5
    require: Level | None = None

    def __post_init__(self) -> None:
        _require(self, 1, "event_bytes", "poll_events")
        if self.poll_events > MOST_AT_ONCE:
            raise ValueError(f"poll_events must be at most {MOST_AT_ONCE}, got {self.poll_events}")
        _require(self, 0, "gone_s", "unsaved_s")
        n = self.breaker_events
        if n is True or (n is not False and not 1 <= n <= LONGEST_WINDOW):
            raise ValueError(
                f"breaker_events must be in 1..{LONGEST_WINDOW:_}, or false, got {str(n).lower()}"
            )
        if not 0.0 < self.breaker_share <= 1.0:
            raise ValueError(f"breaker_share must be above 0, at most 1, got {self.breaker_share}")

    @property
    def breaker(self) -> tuple[int, float]:
        """The window and the share; no events: it never trips."""
        return int(self.breaker_events), self.breaker_share


@dataclass(frozen=True)
class MetricsTable:
    """`[metrics]`: the HTTP server, with the live page, metrics and POST /predict.

    Attributes:
        insecure: let other machines read without a token.
        token: what a POST needs, and what reading from other machines needs unless `insecure`;
            by default one is made where it is needed, in the file `token` of the state folder.
        certificate: PEM file; with it the server speaks TLS, and nothing else.
        key: PEM file with the certificate's key, unless that stands in the same file.
    """

    address: str = "127.0.0.1:9464"
    insecure: bool = False
    token: str | None = field(default=None, repr=False)
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class JournalTable:
    """`[journal]`: what comes from the source is written to disk, acknowledged, then learned.

    With it, a source that cannot rewind goes on after a crash with every event that reached the
    journal. Who once has a journal keeps it: positions in snapshots are the journal's.

    Attributes:
        dir: its folder, one daemon at a time; by default `journal` in the state folder.
        fsync_every: events flushed to disk together, at most; 1 is safest and slowest.
        fsync_ms: milliseconds that they wait for more, at most, counted from the first.
        segment_bytes: size beyond which a file is followed by a new one.
        max_bytes: of all files, at least 4 segments. When it is reached the source is not polled
            until a snapshot frees room; nothing is dropped.
        keep: the events behind that many of the newest snapshots stay; by default `[state] keep`,
            and never fewer.
        on_damage: what to do about events that cannot be read: "refuse" to start or go on, or
            "skip" and count them.
        on_gap: what to do when events behind the snapshot are gone: "refuse", go on with the
            "earliest" one kept, or with the "latest", what comes now.
    """

    dir: str | None = None
    fsync_every: int = 100
    fsync_ms: float = 20.0
    segment_bytes: int = 64 << 20
    max_bytes: int = 1 << 30
    keep: int | None = None
    on_damage: Literal["refuse", "skip"] = "refuse"
    on_gap: Literal["refuse", "earliest", "latest"] = "refuse"

    def __post_init__(self) -> None:
        _require(self, 1, "fsync_every", "keep")
        _require(self, 0, "fsync_ms")
        _require(self, 4096, "segment_bytes")
        _require(self, 4 * self.segment_bytes, "max_bytes")


@dataclass(frozen=True)
class ReadersTable:
    """`[readers]`: answers from what has been learned, on request. Without the table: none.

    Attributes:
        enabled: false keeps the table and answers nobody.
        process: answer in a process of its own, so that neither the learner nor those who ask wait
            for the other's Python; it takes some 250 MB more, and a few seconds to start.
        http: its address for POST /predict, "127.0.0.1:9465"; port 0 takes a free one. Token and
            certificate are those of [metrics]. Without `process` [metrics] address answers it.
        publish_ms: the state is copied for readers at most so often, and only while they ask;
            an answer's may be twice as old.
        max_concurrent: requests served at a time.
        max_bytes: of a request.
        address: of a ZeroMQ socket, "tcp://127.0.0.1:5570"; port 0 takes a free one. Left out,
            there is none.
        insecure: allow an address that other machines can reach.
    """

    enabled: bool = True
    process: bool = False
    http: str | None = None
    publish_ms: float = 50.0
    max_concurrent: int = 2
    max_bytes: int = 64 << 10
    address: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.publish_ms <= 3_600_000:
            raise ValueError(f"publish_ms must be in 1..3600000, got {self.publish_ms:g}")
        if not 1 <= self.max_concurrent <= MOST_READERS:
            raise ValueError(
                f"max_concurrent must be in 1..{MOST_READERS}, got {self.max_concurrent}"
            )
        _require(self, 64, "max_bytes")
        if self.http is not None and not self.process:
            raise ValueError(
                f"http = {self.http!r} is the address of a process of its own: set process = true, "
                "or leave http out and ask at [metrics] address"
            )
        if self.process and self.http is None and self.address is None:
            raise ValueError(
                'process = true needs where it is asked: http = "127.0.0.1:9465", or address = '
                '"tcp://127.0.0.1:5570"'
            )


@dataclass(frozen=True)
class LanesTable:
    """`[lanes]`.

    Attributes:
        end: field that is true in the last event of an episode: once it is learned, its stream
            starts anew. Missing: false. No boolean: the event is a dead letter.
    """

    key: str | None = None
    capacity: int | None = None
    end: str | None = None
    batching: Batching = "event"
    block: int | None = None

    def __post_init__(self) -> None:
        _require(self, 1, "block")


@dataclass(frozen=True)
class LearnerTable:
    """`[learner]`. What is left out is chosen, unless `kind = "explicit"`.

    Attributes:
        cell: `{ kind = "lstm", units = 64 }`, or a list of layers, the lowest first.
        credit: `{ kind = "ok", rank = 4 }`; of every layer that does not learn exactly by itself.
        fallback: what to fall back to, in this order: rules, then "readout" (it learns alone), then
            "frozen"; or false. Left out, there is a ladder if the credit rule was left out too, or
            with `kind = "auto"`.
        fidelity: `{ window = 64, every = 200000 }`, in ticks: how often the credit is compared with
            a long window, for metrics; or false.
        governor: when to move on that ladder, and for which reasons.
        optimizer: of the recurrence, `{ kind = "adam", lr = 1e-3 }`.
        head_optimizer: of the read-out; by default like `optimizer`.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1".
        dtype: of the model.
        threads: of torch, and of the native kernels, which share out many lanes among them (the
            results are the same bits); more than one hurts on small nets and busy machines.
    """

    cell: dict[str, Any] | list[dict[str, Any]] | None = None
    credit: dict[str, Any] | None = None
    fallback: dict[str, Any] | str | list[dict[str, Any] | str] | bool | None = None
    fidelity: dict[str, Any] | bool = True
    governor: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    head_optimizer: dict[str, Any] | None = None
    seed: int = 0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads must be in 1..{MOST_THREADS}, got {self.threads}")
        if not 0 <= self.seed < 2**63 - 1:
            raise ValueError(f"seed must be in 0..2**63-2, got {self.seed}")


def _require(table: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_sound(tables: Mapping[str, Any]) -> None:
    """Refuse tables nobody reads, and a `kind` that is no name, wherever it stands."""
    config.require_tables(tables, TABLES)
    for name, table in tables.items():
        for each in table if isinstance(table, list) else [table]:
            if not isinstance(each.get("kind", ""), str):
                raise ConfigError(f"[{name}] kind: expected a name, got {each['kind']!r}")


def require_values(tables: Mapping[str, Any]) -> None:
    """Refuse a value that the next start would refuse, in tables without a `kind`.

    Builds no source, sink or model, and opens nothing. Raises ConfigError.
    """
    for name, made in (
        ("dead_letter", DeadLetters),
        ("journal", JournalTable),
        ("lanes", LanesTable),
        ("metrics", MetricsTable),
        ("overload", Overload),
        ("readers", ReadersTable),
    ):
        config.build(f"[{name}]", tables.get(name, {}), made)


def build_metrics(path: Path, tables: Mapping[str, Any]) -> MetricsTable:
    """The `[metrics]` alone, of the configuration `path`, which must have one."""
    if "metrics" not in tables:
        raise ConfigError(
            f"{path}: without a [metrics] table the daemon serves nothing; add [metrics] "
            f'address = "{MetricsTable.address}"'
        )
    return config.build("[metrics]", tables["metrics"], MetricsTable)


def build_overload(tables: Mapping[str, Any]) -> Overload:
    """The `[overload]` alone."""
    return config.build("[overload]", tables.get("overload", {}), Overload)


def build_limits(tables: Mapping[str, Any]) -> Limits:
    """The `[limits]` alone."""
    return config.build("[limits]", tables.get("limits", {}), Limits)


def build_state(tables: Mapping[str, Any]) -> State:
    """The `[state]` alone."""
    return config.build("[state]", tables.get("state", {}), State)
