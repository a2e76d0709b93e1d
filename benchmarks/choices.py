"""What `kind = "auto"` rests on: a tick of exact RTRL, OK, TBPTT and of element-wise units.

    python -m benchmarks.choices

Whole ticks of the learner (predict, score, learn), pure PyTorch, float32, one thread, medians; the
candidates of a row take turns, so that a machine that changes speed changes all of them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from stream_rnn.assembly.choices import EXACT_LIMIT
from stream_rnn.assembly.network import exact_cost
from stream_rnn.cells import CELLS
from stream_rnn.credit import Ok, Rtrl, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense, Feedforward, Recurrence, Rtu, Stack
from stream_rnn.update import Adam

INPUTS = 8
Build = Callable[[], Learner]


def learner(recurrence: Recurrence) -> Learner:
    """The recurrence with a linear read-out and Adam."""
    loss, width = SquaredError(), recurrence.width
    V_PF = initial_readout(width, INPUTS, loss, torch.Generator().manual_seed(1)).float()
    return Learner(recurrence, Head(width, INPUTS, loss, V_PF), Adam(), Adam())


def dense(kind: str, rule: str, units: int, lanes: int) -> Learner:
    """A gated cell and its rule."""
    generator = torch.Generator().manual_seed(0)
    cell = CELLS[kind](INPUTS, units)
    match rule:
        case "rtrl":
            credit: Rtrl | Ok | Tbptt = Rtrl(cell, lanes)
        case "ok-3":
            credit = Ok(cell, lanes, generator, rank=3)
        case _:
            credit = Tbptt(cell, lanes, 32)
    return learner(Dense(cell, credit, cell.initial_weight(generator).float()))


def elementwise(units: int, lanes: int) -> Learner:
    """Linear trace units under a tanh layer."""
    generator = torch.Generator().manual_seed(0)
    below = Rtu(INPUTS, units, lanes, generator, "linear")
    return learner(Stack([below, Feedforward(below.width, units, lanes, generator)]))


def medians_us(candidates: list[Learner], lanes: int, ticks: int = 40) -> list[float]:
    """Microseconds a tick of each candidate."""
    everybody = torch.ones(lanes, dtype=torch.bool)
    generator = torch.Generator().manual_seed(2)
    taken: list[list[float]] = [[] for _ in candidates]
    for _ in range(ticks):
        x = torch.randn(lanes, INPUTS, generator=generator)
        frame = Frame(x, x[:, :1].tanh(), everybody, everybody)
        for candidate, times in zip(candidates, taken, strict=True):
            start = time.perf_counter()
            candidate.step(frame)
            times.append((time.perf_counter() - start) * 1e6)
    return [statistics.median(times[5:]) for times in taken]


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    write = sys.stdout.write
    write("| cell | N | lanes | exact RTRL | OK(3) per gate | TBPTT(32) | RTRL's multiply-adds |\n")
    write("|---|---|---|---|---|---|---|\n")
    for kind in ("gru", "lstm"):
        for units in (16, 32, 48, 64):
            for lanes in (1, 4):
                times = medians_us(
                    [dense(kind, r, units, lanes) for r in ("rtrl", "ok-3", "w-32")], lanes
                )
                cost = (exact_cost([{"kind": kind, "units": units}], INPUTS) or 0) * lanes
                side = "<=" if cost <= EXACT_LIMIT else ">"
                write(f"| {kind} | {units} | {lanes} | ")
                write(" | ".join(f"{us:,.0f} us" for us in times))
                write(f" | {cost / 1e6:.1f} M ({side} {EXACT_LIMIT / 1e6:.0f} M) |\n")
    write("\n| lanes | LSTM 32, OK(3) per gate | 32 linear trace units under tanh | ratio |\n")
    write("|---|---|---|---|\n")
    for lanes in (1, 4, 16, 64):
        gated, exact = medians_us([dense("lstm", "ok-3", 32, lanes), elementwise(32, lanes)], lanes)
        write(f"| {lanes} | {gated:,.0f} us | {exact:,.0f} us | {gated / exact:.1f} |\n")


if __name__ == "__main__":
    main()
