"""What the live fidelity costs: ticks of a learner without it and with it.

    python -m benchmarks.fidelity

Whole ticks (predict, score, learn), many a call, float32, one lane, one thread, in processor time;
the candidates take turns. Compared is often, for one comparison among hundreds of thousands of
ticks drowns in the machine's noise; what it costs is then laid on the ticks of the default period.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from benchmarks.choices import INPUTS, dense
from stream_rnn.bench.clock import medians_us
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.engine.frames import numerics
from stream_rnn.frame import Block
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense

CASES = (("tanh", "ok-3"), ("lstm", "ok-3"), ("lstm", "w-32"))
UNITS = 32
OFTEN = 4096  # ticks from one comparison to the next, and of a block
SECONDS = 60.0


def learner(kind: str, rule: str, probe: Fidelity | None) -> Learner:
    """The learner of a case; with a probe it is watched."""
    built = dense(kind, rule, UNITS, 1)
    assert isinstance(built.recurrence, Dense)
    built.recurrence.fidelity = probe
    return built


def period(learner: Learner) -> Callable[[], None]:
    """Takes a block, as many ticks a call as can be."""
    generator = torch.Generator().manual_seed(2)
    x_TBI = torch.randn(OFTEN, 1, INPUTS, generator=generator)
    everybody = torch.ones(OFTEN, 1, dtype=torch.bool)
    block = Block(x_TBI, x_TBI[..., :1].tanh(), everybody, everybody)

    def take() -> None:
        start = 0
        while start < OFTEN:
            start += len(learner.run(block, start))

    return take


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    window, every = Fidelity().window, Fidelity().every
    write = sys.stdout.write
    write(f"{loading.describe()}; window {window}, by default every {every:,} ticks\n\n")
    write(f"| cell | rule | without | every {OFTEN:,} ticks | ratio | a comparison | ")
    write("by default | ratio |\n|---|---|---|---|---|---|---|---|\n")
    for kind, rule in CASES:
        probes = {"without": None, "often": Fidelity(window, OFTEN)}
        runs = {name: (OFTEN, period(learner(kind, rule, each))) for name, each in probes.items()}
        with numerics():
            us = medians_us(runs, SECONDS / len(CASES))
        one = (us["often"] - us["without"]) * OFTEN
        default = us["without"] + one / every
        write(f"| {kind} {UNITS} | {rule} | {us['without']:.2f} us | {us['often']:.2f} us | ")
        write(f"{us['often'] / us['without']:.2f} | {one / 1000:.0f} ms | {default:.2f} us | ")
        write(f"{default / us['without']:.3f} |\n")


if __name__ == "__main__":
    main()
