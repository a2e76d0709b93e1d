"""Does a step cost at the end what it cost at the beginning? 2,000,000 events, some inputs dead.

    python -m benchmarks.flat [--events 2000000] [--only lru]

After each call of 64 ticks comes a bare matrix product that takes about as long; the ratio of the
two takes out what the machine's speed did meanwhile (processor time, of each its fastest tenth of
calls: the others were disturbed). It is compared between the first and the last tenth, after a
warm-up. Dead inputs are always zero: without flushing, what belongs to them decays
into denormal numbers, which processors are slow with. The number of allocations of a tick must be
the same at the end, and memory must not grow.

Exits with 1 if a ratio changed by more than 3 %, or resident memory by more than 4 MB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace

import psutil
import torch

from stream_rnn.bench.cases import INPUTS, OWN, Case
from stream_rnn.bench.clock import medians_us, small_operation
from stream_rnn.bench.rows import MANY, allocations
from stream_rnn.frame import Block
from stream_rnn.native import loading

CASES = [Case(kind, OWN, 32) for kind in ("lru", "rtu", "elstm")] + [
    Case("tanh", "kf", 32),
    Case("lstm", "tbptt(10)", 32),
    Case("lstm", "ok(1)", 32),
]
BLOCKS = 64  # different ones, which come again and again
WARM_UP, MOST, MOST_MB = 20_000, 0.03, 4.0  # events; share; MB
MOST_ALLOCATIONS = 0.1  # a tick: room for outcomes and signs is made for many ticks at once


def blocks_of(case: Case, dead: int) -> list[Block]:
    """Events of noise, in which so many inputs are always zero."""
    whole = case.block(MANY * BLOCKS)
    x_TBI = whole.x_TBI.clone()
    x_TBI[..., INPUTS - dead :] = 0
    parts = zip(x_TBI.split(MANY), whole.y_TBQ.split(MANY), whole.live_TB.split(MANY), strict=True)
    return [Block(x.contiguous(), y.contiguous(), yes, yes) for x, y, yes in parts]


def measure(case: Case, dead: int, n_events: int) -> tuple[list[float], list[float], list[float]]:
    """Of each tenth: the ratio to the product, resident memory in MB, allocations of a tick."""
    learner, blocks = case.learner(), blocks_of(case, dead)
    a, b, out = torch.randn(96, 96), torch.randn(96, 96), torch.empty(96, 96)
    process = psutil.Process()

    def call(block: Block) -> None:
        taken = 0
        while taken < MANY:
            taken += len(learner.run(block, taken))

    def product(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    took = medians_us({"call": (1, lambda: call(blocks[0])), "mm": (10, lambda: product(10))}, 0.5)
    times = max(1, round(took["call"] / took["mm"]))
    for i in range(WARM_UP // MANY):
        call(blocks[i % BLOCKS])
        product(times)
    ratios, memory, counts = [], [], []
    for _ in range(10):
        calls, products = [], []
        for i in range(max(10, n_events // 10 // MANY)):
            block = blocks[i % BLOCKS]
            begun = time.thread_time()
            call(block)
            between = time.thread_time()
            product(times)
            calls.append(between - begun)
            products.append(time.thread_time() - between)
        ratios.append(
            statistics.quantiles(calls, n=10)[0] / statistics.quantiles(products, n=10)[0]
        )
        memory.append(process.memory_info().rss / 1e6)
        counts.append(allocations(lambda: call(blocks[0])) / MANY)
    return ratios, memory, counts


def faults_of(ratios: list[float], memory: list[float], counts: list[float]) -> list[str]:
    """What is not flat, in words; by the values of the tenths."""
    found = []
    if abs(ratios[-1] / ratios[0] - 1) > MOST:
        found.append("time")
    if memory[-1] - memory[1] > MOST_MB:  # the first one's are for the measuring itself
        found.append("memory")
    if abs(counts[-1] - counts[1]) > MOST_ALLOCATIONS:
        found.append("allocations")
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--lanes", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    small_us = medians_us({"small": small_operation()}, 0.3)["small"]
    print(f"{loading.describe()}; one small in-place torch operation: {small_us:.2f} us")
    print(f"{given.events} events a row, {MANY} ticks a call; ratio to a product beside it\n")
    print(
        "| | dead inputs | first tenth | last | least .. largest | change | RSS, MB "
        "| allocations a tick |"
    )
    print("|---|---|---|---|---|---|---|---|")
    faults = 0
    for case in (replace(case, n_lanes=given.lanes) for case in CASES if given.only in str(case)):
        for dead in (0, INPUTS // 2):
            ratios, memory, counts = measure(case, dead, given.events)
            change, found = ratios[-1] / ratios[0] - 1, faults_of(ratios, memory, counts)
            faults += len(found)
            print(
                f"| {case} | {dead} of {INPUTS} | {ratios[0]:.3f} | {ratios[-1]:.3f} "
                f"| {min(ratios):.3f} .. {max(ratios):.3f} "
                f"| {change:+.1%}{' FAULT: ' if found else ''}"
                f"{', '.join(found)} | {memory[0]:.1f}, {memory[-1]:.1f} "
                f"| {counts[1]:.2f}, {counts[-1]:.2f} |",
                flush=True,
            )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
