"""Where an event's time goes in the daemon: processor time per stage, by sampling.

    python -m benchmarks.where [--events 40000]

A timer of processor time interrupts the loop's thread a thousand times a second; a sample belongs
to the innermost function of the table below that is at work. Nothing is added to the code that is
measured, and other programs on the machine hardly show. Native element-wise units, one forecast for
each event, predictions written, no snapshots.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from prometheus_client import CollectorRegistry

from benchmarks.feeding import AHEAD, event, producing
from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.native import loading

EVERY_S = 0.001
STAGES = {  # function -> stage
    "Intake.poll": "receive",
    "Engine._decoded": "decode",
    "Engine._read_together": "decode",
    "Engine._lay_out": "features",
    "Frames.clear": "step: frame",
    "Frames.put": "step: frame",
    "Frames.put_many": "step: frame",
    "Learner.run": "step: learner",
    "Library.ticks": "step: library",
    "ticks_of": "step: outcome",
    "Scoring.take": "score",
    "Engine._finish": "lines",
    "Outputs.write": "emit",
    "Runtime._on_tick": "metrics, health",
    "Breaker.count": "metrics, health",
    "Runtime._housekeeping": "metrics, health",
    "Engine.feed": "the engine between them",
    "Engine.learn_waiting": "the engine between them",
    "Runtime.run": "the loop between them",
}


def sampled(run: Callable[[], None], samples: Counter[str]) -> None:
    """Call `run`, and count what it was at."""

    def look(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            stage = STAGES.get(frame.f_code.co_qualname)
            if stage is not None:
                samples[stage] += 1
                return
            frame = frame.f_back

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # one may be under way
        if before not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGPROF, before)


def measure(source: str, n_events: int) -> tuple[float, dict[str, float]]:
    """Microseconds per event: all, and by stage."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = {"kind": "jsonl", "path": f"{folder}/events.jsonl"}
        if source == "zeromq":
            table = {"kind": "zeromq", "address": f"ipc://{folder}/events", "bind": True}  # type: ignore[dict-item]
        else:
            with (folder / "events.jsonl").open("wb") as file:
                file.writelines(event(i, with_bad=False)[0] + b"\n" for i in range(n_events))
        job = app.build(
            {
                "source": table,
                "task": {"kind": "forecast", "target": "value"},
                "learner": {"cell": {"kind": "rtu", "units": 32}, "fallback": False},
                "sink": [{"kind": "jsonl", "path": f"{folder}/predictions.jsonl"}],
                "state": {"dir": f"{folder}/state"},
            }
        )
        console = Console(interactive=False, every_s=1e9)
        runtime = make_runtime(job, None, CollectorRegistry(), console)
        if source == "zeromq":
            place = f"ipc://{folder}/events"
            counts = stack.enter_context(producing("push", place, n_events, None, with_bad=False))
            counts.handled = n_events + AHEAD
        samples: Counter[str] = Counter()
        begun = time.process_time()
        sampled(lambda: runtime.run(n_events), samples)
        us = (time.process_time() - begun) / n_events * 1e6
        share = us / max(1, samples.total())
        return us, {stage: samples[stage] * share for stage in dict.fromkeys(STAGES.values())}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=40_000)
    given = parser.parse_args()
    print(f"{loading.describe()}\n")
    measured = {source: measure(source, given.events) for source in ("file", "zeromq")}
    print("| us per event | file | ZeroMQ |\n|---|---|---|")
    (file_us, file), (zeromq_us, zeromq) = measured["file"], measured["zeromq"]
    for stage in file:
        print(f"| {stage} | {file[stage]:.1f} | {zeromq[stage]:.1f} |")
    print(f"| all | {file_us:.1f} | {zeromq_us:.1f} |")


if __name__ == "__main__":
    main()
