"""Lanes shared out among threads: a tick of all lanes on one thread and on several.

    make native
    python -m benchmarks.threads [--threads 2] [--rounds 15]

In wall time, for that is what threads are to save: it says something only while no other program
wants the same cores. Who runs on one thread and who runs on several take turns; a figure is the
median of all rounds, and in brackets the shortest of each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from stream_rnn.bench.cases import Case
from stream_rnn.bench.rows import run_all
from stream_rnn.native import loading

CASES = (
    Case("tanh", "kf", 64, 64),
    Case("tanh", "kf", 64, 16),
    Case("lstm", "kf", 64, 64),
    Case("lstm", "ok(8)", 32, 64),
)
TICKS = 20  # of a round


def times(case: Case, threads: int, rounds: int) -> dict[int, list[float]]:
    """Microseconds of a tick of all lanes in every round, by the number of threads."""
    given: dict[int, Callable[[], int]] = {}
    for n in (1, threads):
        torch.set_num_threads(n)  # what a learner's plan is made with
        learner, block = case.learner(), case.block(TICKS)
        given[n] = partial(run_all, learner, block)
        given[n]()
    taken: dict[int, list[float]] = {n: [] for n in given}
    for _ in range(rounds):
        for n, run in given.items():
            start = time.perf_counter()
            run()
            taken[n].append((time.perf_counter() - start) / TICKS * 1e6)
    return taken


def told(case: Case, taken: dict[int, list[float]]) -> str:
    """A line of the table."""
    one, several = taken.values()
    middle = [statistics.median(each) for each in (one, several)]
    line = f"| {case.cell} {case.rule} | {case.n_units} | {case.n_lanes} | "
    line += " | ".join(f"{us:,.0f}" for us in middle)
    return f"{line} | {middle[0] / middle[1]:.2f} ({min(one) / min(several):.2f}) |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    if options.threads < 2 or options.rounds < 1:
        parser.error("expected at least 2 threads and a round")
    if loading.find() is None:
        sys.stderr.write(f"skipped: {loading.describe()}; only native lanes are shared out\n")
        return 0
    write, before = sys.stdout.write, torch.get_num_threads()
    write(f"{loading.describe()}; microseconds of a tick of all lanes\n\n")
    write(f"| | units | lanes | one thread | {options.threads} threads | times (at best) |\n")
    write("|---|---|---|---|---|---|\n")
    try:
        for case in CASES:
            write(told(case, times(case, options.threads, options.rounds)) + "\n")
            sys.stdout.flush()
    finally:
        torch.set_num_threads(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
