"""Microseconds of a whole tick, beside what it cannot avoid; one thread, float32, Adam, 8 inputs.

    python -m benchmarks.native_step [paths] [calls] [floor] [lanes]

paths: in torch, with the native credit rule, fused; beside W_h @ A. calls: 1, 16 and 64 ticks a
call at N = 32. floor: beside 2 S N r Z operations at the best rate that any product of this run
reached. lanes: events/s at N = 64, several ticks a call. (Without a name: all four.)

Everything in a row takes turns, because machines change speed, and shared ones change it all the
time: each figure is the least of the medians of several rounds. What to quote are ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable

import torch

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Kf, Ok, Rtrl
from stream_rnn.frame import Block
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense, Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam

INPUTS = 8
ROUNDS = 5
EXACT = 32  # units up to which exact RTRL is what `auto` chooses
RULES: dict[str, Callable[[Cell, int, torch.Generator], Credit]] = {
    "kf": Kf,
    "ok(1)": lambda cell, n, g: Ok(cell, n, g, rank=1),
    "ok(3)": lambda cell, n, g: Ok(cell, n, g, rank=3),
    "ok(8)": lambda cell, n, g: Ok(cell, n, g, rank=8),
    "rtrl": lambda cell, n, g: Rtrl(cell, n),
}
UNITS: dict[str, Callable[[int, int, int, torch.Generator], Recurrence]] = {
    "lru": Lru,
    "rtu": Rtu,
    "elstm": Elstm,
    "auto": lambda i, n, b, g: Stack(
        [Rtu(i, n, b, g, "linear"), Feedforward(2 * n, n, b, g)]  # of many lanes
    ),
}
Runs = dict[str, tuple[int, Callable[[], object]]]
write = sys.stdout.write


def learner_of(name: str, n_units: int, n_lanes: int = 1, readout: type[Head] = Head) -> Learner:
    """The same learner every time; `name` is "cell rule", or element-wise units."""
    generator = torch.Generator().manual_seed(0)
    kind, _, rule = name.partition(" ")
    if rule:
        cell = CELLS[kind](INPUTS, n_units)
        W_ZM = cell.initial_weight(generator).float()
        recurrence: Recurrence = Dense(cell, RULES[rule](cell, n_lanes, generator), W_ZM)
    else:
        recurrence = UNITS[kind](INPUTS, n_units, n_lanes, generator)
    loss, width = SquaredError(), recurrence.width
    V_PF = initial_readout(width, INPUTS, loss, generator).float()
    return Learner(recurrence, readout(width, INPUTS, loss, V_PF), Adam(), Adam())


def block_of(n_ticks: int, n_lanes: int = 1) -> Block:
    """Events of noise, all of them scored."""
    generator = torch.Generator().manual_seed(1)
    x_TBI = torch.randn(n_ticks, n_lanes, INPUTS, generator=generator)
    y_TBQ = torch.randn(n_ticks, n_lanes, 1, generator=generator)
    yes_TB = torch.ones(n_ticks, n_lanes, dtype=torch.bool)
    return Block(x_TBI, y_TBQ, yes_TB, yes_TB)


def per_tick(learner: Learner, n_ticks: int, n_lanes: int = 1) -> tuple[int, Callable[[], object]]:
    """Runs of so many ticks."""
    block = block_of(n_ticks, n_lanes)
    if n_ticks == 1:
        frame = block.frame(0)
        return 1, lambda: learner.step(frame)

    def run() -> None:
        taken = 0
        while taken < n_ticks:
            taken += len(learner.run(block, taken))

    return n_ticks, run


def medians_us(runs: Runs, seconds: float) -> dict[str, float]:
    """Microseconds a tick: the least median of several rounds, in which all take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        times: dict[str, list[float]] = {name: [] for name in runs}
        deadline = time.perf_counter() + seconds / ROUNDS
        while time.perf_counter() < deadline or len(times[next(iter(runs))]) < 5:
            for name, (ticks, run) in runs.items():
                way = loading.switched_off() if name == "twin" else contextlib.nullcontext()
                with way, torch.no_grad():
                    start = time.perf_counter()
                    run()
                    times[name].append((time.perf_counter() - start) / ticks * 1e6)
        best = {name: min(best[name], statistics.median(each)) for name, each in times.items()}
    return best


def product(cell_name: str, rule: str, n_units: int) -> tuple[int, Callable[[], object]]:
    """W_h @ A: what a rule without ds/dh would have to multiply."""
    Z, M = CELLS[cell_name](INPUTS, n_units).weight_shape
    columns = M if rule == "rtrl" else int(rule[3:-1]) if rule.startswith("ok") else 1
    W_h, A = torch.randn(Z, n_units), torch.randn(n_units, Z * columns)
    out = W_h @ A
    return 1, lambda: torch.mm(W_h, A, out=out)


def paths(units: list[int], seconds: float) -> None:
    """What each part of the way brings."""
    write(f"{'':12}{'N':>5}{'mm':>9}{'twin':>9}{'hybrid':>9}{'fused':>9}{'twin/f':>8}{'f/mm':>7}\n")
    for cell in ("tanh", "lstm"):
        for rule in RULES:
            for n_units in units if rule != "rtrl" else [n for n in units if n <= EXACT]:
                twin, hybrid, fused = (learner_of(f"{cell} {rule}", n_units) for _ in range(3))
                frame = block_of(1).frame(0)
                runs: Runs = {
                    "mm": product(cell, rule, n_units),
                    "twin": (1, lambda t=twin, f=frame: t._step(f)),  # type: ignore[misc]
                    "hybrid": (1, lambda h=hybrid, f=frame: h._step(f)),  # type: ignore[misc]
                    "fused": per_tick(fused, 1),
                }
                t = medians_us(runs, seconds)
                row = "".join(f"{t[name]:9.1f}" for name in runs)
                ratios = f"{t['twin'] / t['fused']:8.1f}{t['fused'] / t['mm']:7.2f}"
                write(f"{cell + ' ' + rule:12}{n_units:>5}{row}{ratios}\n")


def calls(seconds: float) -> None:
    """What many ticks a call bring at N = 32, beside one small in-place operation of torch."""
    write(f"{'N = 32':12}{'small op':>10}{'1 a call':>10}{'16':>10}{'64':>10}{'64/op':>8}\n")
    names = [
        f"{cell} {rule}" for cell in ("tanh", "gru", "lstm") for rule in RULES if rule != "ok(3)"
    ]
    for name in [*UNITS, "lru rls", *names]:
        kind, readout = (name[:-4], LeastSquaresHead) if name.endswith("rls") else (name, Head)
        small = torch.randn(32)
        runs: Runs = {"small": (20, lambda a=small: [a.add_(a) for _ in range(20)])}  # type: ignore[misc]
        for n in (1, 16, 64):
            runs[str(n)] = per_tick(learner_of(kind, 32, readout=readout), n)
        t = medians_us(runs, seconds)
        row = "".join(f"{t[each]:10.2f}" for each in runs)
        write(f"{name:12}{row}{t['64'] / t['small']:8.1f}\n")


def best_rate(seconds: float) -> float:
    """Operations a microsecond: the best of MKL's and oneDNN's products of several sizes."""
    best = 0.0
    for n in (64, 128, 256, 512):
        a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        runs: Runs = {"mm": (1, lambda a=a, b=b, out=out: torch.mm(a, b, out=out))}  # type: ignore[misc]
        if torch.backends.mkldnn.is_available():
            runs["onednn"] = (
                1,
                lambda a=a, b=b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""),
            )  # type: ignore[misc]
        try:
            t = medians_us(runs, seconds)
        except (AttributeError, RuntimeError):  # a private name: it comes and goes
            t = medians_us({"mm": runs["mm"]}, seconds)
        best = max(best, *(2 * n**3 / each for each in t.values()))
    return best


def floor(units: list[int], seconds: float) -> None:
    """Beside the arithmetic that pushing the influence through ds/dh takes."""
    rate = best_rate(seconds)
    write(f"best product of this run: {rate / 1e3:.0f} GFLOP/s\n")
    write(f"{'':12}{'N':>5}{'floor':>10}{'tick':>10}{'tick/floor':>11}{'W_h @ A':>10}\n")
    for n_units in units:
        for cell in CELLS:
            for rule in ("kf", "ok(1)", "ok(8)"):
                made = CELLS[cell](INPUTS, n_units)
                rank = int(rule[3:-1]) if rule.startswith("ok") else 1
                S, Z = made.n_state, made.weight_shape[0]
                least = 2 * S * n_units * rank * Z / rate
                runs: Runs = {
                    "tick": per_tick(learner_of(f"{cell} {rule}", n_units), 4),
                    "mm": product(cell, rule, n_units),
                }
                t = medians_us(runs, seconds)
                row = f"{least:10.0f}{t['tick']:10.0f}{t['tick'] / least:11.2f}{t['mm']:10.0f}"
                write(f"{cell + ' ' + rule:12}{n_units:>5}{row}\n")


def lanes(seconds: float) -> None:
    """Events/s of 1, 8 and 64 lanes."""
    write(f"{'N = 64':12}{'B = 1':>12}{'8':>12}{'64':>12}{'64 / 1':>8}\n")
    for name in [*UNITS, "tanh kf", "lstm kf", "lstm ok(1)"]:
        runs: Runs = {}
        for n_lanes in (1, 8, 64):
            ticks = 4 if " " in name else 64 // n_lanes + 1  # short: most are undisturbed
            runs[str(n_lanes)] = per_tick(learner_of(name, 64, n_lanes), ticks, n_lanes)
        t = medians_us(runs, seconds)
        rates = [n_lanes / t[str(n_lanes)] * 1e6 for n_lanes in (1, 8, 64)]
        row = "".join(f"{rate:12,.0f}" for rate in rates)
        write(f"{name:12}{row}{rates[2] / rates[0]:8.2f}\n")


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", default=["paths", "calls", "floor", "lanes"])
    parser.add_argument("--units", default=None, help="of paths and floor, e.g. 32,128")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    arguments = parser.parse_args()
    given = [int(n) for n in arguments.units.split(",")] if arguments.units else None
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    write(f"{loading.describe()}; us per tick\n")
    for table in arguments.tables:
        write(f"\n{table}\n")
        match table:
            case "paths":
                paths(given or [32, 128, 256], arguments.seconds)
            case "calls":
                calls(arguments.seconds)
            case "floor":
                floor(given or [128, 256], arguments.seconds)
            case "lanes":
                lanes(arguments.seconds)
            case _:
                parser.error(f"unknown table {table!r} (known: paths, calls, floor, lanes)")


if __name__ == "__main__":
    main()
