"""One row of the table: what a tick costs, what it could not avoid, and where the rest goes.

The definitions, the same everywhere. *Credit step*: Cell.step + Credit.observe + Credit.gradient
through the public interface (element-wise units: Recurrence.forward + learn). *Tick*: credit step +
head + update + conditional commit, by `Learner.step`, and of many ticks a call by `Learner.run`.
*Floor*: the larger of the operations of the push at the best rate that any product of this run
reached, and the bytes over the measured bandwidth.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import profiler

from stream_rnn.bench.cases import OWN, Case
from stream_rnn.bench.clock import medians_us
from stream_rnn.bench.machine import Machine
from stream_rnn.credit import Tbptt
from stream_rnn.frame import Block
from stream_rnn.learner import Learner, Teaches
from stream_rnn.recurrence import Dense

MANY = 64  # ticks a call at most ...
CALL_US = 1000.0  # ... or as many as take about this long: longer ones are interrupted
CALLS = 4  # timed together, if of several ticks: room for outcomes is made for so many at once
STEPS = 8  # ticks, credit steps or products timed together: a stream has them one after another
COUNTED = 4  # ticks whose allocations are counted


@dataclass(frozen=True)
class Row:
    """Microseconds, unless it says something else; of one tick of all lanes.

    Attributes:
        case: what was measured.
        product: `torch.mm(W_h, A_h)`, once for each lane; None for rules without an influence.
        credit_step: through the public interface.
        tick: one a call.
        many: of as many ticks a call as `ticks_a_call` says.
        ticks_a_call: with `many`.
        allocations: of tensors in one tick, one a call.
        floor: what no machine with these rates could avoid.
        bound: which of the two the floor is, "arithmetic" or "memory".
        forward: share of `many`: cell, head and loss.
        update: share of `many`: optimizers and commit.
    """

    case: Case
    product: float | None
    credit_step: float
    tick: float
    many: float
    ticks_a_call: int
    allocations: float
    floor: float
    bound: str
    forward: float
    update: float

    @property
    def event(self) -> float:
        """Microseconds per event, many ticks a call."""
        return self.many / self.case.n_lanes

    @property
    def over_floor(self) -> float:
        """The tick, many a call, in floors."""
        return self.many / self.floor

    @property
    def over_product(self) -> float | None:
        """The credit step in products `W_h A_h`."""
        return None if self.product is None else self.credit_step / self.product

    @property
    def profile(self) -> dict[str, float]:
        """Where a tick of one a call goes: floor, rest of the credit, forward, update, call."""
        credit = max(0.0, self.many - self.forward - self.update - self.floor)
        return {
            "floor": self.floor,
            "credit": credit,
            "forward": self.forward,
            "update": self.update,
            "call": max(0.0, self.tick - self.many),
        }


def measure(case: Case, machine: Machine, seconds: float) -> Row:
    """The row of a case, in about so many seconds, or as long as a few ticks take."""
    learner = case.learner()
    n = ticks_a_call(learner, case)
    calls = CALLS if n > 1 else 1
    block = case.block(n)
    frame = block.frame(0)
    single = case.learner()  # its own: outcomes of one tick and of many lie apart
    fresh = case.learner()  # the profiler complains of memory that is older and freed
    watcher = case.learner(lambda cell, n, generator: Tbptt(cell, n, window=1))
    steps = min(n, STEPS)
    runs = {
        "credit": _repeated(steps, credit_step(case.learner(), case)),
        "tick": _repeated(steps, lambda: single.step(frame)),
        "many": (n * calls, blocks(learner, block, calls)),
        "frozen": (n * calls, blocks(learner, block, calls, "nothing")),
        "forward": (n * calls, blocks(watcher, block, calls, "nothing")),
    }
    product = case.product()
    if product is not None:
        runs["product"] = _repeated(steps, product)
    took = medians_us(runs, seconds)
    arithmetic = case.operations() / machine.best_product
    n_bytes = case.bytes()
    memory = n_bytes / machine.bandwidth(n_bytes // 2)
    many, update = took["many"], max(0.0, took["many"] - took["frozen"])
    # element-wise units have no cheaper rule: what their traces cost cannot be taken apart
    forward = 0.0 if case.rule == OWN else min(took["forward"], many - update)
    return Row(
        case=case,
        product=took.get("product"),
        credit_step=took["credit"],
        tick=took["tick"],
        many=many,
        ticks_a_call=n,
        allocations=allocations(lambda: fresh.step(frame)),
        floor=max(arithmetic, memory),
        bound="arithmetic" if arithmetic >= memory else "memory",
        forward=forward,
        update=update,
    )


def credit_step(learner: Learner, case: Case) -> Callable[[], object]:
    """Cell.step + Credit.observe + Credit.gradient of one tick, with changing events."""
    recurrence = learner.recurrence
    block = case.block(16)
    live_B, at = block.live_TB[0], 0
    q_BS = torch.randn(case.n_lanes, recurrence.width)
    if isinstance(recurrence, Dense):
        cell, credit, W_ZM = recurrence.cell, recurrence.credit, recurrence.W_ZM
        s_BS = recurrence.hidden(False)[0]
        q_BS = torch.zeros_like(s_BS)
        q_BS[:, : cell.n_units] = 0.1

        def dense() -> object:
            nonlocal at, s_BS
            at = (at + 1) % 16
            s_BS, lin = cell.step(W_ZM, block.x_TBI[at], s_BS)
            credit.observe(lin, q_BS, live_B)
            return credit.gradient()

        return dense

    def own() -> object:
        nonlocal at
        at = (at + 1) % 16
        recurrence.forward(block.x_TBI[at], live_B)
        return recurrence.learn(q_BS, live_B)

    return own


def allocations(tick: Callable[[], object]) -> float:
    """Tensors' allocations in one tick, on average; the tick is called a few times."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler talks
    tick()
    with torch.no_grad(), profiler.profile(profile_memory=True) as profile:
        for _ in range(COUNTED):
            tick()
    events = profile.kineto_results.events()
    count: float = sum(e.name() == "[memory]" and e.nbytes() > 0 for e in events)
    return count / COUNTED


def run_all(learner: Learner, block: Block) -> int:
    """All ticks of a block; how many calls that took: credit that restarts ends one."""
    taken = calls = 0
    while taken < len(block):
        taken += len(learner.run(block, taken))
        calls += 1
    return calls


def _repeated(n: int, once: Callable[[], object]) -> tuple[int, Callable[[], object]]:
    return n, lambda: [once() for _ in range(n)]


def blocks(
    learner: Learner, block: Block, times: int = 1, teaches: Teaches = "all"
) -> Callable[[], object]:
    """Learns the block so many times."""

    def run() -> None:
        learner.teaches = teaches
        for _ in range(times):
            run_all(learner, block)
        learner.teaches = "all"

    return run


def ticks_a_call(learner: Learner, case: Case) -> int:
    """`MANY`, or as many as take about `CALL_US`."""
    few = case.block(4)
    took = medians_us({"few": (4, blocks(learner, few))}, 0.0, rounds=1)["few"]
    return max(1, min(MANY, int(CALL_US / took)))
