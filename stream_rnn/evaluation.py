"""A stream learned once, or once for each of several seeds, for the scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from typing_extensions import override

from stream_rnn import app, results
from stream_rnn.console import Console
from stream_rnn.daemon import guarded, make_runtime, signals
from stream_rnn.results import Trace
from stream_rnn.spi import Record, Sink


def evaluate(
    tables: Mapping[str, Any], seed: int | None, max_events: int | None, trace: Trace | None
) -> app.Job:
    """One pass over the stream: no snapshots, no sinks, no dead-letter file."""
    quiet = {k: v for k, v in tables.items() if k not in ("sink", "state", "metrics", "journal")}

    def on_score(*score: Any) -> None:
        assert trace is not None
        trace.add(job.engine.task, *score)

    job = app.build(quiet, seed=seed, on_score=None if trace is None else on_score)
    job.sinks, job.dead_letters = [], _Nowhere()
    console = Console()
    runtime = make_runtime(job, None, CollectorRegistry(), console)
    with signals(runtime):
        guarded(job, runtime, max_events)
    console.done()
    return job


class _Nowhere(Sink):
    """Forgets; the counts say what it was given."""

    @override
    def open(self) -> None:
        """Nothing to open."""

    @override
    def write(self, records: Sequence[Record]) -> None:
        """Forget."""

    @override
    def close(self) -> None:
        """Nothing to close."""


def over_seeds(jobs: list[app.Job]) -> str:
    """Mean, least and largest of every metric over the seeds."""
    lines = ["over seeds: mean (least .. largest)"]
    tables = [results.rows(job.engine.task) for job in jobs]
    for rows in zip(*tables, strict=True):
        values = [row.model for row in rows if row.model is not None]
        if values:
            mean = sum(values) / len(values)
            lines.append(
                f"  {rows[0].name:<20} {mean:.5g} ({min(values):.5g} .. {max(values):.5g})"
            )
    return "\n".join(lines)
