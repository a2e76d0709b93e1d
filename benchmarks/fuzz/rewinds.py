"""Sources that step back by less or more than a poll takes: nothing is learned twice, or lost."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from typing_extensions import override

from benchmarks.fuzz.bounds import Tally
from stream_rnn import app
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.journal.source import JournaledSource
from stream_rnn.native import loading
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    NotConnected,
    Position,
    Source,
)
from stream_rnn.testing import ListSink

UNITS: dict[str, Any] = {"cell": {"kind": "lru", "units": 3}}
NOISY: dict[str, Any] = {
    "cell": {"kind": "gru", "units": 3},
    "credit": {"kind": "ok", "rank": 2},
    "fallback": {"kind": "tbptt", "window": 4, "every": 2},
}
POLICIES = ("block", "block", "block", "drop_oldest", "drop_newest", "sample", "degrade")


@dataclass(frozen=True)
class Plan:
    """One case.

    Attributes:
        tables: the configuration.
        stream: what there is to learn, in order.
        every_events: between two snapshots.
        restart_after: events, after which the process ends and another one goes on; None: it stays.
        steps_back: how often the source does.
        policy: when too many events wait.
        is_journaled: what comes is written down first.
    """

    tables: dict[str, Any]
    stream: list[Event]
    every_events: int
    restart_after: int | None
    steps_back: int
    policy: str
    is_journaled: bool


class Stepping(Source):
    """Goes back whenever it likes, also where the connection broke, and also within a poll."""

    def __init__(
        self, stream: list[Event], guarantee: Guarantee, rng: random.Random, steps_back: int
    ) -> None:
        self.guarantee = guarantee
        self._stream = stream
        self._rng = rng
        self._left = steps_back
        self._share = rng.choice((0.02, 0.1, 0.3))
        self._next = 0
        self._resume: dict[str, int | str] = {}
        self._tells_newest = rng.random() < 0.5  # or where it is
        self._has_delivered = False

    @override
    def open(self, resume: Position | None) -> None:
        self._resume = dict(resume or {})
        after = (n for n, event in enumerate(self._stream) if self._is_after(event, self._resume))
        self._next = next(after, len(self._stream))
        self._has_delivered = False
        self._step_back()

    def _is_after(self, event: Event, position: Position) -> bool:
        last = position.get(event.partition)
        return last is None or last < event.position  # type: ignore[operator]

    def _step_back(self) -> None:
        if self._left and self._rng.random() < self._share:
            self._left -= 1
            most = self._rng.choice((1, 5, 40, len(self._stream)))
            self._next = max(0, self._next - self._rng.randint(1, most))

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._has_delivered and self._left and self._rng.random() < 0.1:
            self._left -= 1
            raise NotConnected("cut")
        events: list[Event] = []
        for _ in range(self._rng.randint(0, max_events)):
            self._step_back()
            if self._next == len(self._stream):
                break
            event = self._stream[self._next]
            self._next += 1
            events.append(event)
            if not self._tells_newest or self._is_after(event, self._resume):
                self._resume[event.partition] = event.position
        if not events and self._next == len(self._stream):
            raise EndOfStream
        self._has_delivered = True
        return Batch(events, dict(self._resume))

    @override
    def close(self) -> None:
        """Nothing is open."""


def fuzz(tally: Tally, cases: int, seed: int, workplace: Path) -> None:
    """Beside a source that never steps back: the same state and lines, each of them once."""
    for number in range(seed, seed + cases):
        plan = plan_of(random.Random(number))

        def run(number: int = number, plan: Plan = plan) -> str:
            place = workplace / str(number)
            off = loading.switched_off() if number % 4 == 0 else contextlib.nullcontext()
            with off:
                return compare(plan, random.Random(number), place)

        tally.case(number, repr(plan).encode(), run, (), seconds=60.0)


def compare(plan: Plan, rng: random.Random, place: Path) -> str:
    """Raise AssertionError where stepping back made a difference; returns what was compared."""
    # behind a journal it need not promise anything
    promised = rng.choice(list(Guarantee)) if plan.is_journaled else Guarantee.REPLAYABLE
    calm = learned(plan, Stepping(plan.stream, promised, rng, 0), place / "calm")
    source = Stepping(plan.stream, promised, rng, plan.steps_back)
    lines: list[Any] = []
    if plan.restart_after is not None:
        lines += told(learned(plan, source, place / "stepping", plan.restart_after))
    one = learned(plan, source, place / "stepping")
    lines += told(one)
    names = [(line["partition"], line["position"]) for line in lines]
    require(len(set(names)) == len(names), "an event was learned twice")
    require(one.engine.positions == calm.engine.positions, "positions")
    if plan.policy != "block":
        return plan.policy
    if plan.tables.get("lanes", {}).get("batching") == "time":
        return "by time"  # what is learned in a tick is what a poll brings
    require(ordered(lines) == ordered(told(calm)), "lines")
    mine, theirs = (each.engine.learner.state_dict() for each in (one, calm))
    require(all(mine[name].equal(theirs[name]) for name in theirs), "what was learned")
    states = [json.dumps(each.engine.state_dict()) for each in (one, calm)]
    require(states[0] == states[1], "the state of features and scores")
    return "equal, journaled" if plan.is_journaled else "equal"


def learned(plan: Plan, source: Source, place: Path, max_events: int | None = None) -> Runtime:
    """A daemon that went on where one left off in that folder, and came to its end."""
    state = {"dir": str(place), "every_s": 1e9, "every_events": plan.every_events}
    job = app.build(plan.tables | {"state": state})
    if plan.is_journaled:
        source = JournaledSource(source, place.with_name(f"{place.name}-journal"))
    job.source, job.dead_letters, job.sinks = source, ListSink(), [ListSink()]
    store = Store(place)
    store.open()
    with contextlib.closing(store):
        runtime = make_runtime(job, store, CollectorRegistry(), Console(io.StringIO()))
        newest = store.newest()
        if newest is not None:
            runtime.restore(newest)
        runtime.run(max_events)
    return runtime


def told(runtime: Runtime) -> list[Any]:
    """Predictions and dead letters."""
    sinks = (*runtime.outputs.sinks, runtime.outputs.dead_letters)
    return [line for sink in sinks if isinstance(sink, ListSink) for line in sink.records]


def ordered(lines: list[Any]) -> list[str]:
    """Without what differs from run to run."""
    kept = [{k: v for k, v in line.items() if k != "written_at"} for line in lines]
    return sorted(json.dumps(line, sort_keys=True) for line in kept)


def require(is_true: bool, what: str) -> None:
    """Raise AssertionError."""
    if not is_true:
        raise AssertionError(what)


def plan_of(rng: random.Random) -> Plan:
    """A model, a stream and what happens to it."""
    n, partitions, policy = (
        rng.randint(1, 150),
        rng.choice(("a", "a", "ab", "abc")),
        rng.choice(POLICIES),
    )
    as_text = rng.random() < 0.3
    stream = []
    counts = dict.fromkeys(partitions, 0)
    for i in range(n):
        partition = rng.choice(partitions)
        counts[partition] += rng.choice((1, 1, 1, 7))
        at = counts[partition]
        record: dict[str, Any] = {"y": math.sin(i / 2) * 10 + i % 5, "k": rng.choice("uvw")}
        if rng.random() < 0.05:
            record = {"k": "u"}
        stream.append(Event(partition, f"{at:06d}" if as_text else at, json.dumps(record).encode()))
    tables: dict[str, Any] = {
        "source": {"kind": "synthetic"},
        "task": {"kind": "forecast", "target": "y", "horizon": rng.choice((1, 2))},
        "learner": rng.choice((UNITS, NOISY)),
        "limits": {"poll_events": rng.choice((1, 2, 7, 64, 512))},
    }
    if rng.random() < 0.5:
        tables["lanes"] = {
            "key": "k",
            "capacity": 3,
            "batching": rng.choice(("event", "log", "time")),
        }
    if policy != "block":
        tables["overload"] = {"policy": policy, "limit": rng.choice((1, 5, 30)), "keep": 0.5}
    restart_after = rng.randint(1, n) if rng.random() < 0.4 else None
    return Plan(
        tables=tables,
        stream=stream,
        every_events=rng.choice((7, 50, 1000)),
        restart_after=restart_after,
        steps_back=rng.randint(1, 8),
        policy=policy,
        is_journaled=policy == "block" and rng.random() < 0.3,
    )
