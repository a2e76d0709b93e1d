"""What each guarantee costs: events per second of the whole daemon, from nothing kept to all.

    python -m benchmarks.guarantees [--events 20000] [--rounds 3]

One small model everywhere: 32 element-wise units (linear recurrent, exact credit), a forecast for
each event, predictions written to a file. With the native library where it is built, and in torch
alone. Events come from another process over ZeroMQ (PUSH to PULL) except where a file or the router
says otherwise; all of a round take turns, and a row's ratio is the median over the rounds of
its ratio within each, because shared machines change speed. The processor time per event, of the
daemon's process alone, hardly depends on what else runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from benchmarks.feeding import AHEAD, Kind, event, producing
from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.native import loading
from stream_rnn.resuming import open_store

SNAPSHOT_S = 1.0


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        source: file, push (to a PULL socket) or router.
        keeps: whether there is a state folder with a snapshot every second.
        fsync_every: of the journal; None: no journal.
    """

    name: str
    source: Kind
    keeps: bool = True
    fsync_every: int | None = None


CASES = (
    Case("none: nothing is kept", "push", keeps=False),
    Case("snapshot every second", "push"),
    Case("the same, from a file", "file"),
    Case("router with a producer", "router"),
    Case("journal, flushed every 100 events", "push", fsync_every=100),
    Case("journal, flushed every event", "push", fsync_every=1),
    Case("router and journal (100)", "router", fsync_every=100),
)


@dataclass(frozen=True)
class Measured:
    """Of one run."""

    rate: float  # events/s
    cpu_us: float  # per event


def tables_of(case: Case, folder: Path) -> dict[str, Any]:
    """The configuration."""
    address = f"ipc://{folder}/events"
    sources: dict[str, dict[str, Any]] = {
        "file": {"kind": "jsonl", "path": f"{folder}/events.jsonl"},
        "push": {"kind": "zeromq", "address": address, "bind": True},
        "router": {"kind": "zeromq_router", "address": address},
    }
    tables: dict[str, Any] = {
        "source": sources[case.source],
        "task": {"kind": "forecast", "target": "value"},
        "learner": {"cell": {"kind": "rtu", "units": 32}, "fallback": False},
        "sink": [{"kind": "jsonl", "path": f"{folder}/predictions.jsonl"}],
        "state": {"dir": f"{folder}/state", "every_s": SNAPSHOT_S},
    }
    if case.fsync_every is not None:
        tables["journal"] = {"fsync_every": case.fsync_every}
    return tables


def measure(case: Case, n_events: int, place: Path) -> Measured:
    """From the first event to the last; the start, and the warm-up of a tenth, do not count."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        job = app.build(tables_of(case, folder))
        store = None
        # a journal without snapshots would only grow: whoever has one has a state folder
        if case.keeps:
            store = open_store(folder / "state", 3, fresh=False)
            stack.callback(store.close)
        console = Console(interactive=False, every_s=1e9)
        runtime = make_runtime(job, store, CollectorRegistry(), console)
        begun: list[tuple[float, float]] = []
        tenth, inner = n_events // 10, job.engine.on_tick

        def on_tick(tick: Any) -> None:
            inner(tick)
            if not begun and job.engine.step >= tenth:
                begun.append((time.perf_counter(), time.process_time()))

        job.engine.on_tick = on_tick
        stack.enter_context(_fed(case.source, folder, n_events))
        runtime.run(n_events)
        (wall, cpu), n = begun[0], n_events - tenth
        return Measured(n / (time.perf_counter() - wall), (time.process_time() - cpu) / n * 1e6)


@contextmanager
def _fed(source: Kind, folder: Path, n_events: int) -> Iterator[None]:
    """The events, written beforehand or produced meanwhile; never held back by the benchmark."""
    if source == "file":
        with (folder / "events.jsonl").open("wb") as file:
            file.writelines(event(i, with_bad=False)[0] + b"\n" for i in range(n_events))
        yield
        return
    with producing(source, f"ipc://{folder}/events", n_events, None, with_bad=False) as counts:
        counts.handled = n_events + AHEAD  # as far as the producer is concerned
        yield


def small_operation_us() -> float:
    """What one small in-place operation of torch costs here and now."""
    a, times = torch.randn(32), []
    for _ in range(2000):
        start = time.perf_counter()
        a.mul_(0.5)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def compare(n_events: int, rounds: int, place: Path) -> None:
    """Print one table."""
    done: dict[Case, list[Measured]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case in CASES:
            done[case].append(measure(case, n_events, place))
    nothing = done[CASES[0]]
    print("| What is kept | events/s | of none | cpu us/event | more than none |")
    print("|---|---|---|---|---|")
    for case, runs in done.items():
        rate = statistics.median(run.rate for run in runs)
        share = statistics.median(a.rate / b.rate for a, b in zip(runs, nothing, strict=True))
        cpu = statistics.median(run.cpu_us for run in runs)
        more = statistics.median(a.cpu_us - b.cpu_us for a, b in zip(runs, nothing, strict=True))
        print(f"| {case.name} | {rate:,.0f} | {share:.2f} | {cpu:.0f} | {more:+.0f} |", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(), help="where state is kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one small in-place torch operation: {small_operation_us():.2f} us\n")
    if loading.find() is not None:
        print(f"{loading.describe()}, {threading.active_count()} thread at the start\n")
        compare(given.events, given.rounds, given.folder)
        print()
    with loading.switched_off():
        print("torch\n")
        compare(max(given.events // 5, 1000), given.rounds, given.folder)
    print(f"\none small in-place torch operation: {small_operation_us():.2f} us")


if __name__ == "__main__":
    main()
