"""With readers hammering it a learner learns, to the bit, what it learns without them."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.readers.request import Refused
from stream_rnn.readers.shared import Shared
from stream_rnn.runtime.loop import Runtime
from stream_rnn.serving import attached
from stream_rnn.spi import Batch, EndOfStream, Record
from stream_rnn.testing import ListSink, ScriptedSource

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y", "horizon": 2},
    "features": {"lags": {"y": [3]}},
    "lanes": {"key": "id", "capacity": 2},  # three keys: lanes are taken from one another
    "limits": {"poll_events": 8},  # between two polls at least, a copy may be made
    "learner": {
        "cell": {"kind": "gru", "units": 4},
        "credit": {"kind": "ok", "rank": 1},
        "optimizer": {"kind": "adam", "lr": 0.01},
    },
}
READERS = {"publish_ms": 1, "max_concurrent": 2}


def records(n: int) -> list[Record]:
    return [{"y": math.sin(i / 2) * 10 + i % 5, "id": "abc"[i * i % 3]} for i in range(n)]


class Patient(ScriptedSource):
    """Its events come as fast as answers do, at first: each batch after one from a later moment."""

    def __init__(self, script: list[Any], answers: list[int]) -> None:
        super().__init__(script)
        self._answers = answers
        self._batches = 0
        self._until = time.monotonic() + 60.0

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if len(set(self._answers)) < min(self._batches, 5) and time.monotonic() < self._until:
            return Batch([], dict(self._resume))
        self._batches += 1
        return super().poll(max_events, timeout_s)


def runtime_of(
    tables: dict[str, Any], tmp_path: Path, n: int, answers: list[int] | None = None
) -> tuple[Runtime, app.Job]:
    """A daemon's insides; with `answers` its events come when these do."""
    job = app.build({"state": {"dir": str(tmp_path)}} | tables)
    script = [*records(n), EndOfStream()]
    job.source = ScriptedSource(script) if answers is None else Patient(script, answers)
    job.sinks = [ListSink()]
    job.dead_letters = ListSink()
    runtime = make_runtime(job, None, CollectorRegistry(), Console(io.StringIO()))
    return runtime, job


@pytest.mark.parametrize("batching", ["event", "log"])
def test_four_threads_that_ask_all_the_time_change_no_bit(tmp_path: Path, batching: str) -> None:
    tables = TABLES | {"lanes": TABLES["lanes"] | {"batching": batching}}
    n = 120
    alone, lonely = runtime_of(tables, tmp_path, n)
    alone.run()
    answers: list[int] = []
    watched, job = runtime_of(tables | {"readers": READERS}, tmp_path, n, answers)
    readers = job.readers
    assert readers is not None
    is_over = threading.Event()

    def hammer(i: int) -> None:
        while not is_over.is_set():
            try:
                record = {"y": 1e6 * i, "id": "abcd"[i]}
                answers.append(readers.predict({"records": [record] * 3}).step)
            except Refused as refused:
                if refused.status not in (429, 503):
                    raise

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    watched.run()
    is_over.set()
    for thread in threads:
        thread.join()

    assert readers.publications > 3
    assert len(set(answers)) > 3  # from several moments of learning
    mine, other = job.engine.learner.state_dict(), lonely.engine.learner.state_dict()
    assert all(mine[name].equal(other[name]) for name in other)
    assert job.engine.state_dict() == lonely.engine.state_dict()
    assert written(watched) == written(alone)


def test_a_process_that_asks_all_the_time_changes_no_bit(tmp_path: Path) -> None:
    """Its memory is shared with a thread here, which wishes for every copy it can get."""
    n = 120
    alone, lonely = runtime_of(TABLES, tmp_path, n)
    alone.run()
    answers: list[int] = []
    watched, job = runtime_of(TABLES, tmp_path, n, answers)
    watched.readers = shared = Shared(job.engine, 0.001)
    copies, page = shared.descriptors
    told = {"model": job.model, "max_concurrent": 2, "max_bytes": 65536, "copies": copies}
    far = attached(told | {"page": page}, shared.words)
    is_over = threading.Event()

    def hammer(i: int) -> None:
        while not is_over.is_set():
            status, body = far.answer(
                b'{"records": [{"y": 1e6, "id": "%d"}, {"y": 1, "id": "%d"}]}' % (i, i)
            )
            assert status in (200, 429, 503), body
            if status == 200:
                answers.append(json.loads(body)["step"])

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    watched.run()
    is_over.set()
    for thread in threads:
        thread.join()

    assert shared.publications > 3
    assert len(set(answers)) > 3  # from several moments of learning
    mine, other = job.engine.learner.state_dict(), lonely.engine.learner.state_dict()
    assert all(mine[name].equal(other[name]) for name in other)
    assert job.engine.state_dict() == lonely.engine.state_dict()
    assert written(watched) == written(alone)
    far._region.close()
    shared.close()


def written(runtime: Runtime) -> list[Record]:
    (sink,) = runtime.outputs.sinks
    assert isinstance(sink, ListSink)
    return sink.records


def test_requests_and_copies_are_among_the_metrics(tmp_path: Path) -> None:
    job = app.build(TABLES | {"readers": READERS, "state": {"dir": str(tmp_path)}})
    job.source, job.sinks = ScriptedSource([*records(20), EndOfStream()]), [ListSink()]
    job.dead_letters = ListSink()
    registry = CollectorRegistry()
    runtime = make_runtime(job, None, registry, Console(io.StringIO()))
    assert job.readers is not None
    job.readers._asked = True
    before = generate_latest(registry).decode()
    assert "stream_rnn_reader_copy_age_seconds NaN" in before
    runtime.run()
    job.readers.predict({"record": {"y": 1.0, "id": "a"}})
    after = generate_latest(registry).decode()
    assert 'stream_rnn_reader_requests_total{outcome="answered"} 1.0' in after
    assert "stream_rnn_reader_copy_age_seconds NaN" not in after
    assert "stream_rnn_reader_copy_seconds NaN" not in after
