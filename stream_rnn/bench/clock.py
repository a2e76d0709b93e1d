"""Durations on a machine that others use, too: everything that is compared takes turns.

Shared machines change speed from minute to minute, and interrupt. So candidates run one after
another, again and again, each once uncounted and then once more: ticks of a stream follow upon one
another, and find in the caches what the tick before left there, not what another candidate did.
What counts is the processor time of this thread, which does not grow while others have the core
(what they do to the caches shows), and each figure is the least of the medians of several rounds.
What to quote are ratios within one table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

ROUNDS = 5
LEAST = 3  # runs of each candidate in a round, however long they take

Runs = Mapping[str, tuple[int, Callable[[], object]]]
"""Name -> how many times it does the thing, and what does it."""


def medians_us(runs: Runs, seconds: float, rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds of processor time of one of each: the least median of several rounds.

    Args:
        runs: the candidates, all on this thread; each is called once before it counts.
        seconds: for all of them together, unless `LEAST` runs of each take longer.
        rounds: whose medians are compared.
    """
    best = dict.fromkeys(runs, float("inf"))
    with torch.no_grad():
        for _, run in runs.values():
            run()
        for _ in range(rounds):
            times: dict[str, list[float]] = {name: [] for name in runs}
            deadline, n = time.perf_counter() + seconds / rounds, 0
            while n < LEAST or time.perf_counter() < deadline:
                n += 1
                for name, (count, run) in runs.items():
                    run()
                    start = time.thread_time()
                    run()
                    times[name].append((time.thread_time() - start) / count)
            for name, each in times.items():
                best[name] = min(best[name], statistics.median(each) * 1e6)
    return best


def small_operation() -> tuple[int, Callable[[], object]]:
    """One small in-place operation of torch: what a tick of hundreds of them cannot go below."""
    a = torch.randn(32)
    b = torch.randn(32)
    return 20, lambda: [a.add_(b) for _ in range(20)]
