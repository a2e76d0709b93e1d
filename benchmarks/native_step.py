"""Microseconds of a whole tick: in torch, with the native credit rule, fused; beside W_h @ A.

    python -m benchmarks.native_step [--units 32,128]

One lane, 8 inputs, Adam, one thread. All four are interleaved, because machines change speed; what
to quote are the ratios of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable

import torch

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Kf, Ok
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

INPUTS = 8
RULES: dict[str, tuple[int, Callable[[Cell, torch.Generator], Credit]]] = {
    "kf": (1, lambda cell, g: Kf(cell, 1, g)),
    "ok(1)": (1, lambda cell, g: Ok(cell, 1, g, rank=1)),
    "ok(3)": (3, lambda cell, g: Ok(cell, 1, g, rank=3)),
    "ok(8)": (8, lambda cell, g: Ok(cell, 1, g, rank=8)),
}


def learner_of(cell_name: str, rule: str, n_units: int) -> Learner:
    """The same learner every time."""
    generator = torch.Generator().manual_seed(0)
    cell, loss = CELLS[cell_name](INPUTS, n_units), SquaredError()
    W_ZM = cell.initial_weight(generator).float()
    V_PF = initial_readout(n_units, INPUTS, loss, generator).float()
    head = Head(n_units, INPUTS, loss, V_PF)
    return Learner(Dense(cell, RULES[rule][1](cell, generator), W_ZM), head, Adam(), Adam())


def measure(cell_name: str, rule: str, n_units: int, seconds: float) -> dict[str, float]:
    """Medians, in microseconds."""
    generator = torch.Generator().manual_seed(1)
    twin, hybrid, fused = (learner_of(cell_name, rule, n_units) for _ in range(3))
    yes = torch.ones(1, dtype=torch.bool)
    x = torch.randn(1, INPUTS, generator=generator)
    frame = Frame(x, torch.randn(1, 1, generator=generator), yes, yes)
    W_h = torch.randn(fused.recurrence.parameters()[0].shape[0], n_units)
    A = torch.randn(n_units, W_h.shape[0] * RULES[rule][0])
    out = W_h @ A
    runs: dict[str, Callable[[], object]] = {
        "mm": lambda: torch.mm(W_h, A, out=out),
        "twin": lambda: twin._step(frame),
        "hybrid": lambda: hybrid._step(frame),
        "fused": lambda: fused.step(frame),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times["mm"]) < 7:
        for name, run in runs.items():
            few = 1 if name in ("twin", "hybrid") else 5  # short, so that most are undisturbed
            way = loading.switched_off() if name == "twin" else contextlib.nullcontext()
            with way, torch.no_grad():
                start = time.perf_counter()
                for _ in range(few):
                    run()
                spent = time.perf_counter() - start
            times[name].append(spent / few * 1e6)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", default="32,128,256")
    parser.add_argument("--cells", default="tanh,lstm")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"{loading.describe()}; us per tick")
    print(f"{'':16}{'N':>5}{'mm':>9}{'twin':>9}{'hybrid':>9}{'fused':>9}{'twin/f':>8}{'f/mm':>7}")
    for cell in arguments.cells.split(","):
        for rule in arguments.rules.split(","):
            for n_units in map(int, arguments.units.split(",")):
                t = measure(cell, rule, n_units, arguments.seconds)
                row = "".join(f"{t[name]:9.1f}" for name in ("mm", "twin", "hybrid", "fused"))
                ratios = f"{t['twin'] / t['fused']:8.1f}{t['fused'] / t['mm']:7.2f}"
                print(f"{cell + ' ' + rule:16}{n_units:>5}{row}{ratios}", flush=True)


if __name__ == "__main__":
    main()
