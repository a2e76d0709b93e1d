"""Noise per cost of OK over (rank, chunks) for each cell and size, and what is best.

Axes as in stream_rnn.linearization.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.noise_measured import Noise, exact, noise
from benchmarks.noise_table import CHUNKS
from benchmarks.ticks import Tick, taken
from stream_rnn.bench.cases import INPUTS, Case, Rule
from stream_rnn.credit import Kf, Ok, Rtrl, Tbptt
from stream_rnn.credit.ok import Chunks

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 12)
SIZES = (16, 32, 64)
TICKS = 100
COUNTED_FROM = 30
BESIDE: dict[str, Rule] = {
    "exact": lambda cell, n, generator: Rtrl(cell, n),
    "KF": Kf,
    "TBPTT(32)": lambda cell, n, generator: Tbptt(cell, n, window=32),
}
"""What OK is compared with."""


@dataclass(frozen=True)
class Point:
    """One setting on one net: its noise and its cost."""

    rank: int
    chunks: str
    noise: Noise
    tick: Tick

    @property
    def gradient(self) -> float:
        """Mean relative squared error of the gradient."""
        return self.noise.mean("gradient")

    @property
    def spelled(self) -> str:
        """E.g. `3 gate`."""
        return f"{self.rank} {self.chunks}"


@dataclass(frozen=True)
class Panel:
    """All settings on one net, with what they are compared with.

    Attributes:
        kind: the cell.
        n_units: N.
        points: of OK.
        kf: KF's noise; exact RTRL has none, and a window's fault is no noise.
        beside: ticks of the rules of `BESIDE`.
    """

    kind: str
    n_units: int
    points: list[Point]
    kf: Noise
    beside: dict[str, Tick]

    @property
    def exact_us(self) -> float:
        """A tick of exact RTRL."""
        return self.beside["exact"].us

    def by_gate(self, rank: int) -> Point | None:
        """A rank in the default chunks; None: it was not measured."""
        named = {p.spelled: p for p in self.points}
        return named.get(f"{rank} gate", named.get(f"{rank} joint"))  # one gate: the same


def panel(
    kind: str, n_units: int, rho: float, seconds: float, ranks: Iterable[int] = RANKS
) -> Panel:
    """Measure one net: noise in float32, as the daemon runs; one lane for the clock.

    Row chunks get fewer replicas, since the chunks of one replica have signs of their own.
    """
    truth = exact(
        kind, n_units, rho, TICKS, n_inputs=INPUTS, sampled_every=7, counted_from=COUNTED_FROM
    )
    cell = truth.cell
    settings = {
        f"{rank} {chunks}": (rank, chunks)
        for chunks in CHUNKS
        for rank in ranks
        if not (chunks == "gate" and cell.gates == 1)  # the same as joint
    }

    def signs() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    rules = BESIDE | {name: _ok(*setting) for name, setting in settings.items()}
    case = Case(kind, "any", n_units)
    builds = {name: partial(case.learner, rule) for name, rule in rules.items()}
    ticks = taken(builds, 1, seconds)
    points = []
    for name, (rank, chunks) in settings.items():
        lanes = (4 if rank <= 4 else 1) if chunks == "row" else 8
        lanes *= max(1, 32 // n_units)
        of_rank = noise(Ok(cell, lanes, signs(), rank, chunks), truth, torch.float32)
        points.append(Point(rank, chunks, of_rank, ticks[name]))
    kf = noise(Kf(cell, 16, signs()), truth, torch.float32)
    return Panel(kind, n_units, points, kf, {name: ticks[name] for name in BESIDE})


def _ok(rank: int, chunks: Chunks) -> Rule:
    return lambda cell, n, generator: Ok(cell, n, generator, rank, chunks)


def front(points: list[Point]) -> list[Point]:
    """Those that no other point beats in noise at the same cost or less, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.tick.us, p.gradient)):
        if not best or point.gradient < best[-1].gradient:
            best.append(point)
    return best


def within(points: list[Point], budget_us: float) -> Point | None:
    """The least noise that the budget buys."""
    paid = [point for point in points if point.tick.us <= budget_us]
    return min(paid, key=lambda p: p.gradient, default=None)


def least_work(points: list[Point]) -> Point:
    """The least time per unit of progress, `time * (1 + noise)`.

    A step along an unbiased gradient g^ gains at most |g|^4 / E|g^|^2 = |g|^2 / (1 + noise) times a
    constant, at the step size that is best for it.
    """
    return min(points, key=lambda p: p.tick.us * (1 + p.gradient))
