"""Adaptive TBPTT in a running daemon: the window goes with the memory that the stream asks for.

The memory is known by construction: the update gate of a GRU reads the field "memory" and nothing
else, so dL/ds is carried back with just the share that the stream says, while everything learns.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from typing_extensions import override

from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.recurrence import Dense
from stream_rnn.runtime import watch
from stream_rnn.spi import EndOfStream, Record
from stream_rnn.testing import ListSink, ScriptedSource

UNITS = 4
HISTORY = 32
KEPT = {"short": 0.5, "long": 0.9}  # of the state, per event
PHASE = 280  # events: four adaptations, of which the first sees events of the phase before
WINDOW = "stream_rnn_truncation_window"


class Reading(ListSink):
    """Takes down the gauge that is exported while predictions are written."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self.registry = registry
        self.seen: list[float | None] = []

    @override
    def write(self, records: Sequence[Record]) -> None:
        super().write(records)
        self.seen.append(self.registry.get_sample_value(WINDOW))


def job_of(tmp_path: Path, **tables: Any) -> app.Job:
    credit = {"kind": "adaptive_tbptt", "history": HISTORY, "k_max": HISTORY, "window": 12}
    often = {"sample_every": 7, "adapt_every": 70, "min_samples": 4}
    defaults: dict[str, Any] = {
        "state": {"dir": str(tmp_path)},
        "source": {"kind": "synthetic"},
        "task": {"kind": "regression", "target": "y"},
        "features": {"numeric": ["x"], "categorical": {"memory": list(KEPT)}},
        "limits": {"poll_events": 10},
        "learner": {
            "cell": {"kind": "gru", "units": UNITS},
            "credit": credit | often,
            "optimizer": {"kind": "adam", "lr": 1e-5},
        },
    }
    job = app.build(defaults | tables)
    recurrence = job.engine.learner.recurrence
    assert isinstance(recurrence, Dense)
    names = job.engine.task.features.names()
    # units do not read each other: what is carried back is what the gate keeps, and that alone
    recurrence.W_ZM[:, len(names) : -1] = 0.0
    gate_NM = recurrence.W_ZM[UNITS : 2 * UNITS]
    gate_NM.zero_()
    for memory, kept in KEPT.items():
        gate_NM[:, names.index(f"memory={memory}")] = math.log(kept / (1 - kept))
    return job


def events(phases: Sequence[str]) -> Iterator[Record]:
    generator = torch.Generator().manual_seed(0)
    for memory in phases:
        for x, y in torch.randn(PHASE, 2, generator=generator).tolist():
            yield {"memory": memory, "x": x, "y": y}


def windows_shown(job: app.Job, stream: Iterator[Record]) -> list[float]:
    """The values that the gauge went through while the daemon ran over the stream."""
    registry = CollectorRegistry()
    sink = Reading(registry)
    job.source, job.dead_letters = ScriptedSource([*stream, EndOfStream()]), ListSink()
    job.sinks = [sink]
    make_runtime(job, None, registry, Console(io.StringIO())).run()
    shown = [*sink.seen, registry.get_sample_value(WINDOW)]
    return [value for value, _ in groupby(value for value in shown if value is not None)]


def closed_form(kept: float, tolerance: float = 0.1) -> int:
    """docs/algorithms.md 4.4."""
    return math.floor(math.log(tolerance * (1 - 2 * kept**HISTORY)) / math.log(kept)) + 1


@pytest.fixture(autouse=True)
def published_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every turn of the loop, whatever a clock says."""
    monkeypatch.setattr(watch, "PUBLISH_S", 0.0)
    monkeypatch.setattr(watch, "REPORT_S", 0.0)


def test_the_gauge_follows_the_memory_of_the_stream_up_and_down(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    before = [tensor.clone() for tensor in job.engine.learner.parameters()]
    shown = windows_shown(job, events(["short", "long", "short", "long"]))
    assert math.isnan(shown[0])  # nothing has been learned
    assert shown[1] == 12
    short, long = (closed_form(kept) for kept in KEPT.values())
    assert (short, long) == (4, 23)
    # in between, samples of both
    assert [value for value in shown if value in (short, long)] == [short, long, short, long]
    assert all(short <= value <= long for value in shown[2:])
    after = job.engine.learner.parameters()
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_window_follows_in_episodes_shorter_than_the_history(tmp_path: Path) -> None:
    job = job_of(tmp_path, lanes={"key": "run", "capacity": 1, "end": "last"})
    stream = (record | {"run": 0, "last": n % 8 == 7} for n, record in enumerate(events(["long"])))
    _, first, *later = windows_shown(job, stream)
    assert first == 12
    assert later
    assert all(4 < value <= 9 for value in later)  # to the state that an episode of 8 begins with
