"""Noise per cost of OK over (rank, chunks) for each cell and size, and what is best.

Axes as in stream_rnn.linearization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from benchmarks.noise_cost import measured_us, work_of_ok, work_of_rtrl
from benchmarks.noise_measured import Noise, exact, noise
from benchmarks.noise_table import CHUNKS
from stream_rnn.credit import Kf, Ok, Rtrl

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)
DEAR = (7, 9)
"""Ranks left out with row chunks: their small matrices take minutes and their neighbors show it."""
SIZES = (16, 32, 64)
TICKS = 100
COUNTED_FROM = 30


@dataclass(frozen=True)
class Point:
    """One setting on one net: its noise and its cost."""

    rank: int
    chunks: str
    noise: Noise
    multiply_adds: int
    push_multiply_adds: int
    tick_us: float
    push_us: float

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
    """All settings on one net, with exact RTRL (no noise) and KF beside them."""

    kind: str
    n_units: int
    points: list[Point]
    rtrl_us: float
    rtrl_multiply_adds: int
    kf: Noise
    kf_us: float


def panel(kind: str, n_units: int, rho: float, ranks: Iterable[int] = RANKS) -> Panel:
    """Measure one net: noise in float32, as the daemon runs; one lane for the clock.

    Row chunks get fewer replicas, since the chunks of one replica have signs of their own.
    """
    truth = exact(kind, n_units, rho, TICKS, n_inputs=8, sampled_every=7, counted_from=COUNTED_FROM)
    cell = truth.cell
    settings = [
        (rank, chunks)
        for chunks in CHUNKS
        for rank in ranks
        if not (chunks == "gate" and cell.gates == 1)  # the same as joint
        and not (chunks == "row" and rank in DEAR)
    ]

    def signs() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    clocked = [Ok(cell, 1, signs(), rank, chunks) for rank, chunks in settings]
    times = measured_us([*clocked, Kf(cell, 1, signs()), Rtrl(cell, 1)], truth)
    points = []
    for (rank, chunks), (tick_us, push_us) in zip(settings, times[:-2], strict=True):
        lanes = (4 if rank <= 4 else 1) if chunks == "row" else 8
        lanes *= max(1, 32 // n_units)
        of_rank = noise(Ok(cell, lanes, signs(), rank, chunks), truth, torch.float32)
        work = work_of_ok(cell, rank, chunks)
        points.append(Point(rank, chunks, of_rank, work.total, work.push, tick_us, push_us))
    kf = noise(Kf(cell, 16, signs()), truth, torch.float32)
    return Panel(kind, n_units, points, times[-1][0], work_of_rtrl(cell), kf, times[-2][0])


def by_lanes(
    kind: str, n_units: int, lanes: Iterable[int], rho: float = 0.95
) -> list[tuple[float, float]]:
    """Microseconds per tick of exact RTRL and of OK of rank 3 per gate, by number of lanes."""
    truth = exact(kind, n_units, rho, 20, n_inputs=8, sampled_every=20, counted_from=0)
    times = []
    for n_lanes in lanes:
        ours = Ok(truth.cell, n_lanes, torch.Generator().manual_seed(1), 3, "gate")
        (exact_us, _), (ok_us, _) = measured_us([Rtrl(truth.cell, n_lanes), ours], truth)
        times.append((exact_us, ok_us))
    return times


def front(points: list[Point], cost: Callable[[Point], float]) -> list[Point]:
    """Those that no other point beats in noise at the same cost or less, cheapest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (cost(p), p.gradient)):
        if not best or point.gradient < best[-1].gradient:
            best.append(point)
    return best


def within(points: list[Point], cost: Callable[[Point], float], budget: float) -> Point | None:
    """The least noise that the budget buys."""
    paid = [point for point in points if cost(point) <= budget]
    return min(paid, key=lambda p: p.gradient, default=None)


def least_work(points: list[Point], cost: Callable[[Point], float]) -> Point:
    """The least cost per unit of progress, `cost * (1 + noise)`.

    A step along an unbiased gradient g^ gains at most |g|^4 / E|g^|^2 = |g|^2 / (1 + noise) times a
    constant, at the step size that is best for it.
    """
    return min(points, key=lambda p: cost(p) * (1 + p.gradient))
