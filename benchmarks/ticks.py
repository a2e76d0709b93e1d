"""What a whole tick takes (predict, score, learn) under each of several rules on the same net.

Events are noise and every one is scored; many ticks a call of `Learner.run`, as the daemon hands
them over. A rule that no library computes runs in torch, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from stream_rnn.bench.cases import Case
from stream_rnn.bench.clock import medians_us
from stream_rnn.bench.rows import blocks, run_all, ticks_a_call
from stream_rnn.learner import Learner

Build = Callable[[], Learner]
WARM_UP = 32
"""Ticks before the clock is read: windows are full then, and sums of rank r, too."""


class Tick(NamedTuple):
    """Microseconds of processor time of one tick of all lanes, and what computed it."""

    us: float
    native: bool

    def __str__(self) -> str:
        return f"{self.us:,.3g}" if self.us < 100 else f"{self.us:,.0f}"


def taken(candidates: Mapping[str, Build], n_lanes: int, seconds: float) -> dict[str, Tick]:
    """A tick of each of them; all take turns, in about so many seconds."""
    case = Case("any", "any", 1, n_lanes)  # for its events
    runs, native = {}, {}
    for name, build in candidates.items():
        learner = build()
        run_all(learner, case.block(WARM_UP))
        n = ticks_a_call(learner, case)
        runs[name] = n, blocks(learner, case.block(n))
        native[name] = learner.execution()[1].endswith("whole ticks")
    return {name: Tick(us, native[name]) for name, us in medians_us(runs, seconds).items()}


def marked(ticks: Mapping[str, Tick], name: str) -> str:
    """A tick of `ticks` for a table: one in torch beside native ones is marked; "" is none."""
    if name not in ticks:
        return ""
    alone = not ticks[name].native and any(tick.native for tick in ticks.values())
    return f"{ticks[name]} (torch)" if alone else str(ticks[name])
