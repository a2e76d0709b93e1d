"""What exact credit of element-wise units costs, in forward passes of the same network.

    python -m benchmarks.elementwise_cost [--units 32,128,512] [--lanes 1,64] [--inputs 64]

A whole learning step (`Learner.step`: forward, credit, read-out, loss, two updates by Adam) over
the forward pass (`Learner.peek`: units and read-out, nothing moves), in torch and with the native
library; all four take turns. Small networks are mostly Python around a call, the same for both.
Multiply-adds are counted in tests/recurrence/test_elementwise_contract.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch

from stream_rnn.bench.cases import UNITS
from stream_rnn.bench.clock import Runs, medians_us
from stream_rnn.frame import Block
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Recurrence, Rtu
from stream_rnn.update import Adam

MADE: dict[str, Callable[[int, int, int, torch.Generator], Recurrence]] = {
    **UNITS,
    "rtu linear": partial(Rtu, activation="linear"),
}
write = sys.stdout.write


def learner_of(name: str, n_inputs: int, n_units: int, n_lanes: int) -> Learner:
    """The same learner every time."""
    generator = torch.Generator().manual_seed(0)
    units, loss = MADE[name](n_inputs, n_units, n_lanes, generator), SquaredError()
    V_PF = initial_readout(units.width, n_inputs, loss, generator).float()
    return Learner(units, Head(units.width, n_inputs, loss, V_PF), Adam(), Adam())


def runs_of(make: Callable[[], Learner], block: Block) -> Runs:
    """Learning step and forward pass, in torch and natively."""
    twin, fused, frame = make(), make(), block.frame(0)
    return {
        "torch step": (1, partial(twin._step, frame)),
        "torch forward": (1, partial(twin._peek, frame)),
        "native step": (1, partial(fused.step, frame)),
        "native forward": (1, partial(fused.peek, block)),
    }


def block_of(n_inputs: int, n_lanes: int) -> Block:
    """One tick of noise, scored in every lane."""
    generator = torch.Generator().manual_seed(1)
    x_TBI = torch.randn(1, n_lanes, n_inputs, generator=generator)
    y_TBQ = torch.randn(1, n_lanes, 1, generator=generator)
    yes_TB = torch.ones(1, n_lanes, dtype=torch.bool)
    return Block(x_TBI, y_TBQ, yes_TB, yes_TB)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--units", default="32,128,512")
    parser.add_argument("--lanes", default="1,64")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    write(f"{loading.describe()}; {given.inputs} inputs; us a tick, and step / forward\n")
    write(f"{'':12}{'N':>5}{'B':>4}" + "".join(f"{p:>22}{'':>8}" for p in ("torch", "native")))
    write("\n")
    for n_lanes in map(int, given.lanes.split(",")):
        block = block_of(given.inputs, n_lanes)
        for n_units in map(int, given.units.split(",")):
            for name in MADE:
                make = partial(learner_of, name, given.inputs, n_units, n_lanes)
                t = medians_us(runs_of(make, block), given.seconds)
                write(f"{name:12}{n_units:>5}{n_lanes:>4}")
                for path in ("torch", "native"):
                    step, forward = t[f"{path} step"], t[f"{path} forward"]
                    write(f"{step:12,.1f}{forward:10,.1f}{step / forward:8.2f}")
                write("\n")


if __name__ == "__main__":
    main()
