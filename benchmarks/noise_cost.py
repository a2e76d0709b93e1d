"""What a tick of OK costs: multiply-adds by a closed form, microseconds of processor time.

Axes: C chunks, n = R+1 summands, Q = S*Z entries of A; otherwise as in stream_rnn.linearization.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.noise_measured import Truth, replicas
from stream_rnn.cells import Cell
from stream_rnn.credit import Credit

WARM_UP = 3
"""Ticks before the clock is read."""


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one tick of one lane, in matrix products (float32, but `small`: float64)."""

    push: int
    gram: int
    gradient: int
    small: int
    mix: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.push + self.gram + self.gradient + self.small + self.mix


def n_chunks(cell: Cell, chunks: str) -> int:
    """C."""
    return {"joint": 1, "gate": cell.gates, "row": cell.weight_shape[0]}[chunks]


def work_of_ok(cell: Cell, rank: int, chunks: str) -> Work:
    """Closed form of what `Ok.observe` multiplies: N columns of J_h for each column of A, etc."""
    (Z, M), S, N = cell.weight_shape, cell.n_state, cell.n_units
    C, n = n_chunks(cell, chunks), rank + 1
    Q = S * Z
    sweeps = 1 if n == 2 else 5 if n <= 6 else 8 if n <= 10 else 11
    even = n + n % 2
    # a Jacobi round: Gram sums (even^2 n), the rotation's matrix (even^3), the turn (even^2 2n)
    jacobi = sweeps * (even - 1) * (even * even * n + even**3 + even * even * 2 * n)
    rest = n * n * n + n * n + 2 * 2 * n * n * rank  # R_v R_b^T, tails, P L and Z L, T (P L)
    return Work(
        push=N * Q * rank,
        gram=n * n * (C * M + Q),
        gradient=n * (Q + Z * M),
        small=C * (jacobi + rest),
        mix=n * rank * (C * M + Q),
    )


def work_of_rtrl(cell: Cell) -> int:
    """Multiply-adds of the push of exact RTRL and of the read-out of its gradient."""
    Z, M = cell.weight_shape
    return cell.n_state * (cell.n_units + 1) * Z * M


def measured_us(rules: list[Credit], truth: Truth, rounds: int = 16) -> list[tuple[float, float]]:
    """For each rule (float32) the median time of `observe`, and of a bare push beside it.

    The bare push is `J_h A` with as many columns as the rule's A has (exact RTRL: its influence).
    All rules take their ticks in turn, because shared machines change speed, and it is the thread's
    processor time that counts, so that others on the machine disturb less. The number of operations
    does not depend on the data: few ticks warm up enough.
    """
    steps = [(t.lin, t.q_1S.float()) for t in truth.ticks[: rounds + WARM_UP]]
    pushes = [_bare_push(rule) for rule in rules]
    ticks_us: list[list[float]] = [[] for _ in rules]
    pushes_us: list[list[float]] = [[] for _ in rules]
    for i, (lin, q_1S) in enumerate(steps):
        for k, rule in enumerate(rules):
            B = rule.n_lanes
            fresh = replicas(lin, B, torch.float32)  # what it forms once a tick is formed again
            q_BS, live_B = q_1S.expand(B, -1), torch.ones(B, dtype=torch.bool)
            begin = time.thread_time()
            rule.observe(fresh, q_BS, live_B)
            middle = time.thread_time()
            pushes[k]()
            end = time.thread_time()
            if i >= WARM_UP:
                ticks_us[k].append((middle - begin) * 1e6)
                pushes_us[k].append((end - middle) * 1e6)
    pairs = zip(ticks_us, pushes_us, strict=True)
    return [(statistics.median(ticks), statistics.median(bare)) for ticks, bare in pairs]


def _bare_push(rule: Credit) -> Callable[[], object]:
    B, N, S = rule.n_lanes, rule.cell.n_units, rule.cell.n_state
    held = [t.numel() // (B * S) for name, t in rule.lane_state.items() if name[0] in "AG"]
    J_BSN, A_BNR = torch.randn(B, S, N), torch.randn(B, N, held[0])
    out_BSR = torch.empty(B, S, held[0])
    return lambda: torch.bmm(J_BSN, A_BNR, out=out_BSR)
