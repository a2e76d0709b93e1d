"""A folder in which a daemon lives and dies, and what is left of it: the same as of any other?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.storm.daemons import ROOT, Daemon, Nursery
from benchmarks.storm.stream import write_events
from stream_rnn.checkpoint import snapshot
from stream_rnn.journal.journal import Journal
from stream_rnn.journal.reading import Reader
from stream_rnn.spi import Event

Kind = Literal["jsonl", "router", "spool", "router+journal", "stdin", "stdin+journal"]
Line = dict[str, Any]

CONFIG = """
[task]
kind = "forecast"
target = "y"
horizon = 2
[features]
numeric = ["y"]
[lanes]
key = "id"
capacity = 2
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "kf" }
optimizer = { kind = "adam", lr = 0.01 }
fallback = { kind = "tbptt", window = 4 }
governor = { trips = 1, cooldown = 50 }
[[sink]]
kind = "jsonl"
path = "predictions.jsonl"
max_bytes = 1_000_000_000_000
[dead_letter]
path = "letters.jsonl"
max_bytes = 1_000_000_000_000
[limits]
poll_events = 16
"""
SOURCES = {
    "jsonl": 'kind = "jsonl"\npath = "EVENTS"\nfollow = FOLLOW',
    "router": 'kind = "zeromq_router"\naddress = "ADDRESS"\ncredit = 64',
    "stdin": 'kind = "stdin"',
}
STATE = '[state]\ndir = "state"\nevery_events = 20\nevery_s = 0.3\n'


def free_port() -> int:
    """Of this machine, now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(eq=False)
class Place:
    """One daemon's folder.

    Attributes:
        folder: new.
        kind: how events come: "router" from a producer that reads its own log again, "spool" from
            one that keeps them in a file.
        events: the file they are in.
        nursery: of the daemons.
        port: of the daemon, or of what stands in front of it.
    """

    folder: Path
    kind: Kind
    events: Path
    nursery: Nursery
    port: int
    producers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        folder: Path,
        kind: Kind,
        events: Path,
        nursery: Nursery,
        *,
        follow: bool = False,
        state: str = STATE,
        more: str = "",
        config: str = CONFIG,
    ) -> Place:
        """Write the configuration.

        Args:
            folder: is made.
            kind: how events come.
            events: the file they are in.
            nursery: of the daemons.
            follow: the file grows.
            state: the table.
            more: further tables, or a journal's keys if there is one.
            config: the other tables.
        """
        folder.mkdir()
        port = free_port()
        source = SOURCES[kind.partition("+")[0].replace("spool", "router")]
        source = source.replace("EVENTS", str(events)).replace("FOLLOW", str(follow).lower())
        source = source.replace("ADDRESS", f"tcp://127.0.0.1:{port}")
        journal = "[journal]\nfsync_every = 16\nkeep = 1000\n" if "journal" in kind else ""
        text = f"[source]\n{source}\n{config}\n{state}\n{journal}{more}\n"
        (folder / "config.toml").write_text(text)
        return cls(folder, kind, events, nursery, port)

    def daemon(self, fault: str = "", stdin: Path | None = None) -> Daemon:
        """One more daemon in the folder."""
        return self.nursery.start(self.folder, fault, stdin=stdin)

    def producer(self, port: int | None = None) -> subprocess.Popen[bytes]:
        """A producer of the folder's events; it leaves once all of them are durable."""
        mode = "spool" if self.kind == "spool" else "log"
        command = ["-m", "benchmarks.storm.producing", str(self.events), mode]
        with (self.folder / "producer.log").open("ab") as log:
            producer = subprocess.Popen(
                [sys.executable, *command, f"tcp://127.0.0.1:{port or self.port}"],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stderr=log,
            )
        self.producers.append(producer)
        return producer

    def clear(self) -> None:
        """Kill what still runs."""
        self.nursery.kill_all()
        for producer in self.producers:
            producer.kill()
            producer.wait()

    def log(self) -> str:
        """What daemons and producers said."""
        names = ("log", "producer.log")
        return "".join(
            (self.folder / name).read_text() for name in names if (self.folder / name).exists()
        )

    def lines(self, name: str = "predictions.jsonl") -> list[Line]:
        """Every whole line that a sink wrote."""
        path = self.folder / name
        written = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in written[: written.rfind(b"\n") + 1].splitlines()]

    def newest(self) -> snapshot.Loaded:
        """The newest snapshot."""
        return snapshot.read(snapshot.snapshots(self.folder / "state")[0])

    def applied(self) -> int:
        """Events in the newest snapshot, unusable ones included; safe while daemons write."""
        for path in snapshot.snapshots(self.folder / "state"):
            try:
                return int(json.loads((path / "host.json").read_bytes())["engine"]["ordinal"])
            except FileNotFoundError:  # pruned in between
                continue
        return 0

    def journaled(self) -> list[Event]:
        """What is in the journal, whose daemon is dead."""
        journal = Journal(self.folder / "state/journal", 1 << 26)
        found = journal.open()
        journal.repair(found)
        reader = Reader(journal)
        try:
            reader.seek(0)
            return reader.read(1 << 30)
        finally:
            reader.close()
            journal.close()

    def wait_for(self, n_events: int, timeout_s: float = 300.0) -> None:
        """Until that many are in a snapshot."""
        until = time.monotonic() + timeout_s
        while self.applied() < n_events:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.applied()} of {n_events}: {self.log()[-2000:]}")
            time.sleep(0.02)


def undisturbed(
    place: Place, n_events: int, stdin: Path | None = None, timeout_s: float = 300.0
) -> None:
    """Let a daemon learn everything and leave; raises RuntimeError if it does not."""
    daemon = place.daemon(stdin=stdin)
    finish(place, daemon, n_events, timeout_s=timeout_s)


def finish(
    place: Place,
    daemon: Daemon,
    n_events: int,
    producer: subprocess.Popen[bytes] | None = None,
    timeout_s: float = 300.0,
) -> None:
    """Everything comes, is learned and durable; then the daemon leaves.

    Raises:
        RuntimeError: it does not, with what was said.
    """
    if place.kind in ("router", "spool", "router+journal"):
        producer = producer or place.producer()
        if producer.wait(timeout_s) != 0:
            raise RuntimeError(f"the producer failed: {place.log()[-3000:]}")
        place.wait_for(n_events, timeout_s)
        daemon.signal(15)
    elif "follow = true" in (place.folder / "config.toml").read_text():
        place.wait_for(n_events, timeout_s)
        daemon.signal(15)
    code = daemon.wait(timeout_s)
    if code != 0:
        raise RuntimeError(f"{place.folder} ended with {code}: {place.log()[-3000:]}")


def first_of_each_id(lines: list[Line]) -> tuple[list[Line], list[str]]:
    """What a consumer keeps, and what it could complain about."""
    kept: dict[str, Line] = {}
    wrong = []
    for line in lines:
        told = line.pop("replayed", None)
        line.pop("written_at", None)  # of a dead letter
        before = kept.setdefault(line["id"], line)
        if before is not line and told is False:
            wrong.append(f"{line['id']} comes again and does not say so")
        if before != line:
            wrong.append(f"{line['id']} comes again as another one: {before} {line}")
    return list(kept.values()), wrong


def differences(one: Place, other: Place) -> list[str]:
    """All that tells a state and its predictions from those of an undisturbed run; none is best."""
    return list(_differences(one, other))


def _differences(one: Place, other: Place) -> Iterator[str]:
    for name in ("predictions.jsonl", "letters.jsonl"):
        mine, wrong = first_of_each_id(one.lines(name))
        theirs, _ = first_of_each_id(other.lines(name))
        yield from wrong[:5]
        lost = {line["id"] for line in theirs} - {line["id"] for line in mine}
        if lost:
            yield f"{name}: {len(lost)} lost, e.g. {min(lost)}"
        if len(mine) > len(theirs):
            yield f"{name}: {len(mine)} lines, undisturbed {len(theirs)}"
        differing = [line["id"] for line, same in zip(mine, theirs, strict=False) if line != same]
        if differing and not lost:
            yield f"{name}: {len(differing)} differ, first {differing[0]}"
    mine_, theirs_ = one.newest(), other.newest()
    if mine_.positions != theirs_.positions:
        yield f"positions: {mine_.positions}, undisturbed {theirs_.positions}"
    names = mine_.tensors.keys() | theirs_.tensors.keys()
    bits = [n for n in names if not _equal(mine_.tensors.get(n), theirs_.tensors.get(n))]
    if bits:
        yield f"tensors differ: {', '.join(sorted(bits))}"
    if json.loads(mine_.host) != json.loads(theirs_.host):
        yield "host state differs"


def _equal(one: Any, other: Any) -> bool:
    return one is not None and other is not None and bool(one.equal(other))


__all__ = ["CONFIG", "Kind", "Place", "differences", "finish", "undisturbed", "write_events"]
