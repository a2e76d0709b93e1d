"""Half an hour of kills: is any event lost or doubled, does one bit differ, does anything leak?

    python -m benchmarks.storm --seconds 1800

Five daemons at a time learn one stream that grows: from a file, in torch and with the native step;
from a producer that reads its own log again, from one with a spool, and through a journal. In the
first half they get SIGTERM after 1 to 30 s of life, in the second SIGKILL after 0.1 to 10 s, and
their producers SIGKILL all along (a shorter storm has shorter lives). Then the stream ends, the
survivors go on to its last event, and are compared with runs in which nothing happened.

Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.storm.daemons import ROOT, Nursery
from benchmarks.storm.place import Kind, Place, differences, finish, first_of_each_id, undisturbed
from benchmarks.storm.stream import write_events
from benchmarks.storm.victim import Schedule, Victim

STATE = '[state]\ndir = "state"\nevery_events = 97\nevery_s = 1.0\n'
CAST: list[tuple[Kind, str]] = [
    ("jsonl", "torch"),
    ("jsonl", "native"),
    ("router", "torch"),
    ("spool", "torch"),
    ("router+journal", "native"),
]
AHEAD = 2000  # events that the slowest may be behind before the stream waits
STEP_S = 0.02
SLOWEST = 50  # events per second of a daemon on a machine that does other things


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--rate", type=float, default=100, help="events per second")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as name, ExitStack() as stack:
        folder = Path(name)
        nurseries = {"torch": stack.enter_context(Nursery())}
        native = build_native(folder / "native")
        if native:
            environment = {"STREAM_RNN_CACHE": str(folder / "native")}
            nurseries["native"] = stack.enter_context(Nursery(environment))
        cast = [(kind, step) for kind, step in CAST if step in nurseries]
        stream = folder / "events.jsonl"
        stream.touch()
        (folder / "events.jsonl.growing").touch()
        chance = random.Random(given.seed)
        victims = [
            Victim(
                Place.make(
                    folder / f"{kind}-{step}",
                    kind,
                    stream,
                    nurseries[step],
                    follow=True,
                    state=STATE,
                ),
                Schedule.lasting(given.seconds),
                random.Random(chance.random()),
            )
            for kind, step in cast
        ]
        for victim in victims:
            stack.callback(victim.place.clear)
        n_events = rage(victims, stream, given.seconds, given.rate)
        return judge(victims, [step for _, step in cast], stream, n_events)


def build_native(folder: Path) -> bool:
    """Whether the native step could be built there."""
    done = subprocess.run(
        [sys.executable, "-m", "stream_rnn.native"],
        env=os.environ | {"STREAM_RNN_CACHE": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        print("without the native step: it cannot be built here", file=sys.stderr)
    return done.returncode == 0


def rage(victims: Sequence[Victim], stream: Path, seconds: float, rate: float) -> int:
    """Let the stream grow and kill; how many events there are."""
    begin = looked_at = time.monotonic()
    n_events, allowed = 0.0, AHEAD
    written, before = 0, begin
    while (now := time.monotonic()) < begin + seconds:
        if now - looked_at > 1.0:
            looked_at = now
            allowed = min(victim.place.applied() for victim in victims) + AHEAD
        n_events = min(allowed, n_events + (now - before) * rate)
        before = now
        if int(n_events) > written:
            write_events(stream, written + 1, int(n_events))
            written = int(n_events)
        number = signal.SIGTERM if now < begin + seconds / 2 else signal.SIGKILL
        for victim in victims:
            victim.step(now, number)
        time.sleep(STEP_S)
    (stream.parent / f"{stream.name}.growing").unlink()
    return written


def judge(victims: Sequence[Victim], steps: Sequence[str], stream: Path, n_events: int) -> int:
    """Let the survivors finish, compare, print; the exit code."""
    survivors = [victim.survivor() for victim in victims]
    patience_s = max(900.0, n_events / SLOWEST)
    print(
        f"{n_events} events each\n"
        f"{'source':<16}{'step':<8}{'TERM':>6}{'KILL':>6}{'producer':>9}{'lost':>6}{'doubled':>8}"
        f"{'replayed':>9}{'bits':>11}{'RSS MB':>14}{'files':>10}"
    )
    all_is_well = True
    for victim, survivor, step in zip(victims, survivors, steps, strict=True):
        place = victim.place
        try:
            place.wait_for(n_events, patience_s)
            last = survivor.size()
            finish(place, survivor, n_events, victim.producer, patience_s)
        except (RuntimeError, TimeoutError) as error:
            victim.wrong.append(str(error))
            last = (0.0, 0)
        calm = Place.make(
            place.folder.with_name(f"{place.folder.name}-calm"),
            place.kind,
            stream,
            place.nursery,
            state=STATE,
        )
        undisturbed(calm, n_events, timeout_s=patience_s)
        victim.wrong += differences(place, calm)
        lines = [*place.lines(), *place.lines("letters.jsonl")]
        replayed = sum(line.get("replayed", False) for line in lines)
        kept, doubled = first_of_each_id(lines)
        lives = [size for size in victim.sizes if size[1]] or [last]
        early = [
            statistics.median(each) for each in zip(*lives[: len(lives) // 5 + 1], strict=True)
        ]
        print(
            f"{place.kind:<16}{step:<8}{victim.kills.get(signal.SIGTERM, 0):>6}"
            f"{victim.kills.get(signal.SIGKILL, 0):>6}{victim.producer_kills:>9}"
            f"{n_events - len(kept):>6}{len(doubled):>8}{replayed:>9}"
            f"{'DIFFERENT' if victim.wrong else 'identical':>11}"
            f"{early[0]:>7.0f}->{last[0]:>4.0f}{early[1]:>5.0f}->{last[1]:>2}",
            flush=True,
        )
        for each in victim.wrong:
            print(f"  WRONG: {each}")
        all_is_well &= not victim.wrong
    return 0 if all_is_well else 1


if __name__ == "__main__":
    sys.exit(main())
