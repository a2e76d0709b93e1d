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

from stream_rnn.bench.cases import Case, Rule
from stream_rnn.bench.clock import medians_us
from stream_rnn.bench.rows import run_all
from stream_rnn.credit import Ok, Tbptt
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.engine.frames import numerics
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense

RULES: dict[str, Rule] = {
    "ok(3)": lambda cell, n, generator: Ok(cell, n, generator, rank=3),
    "tbptt(32)": lambda cell, n, generator: Tbptt(cell, n, window=32),
}
CASES = (Case("tanh", "ok(3)", 32), Case("lstm", "ok(3)", 32), Case("lstm", "tbptt(32)", 32))
OFTEN = 4096  # ticks from one comparison to the next, and of a block
SECONDS = 60.0


def watched(case: Case, probe: Fidelity | None) -> Learner:
    """The learner of a case, watched by the probe if there is one."""
    learner = case.learner(RULES[case.rule])
    assert isinstance(learner.recurrence, Dense)
    learner.recurrence.fidelity = probe
    return learner


def period(case: Case, probe: Fidelity | None) -> Callable[[], int]:
    """Takes a block, as many ticks a call as can be."""
    learner, block = watched(case, probe), case.block(OFTEN)
    return lambda: run_all(learner, block)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    window, every = Fidelity().window, Fidelity().every
    write = sys.stdout.write
    write(f"{loading.describe()}; window {window}, by default every {every:,} ticks\n\n")
    write(f"| cell | rule | without | every {OFTEN:,} ticks | ratio | a comparison | ")
    write("by default | ratio |\n|---|---|---|---|---|---|---|---|\n")
    for case in CASES:
        probes = {"without": None, "often": Fidelity(window, OFTEN)}
        runs = {name: (OFTEN, period(case, probe)) for name, probe in probes.items()}
        with numerics():
            us = medians_us(runs, SECONDS / len(CASES))
        one = (us["often"] - us["without"]) * OFTEN
        default = us["without"] + one / every
        write(f"| {case.cell} {case.n_units} | {case.rule} | {us['without']:.2f} us ")
        write(f"| {us['often']:.2f} us | ")
        write(f"{us['often'] / us['without']:.2f} | {one / 1000:.0f} ms | {default:.2f} us | ")
        write(f"{default / us['without']:.3f} |\n")


if __name__ == "__main__":
    main()
