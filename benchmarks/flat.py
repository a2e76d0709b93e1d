"""Does a step cost at the end what it cost at the beginning? 2,000,000 events, some inputs dead.

    python -m benchmarks.flat [--events 2000000] [--only lru]

After each call of 64 ticks comes a bare matrix product that takes about as long; the ratio of the
two takes out what the machine's speed did meanwhile (processor time, of each its fastest tenth of
calls: the others were disturbed). It is compared between the first and the last tenth, after a
warm-up. A machine that others use may favour the one or the other meanwhile. So in the end
a learner is put into the state after the warm-up and into the state of the end in turn, many
times, with its tensors where they are: that tells what the events did from what the machine did.
Where credit restarts, a call ends early and another one begins, which costs (`calls cut`).
Dead inputs are always zero: without flushing, what belongs to them decays into denormal numbers,
which processors are slow with. The number of allocations of a tick must be the same at the end,
and memory must not grow.

Exits with 1 if either changed by more than 3 %, or resident memory by more than 4 MB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from stream_rnn.bench.cases import INPUTS, OWN, Case
from stream_rnn.bench.clock import medians_us, small_operation
from stream_rnn.bench.rows import MANY, allocations, run_all
from stream_rnn.frame import Block
from stream_rnn.learner import Learner
from stream_rnn.native import loading

CASES = [Case(kind, OWN, 32) for kind in ("lru", "rtu", "elstm")] + [
    Case("tanh", "kf", 32),
    Case("lstm", "tbptt(10)", 32),
    Case("lstm", "ok(1)", 32),
]
BLOCKS = 64  # different ones, which come again and again
WARM_UP, MOST, MOST_MB = 20_000, 0.03, 4.0  # events; share; MB
COPIES, TURNS_S = 5, 4.0  # learners; seconds for all of them together
PER_TURN = 5  # blocks, of which the first is not timed
MOST_ALLOCATIONS = 0.1  # a tick: room for outcomes and signs is made for many ticks at once


def blocks_of(case: Case, dead: int) -> list[Block]:
    """Events of noise, in which so many inputs are always zero."""
    whole = case.block(MANY * BLOCKS)
    x_TBI = whole.x_TBI.clone()
    x_TBI[..., INPUTS - dead :] = 0
    parts = zip(x_TBI.split(MANY), whole.y_TBQ.split(MANY), whole.live_TB.split(MANY), strict=True)
    return [Block(x.contiguous(), y.contiguous(), yes, yes) for x, y, yes in parts]


@dataclass
class Course:
    """What a case cost from tenth to tenth.

    Attributes:
        ratios: to the product beside it.
        memory: resident, in MB.
        counts: allocations of a tick.
        cut: calls more than one for 64 ticks: credit that restarts ends one (and without the
            compiled library each tick is one).
        age: a tick in the state of the end by one in the state after the warm-up, in turns.
    """

    ratios: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    age: float = 1.0
    cut: list[float] = field(default_factory=list)


def state_of(learner: Learner) -> dict[str, Any]:
    """A copy."""
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def put(learner: Learner, state: dict[str, Any]) -> None:
    """Into this state, every tensor where it is; signs and counts of ticks go on as they are."""
    now = learner.state_dict()
    for name, tensor in state.items():
        now[name].copy_(tensor)


def age_of(case: Case, young: dict[str, Any], old: dict[str, Any], blocks: list[Block]) -> float:
    """A tick in the one state by one in the other: the median of several learners.

    Each is put into the one and the other state in turn, and sees the same events in both.
    """
    found = []
    for _ in range(COPIES):
        learner = case.learner()
        learner.load_state_dict(young)  # now there is room for all of it
        took: dict[str, list[float]] = {"young": [], "old": []}
        turn, until = 0, time.perf_counter() + TURNS_S / COPIES
        while time.perf_counter() < until or turn < 2:
            states = [("young", young), ("old", old)]
            seen = [blocks[(turn * PER_TURN + i) % len(blocks)] for i in range(PER_TURN)]
            for name, state in states if turn % 2 else reversed(states):
                put(learner, state)
                run_all(learner, seen[0])  # what was copied is in the cache again
                begun = time.thread_time()
                for block in seen[1:]:
                    run_all(learner, block)
                took[name].append(time.thread_time() - begun)
            turn += 1
        found.append(statistics.median(took["old"]) / statistics.median(took["young"]))
    return statistics.median(found)


def measure(case: Case, dead: int, n_events: int) -> Course:
    """Run a learner over so many events."""
    learner, blocks = case.learner(), blocks_of(case, dead)
    a, b, out = torch.randn(96, 96), torch.randn(96, 96), torch.empty(96, 96)
    process, course = psutil.Process(), Course()

    def product(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    runs = {"call": (1, lambda: run_all(learner, blocks[0])), "mm": (10, lambda: product(10))}
    took = medians_us(runs, 0.5)
    times = max(1, round(took["call"] / took["mm"]))
    for i in range(WARM_UP // MANY):
        run_all(learner, blocks[i % BLOCKS])
        product(times)
    young = state_of(learner)
    for _ in range(10):
        calls, products, n_calls = [], [], 0
        for i in range(max(10, n_events // 10 // MANY)):
            block = blocks[i % BLOCKS]
            begun = time.thread_time()
            n_calls += run_all(learner, block)
            between = time.thread_time()
            product(times)
            calls.append(between - begun)
            products.append(time.thread_time() - between)
        course.ratios.append(
            statistics.quantiles(calls, n=10)[0] / statistics.quantiles(products, n=10)[0]
        )
        course.memory.append(process.memory_info().rss / 1e6)
        course.cut.append(n_calls / len(calls) - 1)
        course.counts.append(allocations(lambda: run_all(learner, blocks[0])) / MANY)
    course.age = age_of(case, young, state_of(learner), blocks)
    return course


def faults_of(course: Course) -> list[str]:
    """What is not flat, in words; by the values of the tenths."""
    found = []
    if abs(course.ratios[-1] / course.ratios[0] - 1) > MOST:
        found.append("time")
    if abs(course.age - 1) > MOST:
        found.append("age")
    # the first one's are for the measuring itself
    if course.memory[-1] - course.memory[1] > MOST_MB:
        found.append("memory")
    if abs(course.counts[-1] - course.counts[1]) > MOST_ALLOCATIONS:
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
        "| | dead inputs | first tenth | last | least .. largest | change | old by young | RSS, MB "
        "| allocations a tick | calls cut | |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    faults = 0
    for case in (replace(case, n_lanes=given.lanes) for case in CASES if given.only in str(case)):
        for dead in (0, INPUTS // 2):
            course = measure(case, dead, given.events)
            found, ratios = faults_of(course), course.ratios
            faults += len(found)
            print(
                f"| {case} | {dead} of {INPUTS} | {ratios[0]:.3f} | {ratios[-1]:.3f} "
                f"| {min(ratios):.3f} .. {max(ratios):.3f} | {ratios[-1] / ratios[0] - 1:+.1%} "
                f"| {course.age - 1:+.1%} | {course.memory[0]:.1f}, {course.memory[-1]:.1f} "
                f"| {course.counts[1]:.2f}, {course.counts[-1]:.2f} "
                f"| {course.cut[0]:.0%}, {course.cut[-1]:.0%} "
                f"| {'FAULT: ' if found else ''}{', '.join(found)} |",
                flush=True,
            )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
