"""The daemon end to end: events a second, and the processor time of an event by stage.

A timer of processor time interrupts the loop's thread a thousand times a second; a sample belongs
to the innermost of our functions or files that is known to work for a stage. Nothing is added to
the code that is measured.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

from stream_rnn.bench import feed

EVERY_S = 0.001
REST = "loop"
# where our files are, and what they are at work for; the longest name that fits counts
STAGES = {
    "connectors/": "receive",
    "stream_rnn/runtime/intake": "receive",
    "stream_rnn/journal/": "receive",
    "stream_rnn/codec": "decode",
    "stream_rnn/features/": "features",
    "stream_rnn/tasks/": "features",
    "stream_rnn/lanes": "features",
    "stream_rnn/engine/frames": "step",
    "stream_rnn/engine/pending": "metrics",
    "stream_rnn/engine/scoring": "metrics",
    "stream_rnn/engine/lines": "emit",
    "stream_rnn/learner": "step",
    "stream_rnn/frame": "step",
    "stream_rnn/plan/": "step",
    "stream_rnn/native/": "step",
    "stream_rnn/recurrence/": "step",
    "stream_rnn/credit/": "step",
    "stream_rnn/cells/": "step",
    "stream_rnn/head": "step",
    "stream_rnn/update/": "step",
    "stream_rnn/runtime/outputs": "emit",
    "stream_rnn/runtime/watch": "metrics",
    "stream_rnn/runtime/breaker": "metrics",
    "stream_rnn/runtime/rungs": "metrics",
    "stream_rnn/metrics": "metrics",
    "stream_rnn/health": "metrics",
    "stream_rnn/scores/": "metrics",
    "stream_rnn/engine/": REST,
    "stream_rnn/runtime/": REST,
}
# what stands in one file and works for several; what C code takes counts for its caller
FUNCTIONS = {
    "Engine._decoded": "decode",
    "Engine._read_together": "decode",
    "Engine._decode_all": "decode",
    "Engine._lay_out": "features",
    "Engine._learn_laid": "step",
    "Engine._finish": "emit",
    "Runtime._on_tick": "metrics",
    "Runtime._housekeeping": "metrics",
    "JsonlSink.write": "emit",
}
ORDER = ("receive", "decode", "features", "step", "emit", "metrics", REST)
_ROOT = str(Path(__file__).resolve().parents[2]) + "/"


@dataclass(frozen=True)
class Daemon:
    """Of one run.

    Attributes:
        events_per_s: by the wall clock, from the first event to the last.
        cpu_us: processor time of an event, by stage.
    """

    events_per_s: float
    cpu_us: dict[str, float]


def stage_of(path: str) -> str | None:
    """The stage that a source file works for; None: none of ours, whoever called it says."""
    name = path.removeprefix(_ROOT)
    fits = [start for start in STAGES if name.startswith(start)]
    return STAGES[max(fits, key=len)] if fits else None


def measure(kind: Literal["file", "zeromq"], n_events: int) -> Daemon:
    """Run a daemon on a backlog: 32 element-wise units, a forecast for each event, no snapshots."""
    from prometheus_client import CollectorRegistry

    from stream_rnn import app
    from stream_rnn.console import Console
    from stream_rnn.daemon import make_runtime

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = app.build(_tables(kind, folder, n_events))
        console = Console(io.StringIO(), interactive=False, every_s=1e9)
        runtime = make_runtime(job, None, CollectorRegistry(), console)
        samples: Counter[str] = Counter()
        command = [sys.executable, "-m", "stream_rnn.bench.feed", f"ipc://{folder}/events"]
        fed = kind == "zeromq"
        producer = (
            subprocess.Popen([*command, str(n_events)], stdout=subprocess.PIPE) if fed else None
        )
        try:
            if producer is not None and producer.stdout is not None:
                producer.stdout.readline()
            begun = (time.process_time(), time.perf_counter())
            with _sampled(samples):
                runtime.run(n_events)
            cpu_s, wall_s = time.process_time() - begun[0], time.perf_counter() - begun[1]
        finally:
            if producer is not None:
                producer.kill()
                producer.communicate()
    share = cpu_s / n_events * 1e6 / max(1, samples.total())
    return Daemon(n_events / wall_s, {stage: samples[stage] * share for stage in ORDER})


def _tables(kind: str, folder: Path, n_events: int) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": "jsonl", "path": f"{folder}/events.jsonl"}
    if kind == "zeromq":
        source = {"kind": "zeromq", "address": f"ipc://{folder}/events", "bind": True}
    else:
        with (folder / "events.jsonl").open("wb") as file:
            file.writelines(feed.event(i) + b"\n" for i in range(n_events))
    return {
        "source": source,
        "task": {"kind": "forecast", "target": "value"},
        "learner": {"cell": {"kind": "rtu", "units": 32}, "fallback": False},
        "sink": [{"kind": "jsonl", "path": f"{folder}/predictions.jsonl"}],
        "state": {"dir": f"{folder}/state"},
    }


@contextmanager
def _sampled(samples: Counter[str]) -> Iterator[None]:
    """Count what the thread is at; only of the main thread, which signals interrupt."""
    stages: dict[CodeType, str | None] = {}  # a look must be cheap

    def look(number: int, frame: FrameType | None) -> None:
        stage: str | None = None
        while frame is not None and stage is None:
            code = frame.f_code
            if code not in stages:
                stages[code] = FUNCTIONS.get(code.co_qualname) or stage_of(code.co_filename)
            stage = stages[code]
            frame = frame.f_back
        samples[stage or REST] += 1

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # one may be under way
        if before not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGPROF, before)
