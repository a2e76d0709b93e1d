"""What an event costs where many keys share the lanes of one daemon.

    python -m benchmarks.keys [--cell lru] [--units 32] [--events 40000] [--rounds 3]

Every event is learned in a tick of its own (`batching` as it is by default), predictions are
written, no snapshots but the last. *Fleet*: each key has a lane and comes again and again, in any
order. *Visitors*: a key comes three times in a row and never again, so that each third event starts
a lane anew once all are taken. All rows take turns; processor time of the loop, the rounds' median.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.native import loading

VISITS = 3  # events of a visitor
NEVER_S = 1e6
write = sys.stdout.write


class Row(NamedTuple):
    """One crowd of keys."""

    kind: str
    lanes: int

    def key(self, i: int, draw: random.Random) -> int:
        """Of the i-th event."""
        return i // VISITS if self.kind == "visitors" else draw.randrange(self.lanes)


ROWS = (
    *(Row("fleet", lanes) for lanes in (1, 64, 1_000, 10_000)),
    *(Row("visitors", lanes) for lanes in (64, 1_000, 10_000)),
)


def taken(row: Row, cell: dict[str, object], n_events: int) -> tuple[float, int]:
    """Seconds of processor time for an event, and how many lanes were started anew."""
    with tempfile.TemporaryDirectory(prefix="keys-") as name:
        folder = Path(name)
        draw = random.Random(1)
        with (folder / "events.jsonl").open("w") as file:
            for i in range(n_events):
                event = {"key": f"k{row.key(i, draw)}", "value": round(draw.gauss(0, 1), 6)}
                file.write(json.dumps(event) + "\n")
        job = app.build(
            {
                "source": {"kind": "jsonl", "path": str(folder / "events.jsonl")},
                "task": {"kind": "forecast", "target": "value", "horizon": 1},
                "lanes": {"key": "key", "capacity": row.lanes},
                "learner": {"cell": cell, "device": "cpu"},
                "state": {"dir": str(folder / "state"), "every_s": NEVER_S},
            }
        )
        registry, store = CollectorRegistry(), Store(folder / "state")
        store.open()
        try:
            runtime = make_runtime(job, store, registry, Console(io.StringIO()))
            start = time.process_time()
            runtime.run()
            seconds = time.process_time() - start
        finally:
            store.close()
        applied = registry.get_sample_value("stream_rnn_events_applied_total")
        if applied != n_events:
            raise RuntimeError(f"{row}: {applied} of {n_events} events were applied")
        evicted = registry.get_sample_value("stream_rnn_lane_evictions_total") or 0.0
        return seconds / n_events, int(evicted)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cell", default="lru")
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--events", type=int, default=40_000, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cell: dict[str, object] = {"kind": given.cell, "units": given.units}
    seconds: dict[Row, list[float]] = {row: [] for row in ROWS}
    evictions: dict[Row, int] = {}
    for _ in range(given.rounds):
        for row in ROWS:
            took, evictions[row] = taken(row, cell, given.events)
            seconds[row].append(took)
    write(f"{given.cell}, {given.units} units, {given.events:,} events; {loading.describe()}\n\n")
    write("| Keys | Lanes | Lanes given to another key | us an event |\n|---|---|---|---|\n")
    for row in ROWS:
        us = 1e6 * statistics.median(seconds[row])
        write(f"| {row.kind} | {row.lanes:,} | {evictions[row]:,} | {us:,.1f} |\n")


if __name__ == "__main__":
    main()
