"""What `kind = "auto"` rests on: whole ticks of exact RTRL, OK, KF, windows, element-wise units.

    python -m benchmarks.choices [--seconds 1]

Microseconds of processor time of a tick of all lanes, float32, one thread, many ticks a call, on
the path that the daemon would take (the first line says which); all of a row take turns, so that a
machine that changes speed changes all of them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from functools import partial

import torch

from benchmarks.ticks import Build, marked, taken
from stream_rnn.assembly.choices import EXACT_LIMIT
from stream_rnn.assembly.network import push_cost
from stream_rnn.bench.cases import INPUTS, Case, Rule
from stream_rnn.credit import AdaptiveTbptt, Kf, Ok, Rtrl, Tbptt
from stream_rnn.credit.ok import CHUNKS, RANK
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Feedforward, Rtu, Stack
from stream_rnn.update import Adam

EXACT_UNITS = 64  # beyond, its tick takes tens of milliseconds
EXACT, OK = "exact RTRL", "OK"
RULES: dict[str, Rule] = {
    EXACT: lambda cell, n, generator: Rtrl(cell, n),
    OK: Ok,
    "KF": Kf,
    "TBPTT(32)": lambda cell, n, generator: Tbptt(cell, n, window=32),
    "adaptive, at 32": lambda cell, n, generator: AdaptiveTbptt(cell, n, window=32),
}
write = sys.stdout.write


def dense(kind: str, rule: str, units: int, lanes: int) -> Build:
    """A cell and its rule."""
    return partial(Case(kind, rule, units, lanes).learner, RULES[rule])


def elementwise(units: int, lanes: int) -> Learner:
    """Linear trace units under a tanh layer."""
    generator = torch.Generator().manual_seed(0)
    below = Rtu(INPUTS, units, lanes, generator, "linear")
    stack = Stack([below, Feedforward(below.width, units, lanes, generator)])
    loss = SquaredError()
    V_PF = initial_readout(units, INPUTS, loss, generator).float()
    return Learner(stack, Head(units, INPUTS, loss, V_PF), Adam(), Adam())


def row(kind: str, units: int, lanes: int, seconds: float) -> str:
    """One line of the first table."""
    rules = [rule for rule in RULES if rule != EXACT or units <= EXACT_UNITS]
    ticks = taken({rule: dense(kind, rule, units, lanes) for rule in rules}, lanes, seconds)
    dearer = f"{ticks[EXACT].us / ticks[OK].us:.1f}" if EXACT in ticks else ""
    cost = (push_cost([{"kind": kind, "units": units}], INPUTS) or 0) * lanes
    side = "<=" if cost <= EXACT_LIMIT else ">"
    shown = " | ".join(marked(ticks, rule) for rule in RULES)
    return (
        f"| {kind} | {units} | {lanes} | {shown} | {dearer} "
        f"| {cost / 1e6:.1f} M ({side} {EXACT_LIMIT / 1e6:.0f} M) |\n"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row, at least")
    parser.add_argument("--cells", nargs="+", default=["tanh", "gru", "lstm", "rhn"])
    parser.add_argument("--units", nargs="+", type=int, default=[16, 32, 48, 64, 128, 256])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    write(f"{loading.describe()}; OK of rank {RANK} per {CHUNKS}\n\n")
    write(f"| cell | N | lanes | {' | '.join(RULES)} | exact / OK | RTRL's multiply-adds |\n")
    write(f"{'|---' * (5 + len(RULES))}|\n")
    for kind, units in itertools.product(given.cells, given.units):
        for lanes in (1, 4) if units <= EXACT_UNITS else (1,):
            write(row(kind, units, lanes, given.seconds))
            sys.stdout.flush()
    write(
        "\n| lanes | LSTM 32, OK | 32 linear trace units under tanh | ratio |\n|---|---|---|---|\n"
    )
    for lanes in (1, 4, 16, 64):
        candidates: dict[str, Build] = {
            "gated": dense("lstm", OK, 32, lanes),
            "own": partial(elementwise, 32, lanes),
        }
        ticks = taken(candidates, lanes, given.seconds)
        ratio = ticks["gated"].us / ticks["own"].us
        write(f"| {lanes} | {marked(ticks, 'gated')} | {marked(ticks, 'own')} | {ratio:.1f} |\n")


if __name__ == "__main__":
    main()
