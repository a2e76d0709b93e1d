"""What the native library brings to a whole tick; one thread, float32, Adam, 8 inputs.

    python -m benchmarks.native_step [paths] [calls]

paths: in torch, with the native credit rule, fused; beside W_h @ A. calls: 1, 16 and 64 ticks a
call at N = 32, beside one small in-place operation of torch. (Without a name: both.) How far a tick
is from its floor, and what lanes bring, is in `stream-rnn bench`.

Everything in a row takes turns, because machines change speed, and shared ones change it all the
time: each figure is the least of the medians of several rounds. What to quote are ratios.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from stream_rnn.bench.cases import INPUTS, OWN, UNITS, Case
from stream_rnn.bench.clock import Runs, medians_us, small_operation
from stream_rnn.bench.rows import run_all
from stream_rnn.frame import Block
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.recurrence import Feedforward, Recurrence, Rtu, Stack
from stream_rnn.update import Adam

EXACT = 32  # units up to which exact RTRL is what `auto` chooses
SHOWN = ("kf", "ok(1)", "ok(3)", "ok(8)", "rtrl")
write = sys.stdout.write


def case_of(name: str, n_units: int) -> Case:
    """`name` is "cell rule", or element-wise units."""
    kind, _, rule = name.partition(" ")
    return Case(kind, rule or OWN, n_units)


def learner_of(name: str, n_units: int) -> Learner:
    """The same learner every time; " rls" at the end: with a read-out of least squares."""
    if name != "auto" and not name.endswith(" rls"):
        return case_of(name, n_units).learner()
    generator = torch.Generator().manual_seed(0)
    recurrence: Recurrence = UNITS["lru"](INPUTS, n_units, 1, generator)
    readout: type[Head] = LeastSquaresHead
    if name == "auto":  # what `auto` takes for many lanes
        below = Rtu(INPUTS, n_units, 1, generator, "linear")
        recurrence = Stack([below, Feedforward(2 * n_units, n_units, 1, generator)])
        readout = Head
    loss, width = SquaredError(), recurrence.width
    V_PF = initial_readout(width, INPUTS, loss, generator).float()
    return Learner(recurrence, readout(width, INPUTS, loss, V_PF), Adam(), Adam())


def block_of(n_ticks: int) -> Block:
    """Events of noise, all of them scored."""
    return Case("lru", OWN, 1).block(n_ticks)


def per_tick(learner: Learner, n_ticks: int) -> tuple[int, Callable[[], object]]:
    """Runs of so many ticks."""
    block = block_of(n_ticks)
    if n_ticks == 1:
        frame = block.frame(0)
        return 1, lambda: learner.step(frame)

    return n_ticks, lambda: run_all(learner, block)


def in_torch(learner: Learner, natively: bool) -> tuple[int, Callable[[], object]]:
    """The step as it is written, with the native credit rule or without."""
    frame = block_of(1).frame(0)

    def twin() -> None:
        with loading.switched_off():
            learner._step(frame)

    return 1, (lambda: learner._step(frame)) if natively else twin


def paths(units: list[int], seconds: float) -> None:
    """What each part of the way brings."""
    write(f"{'':12}{'N':>5}{'mm':>9}{'twin':>9}{'hybrid':>9}{'fused':>9}{'twin/f':>8}{'f/mm':>7}\n")
    for cell in ("tanh", "lstm"):
        for rule in SHOWN:
            for n_units in units if rule != "rtrl" else [n for n in units if n <= EXACT]:
                case = Case(cell, rule, n_units)
                product = case.product()
                assert product is not None
                runs: Runs = {
                    "mm": (1, product),
                    "twin": in_torch(case.learner(), natively=False),
                    "hybrid": in_torch(case.learner(), natively=True),
                    "fused": per_tick(case.learner(), 1),
                }
                t = medians_us(runs, seconds)
                row = "".join(f"{t[name]:9.1f}" for name in runs)
                ratios = f"{t['twin'] / t['fused']:8.1f}{t['fused'] / t['mm']:7.2f}"
                write(f"{cell + ' ' + rule:12}{n_units:>5}{row}{ratios}\n")


def calls(seconds: float) -> None:
    """What many ticks a call bring at N = 32, beside one small in-place operation of torch."""
    write(f"{'N = 32':12}{'small op':>10}{'1 a call':>10}{'16':>10}{'64':>10}{'64/op':>8}\n")
    rules = [rule for rule in SHOWN if rule != "ok(3)"]
    names = [f"{cell} {rule}" for cell in ("tanh", "gru", "lstm") for rule in rules]
    for name in [*UNITS, "auto", "lru rls", *names]:
        runs = {"small": small_operation()}
        for n in (1, 16, 64):
            runs[str(n)] = per_tick(learner_of(name, 32), n)
        t = medians_us(runs, seconds)
        row = "".join(f"{t[each]:10.2f}" for each in runs)
        write(f"{name:12}{row}{t['64'] / t['small']:8.1f}\n")


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=["paths", "calls"])
    parser.add_argument("--units", default="32,128,256", help="of paths")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    write(f"{loading.describe()}; us per tick\n")
    for table in arguments.tables:
        write(f"\n{table}\n")
        match table:
            case "paths":
                paths([int(n) for n in arguments.units.split(",")], arguments.seconds)
            case "calls":
                calls(arguments.seconds)
            case _:
                parser.error(f"unknown table {table!r} (known: paths, calls)")


if __name__ == "__main__":
    main()
