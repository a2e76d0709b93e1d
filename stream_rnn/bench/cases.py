"""What is measured: a learner for each cell, rule, size and number of lanes, and what it must do.

Axes: B lanes, I inputs, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1, Q parameters of
an element-wise unit, R columns of the influence for each row of W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Kf, Ok, Rtrl, Tbptt
from stream_rnn.frame import Block
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense, Elstm, Lru, Recurrence, Rtu
from stream_rnn.update import Adam

INPUTS = 8
EXACT_UNITS = 32  # exact RTRL keeps S*Z*M numbers: it is for small networks
NUMBER = 4  # bytes
Rule = Callable[[Cell, int, torch.Generator], Credit]


def _ok(rank: int) -> Rule:
    return lambda cell, n, generator: Ok(cell, n, generator, rank=rank)


def _tbptt(window: int) -> Rule:
    return lambda cell, n, generator: Tbptt(cell, n, window=window)


RULES: dict[str, Rule] = {
    "kf": Kf,
    "ok(1)": _ok(1),
    "ok(3)": _ok(3),
    "ok(8)": _ok(8),
    "tbptt(10)": _tbptt(10),
    "rtrl": lambda cell, n, generator: Rtrl(cell, n),
}
UNITS: dict[str, Callable[[int, int, int, torch.Generator], Recurrence]] = {
    "lru": Lru,
    "rtu": Rtu,
    "elstm": Elstm,
}
OWN = "exact"  # what teaches element-wise units: their own traces


@dataclass(frozen=True)
class Case:
    """One row: a cell of `CELLS` and a rule of `RULES`, or one of `UNITS` and `OWN`."""

    cell: str
    rule: str
    n_units: int
    n_lanes: int = 1

    def __str__(self) -> str:
        return f"{self.cell} {self.rule} N={self.n_units} B={self.n_lanes}"

    def learner(self, rule: Rule | None = None) -> Learner:
        """The same learner every time; with another rule if that is given."""
        generator = torch.Generator().manual_seed(0)
        N, B = self.n_units, self.n_lanes
        if self.rule == OWN:
            recurrence = UNITS[self.cell](INPUTS, N, B, generator)
        else:
            cell = CELLS[self.cell](INPUTS, N)
            credit = (rule or RULES[self.rule])(cell, B, generator)
            recurrence = Dense(cell, credit, cell.initial_weight(generator).float())
        loss, width = SquaredError(), recurrence.width
        V_PF = initial_readout(width, INPUTS, loss, generator).float()
        return Learner(recurrence, Head(width, INPUTS, loss, V_PF), Adam(), Adam())

    def block(self, n_ticks: int) -> Block:
        """Events of noise, all of them scored."""
        generator = torch.Generator().manual_seed(1)
        x_TBI = torch.randn(n_ticks, self.n_lanes, INPUTS, generator=generator)
        y_TBQ = torch.randn(n_ticks, self.n_lanes, 1, generator=generator)
        yes_TB = torch.ones(n_ticks, self.n_lanes, dtype=torch.bool)
        return Block(x_TBI, y_TBQ, yes_TB, yes_TB)

    def product(self) -> Callable[[], object] | None:
        """`torch.mm(W_h, A_h)`, A_h what the rule keeps of h; None: it keeps no influence."""
        columns = self._columns()
        if not columns:
            return None
        Z = self._cell().gates * self.n_units
        W_h, A_h = torch.randn(Z, self.n_units), torch.randn(self.n_units, Z * columns)
        out = W_h @ A_h
        lanes = range(self.n_lanes)

        def run(W_h: Tensor = W_h, A_h: Tensor = A_h, out: Tensor = out) -> None:
            for _ in lanes:
                torch.mm(W_h, A_h, out=out)

        return run

    def operations(self) -> int:
        """Floating-point operations that a tick's credit cannot avoid.

        Pushing an influence through ds/dh takes 2 S N R Z; a window pulls q through ds/dh of each
        of its T ticks, and adds T outer products: 2 T (S N + Z M). Element-wise: a complex
        multiply-add for each number kept.
        """
        B, N = self.n_lanes, self.n_units
        if self.rule == OWN:
            return B * 8 * self._kept()
        cell = self._cell()
        S, (Z, M) = cell.n_state, cell.weight_shape
        if self.rule.startswith("tbptt"):
            return B * 2 * _number(self.rule) * (S * N + Z * M)
        return B * 2 * S * N * self._columns() * Z

    def bytes(self) -> int:
        """Bytes that a tick cannot avoid to read and write again: the influence, W, Adam's two."""
        parameters = sum(p.numel() for p in self.learner().recurrence.parameters())
        return 2 * NUMBER * (self.n_lanes * self._kept() + 3 * parameters)

    def _cell(self) -> Cell:
        return CELLS[self.cell](INPUTS, self.n_units)

    def _columns(self) -> int:
        if self.rule == OWN or self.rule.startswith("tbptt"):
            return 0
        if self.rule == "rtrl":
            return self._cell().weight_shape[1]
        return _number(self.rule) if self.rule.startswith("ok") else 1

    def _kept(self) -> int:
        """Numbers of influence for each lane; of a window one tick's, which is written."""
        if self.rule == OWN:
            learner = self.learner()
            state = learner.recurrence.lane_state["influence_BKQN"]
            return state.numel() // self.n_lanes
        cell = self._cell()
        if self.rule.startswith("tbptt"):
            return cell.n_state * self.n_units
        return cell.n_state * cell.weight_shape[0] * self._columns()


def _number(rule: str) -> int:
    return int(rule[rule.index("(") + 1 : -1])


SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...], dict[int, int]]] = {
    # cells, rules, units, lanes and up to how many units
    "quick": (("tanh", "lstm"), ("kf", "ok(1)"), (32, 128), {1: 128}),
    "default": (
        ("tanh", "gru", "lstm"),
        ("kf", "ok(1)", "ok(8)", "tbptt(10)", "rtrl"),
        (32, 64, 128, 256),
        {1: 256, 8: 64},
    ),
    "full": (tuple(CELLS), tuple(RULES), (32, 64, 128, 256), {1: 256, 8: 256, 64: 64}),
}
CURVE_UNITS = 64
CURVE_RULES = ("ok(1)", "tbptt(10)")
CURVE_LANES = (2, 4, 16, 32)  # in the full set, between those above: what lanes bring, as a curve


def cases(size: str, only: tuple[str, ...] = ()) -> list[Case]:
    """Those of a set in `SETS` whose names hold every text of `only`."""
    cells, rules, units, lanes = SETS[size]
    found = []
    for n_lanes, most in lanes.items():
        for n_units in (n for n in units if n <= most):
            found += [Case(kind, OWN, n_units, n_lanes) for kind in UNITS]
            for cell in cells:
                allowed = (rule for rule in rules if rule != "rtrl" or n_units <= EXACT_UNITS)
                found += [Case(cell, rule, n_units, n_lanes) for rule in allowed]
    for n_lanes in CURVE_LANES if size == "full" else ():
        found += [Case(kind, OWN, CURVE_UNITS, n_lanes) for kind in UNITS]
        found += [Case(cell, rule, CURVE_UNITS, n_lanes) for cell in cells for rule in CURVE_RULES]
    return [case for case in found if all(text in f"{case} " for text in only)]


def left_out(size: str) -> str:
    """What of the full set this one does not measure, in words."""
    have, full = set(cases(size)), cases("full")
    missing = [case for case in full if case not in have]
    if not missing:
        return f"nothing is left out but exact RTRL beyond {EXACT_UNITS} units"
    fewer = {
        "cells": {case.cell for case in full} - {case.cell for case in have},
        "rules": {case.rule for case in full} - {case.rule for case in have},
        "N =": {str(case.n_units) for case in full} - {str(case.n_units) for case in have},
        "B =": {str(case.n_lanes) for case in full} - {str(case.n_lanes) for case in have},
    }
    words = [
        f"{what} {', '.join(sorted(which, key=lambda each: (len(each), each)))}"
        for what, which in fewer.items()
        if which
    ]
    kinds = f" ({'; '.join(words)}, and large sizes with several lanes)" if words else ""
    return f"{len(missing)} of {len(full)} rows are left out{kinds}: --full measures them"
