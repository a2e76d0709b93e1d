"""Is the result the same to the bit: again, in another process, and however many ticks a call?

    python -m benchmarks.identical [--ticks 1280]

A hash over every tensor of the state, every prediction and every loss after so many ticks, for each
number of ticks a call: 1, 16, 64, 640. Exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys

import torch

from stream_rnn.bench.cases import OWN, Case
from stream_rnn.native import loading

TICKS, CALLS = 1280, (1, 16, 64, 640)
RULES = ("kf", "ok(1)", "ok(3)", "tbptt(10)", "rtrl")
CASES = [Case(kind, OWN, 32, n_lanes) for kind in ("lru", "rtu", "elstm") for n_lanes in (1, 3)]
CASES += [Case(cell, rule, 16) for cell in ("tanh", "gru", "lstm", "rhn") for rule in RULES]
CASES += [Case("lstm", "ok(1)", 32, n_lanes=3)]


def digest(case: Case, ticks: int, ticks_a_call: int) -> str:
    """Of everything that came out and of everything that is kept."""
    learner, block = case.learner(), case.block(ticks)
    found = hashlib.sha256()
    for start in range(0, ticks, ticks_a_call):
        parts = (block.x_TBI, block.y_TBQ, block.live_TB, block.scored_TB)
        part = type(block)(*(each[start : start + ticks_a_call] for each in parts))
        taken = 0
        while taken < len(part):
            outcomes = learner.run(part, taken)
            for outcome in map(outcomes.outcome, range(len(outcomes))):
                found.update(outcome.prediction_BP.numpy().tobytes())
                found.update(outcome.loss_B.numpy().tobytes())
            taken += len(outcomes)
    for name, tensor in sorted(learner.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def digests(case: Case, ticks: int) -> list[str]:
    """For each number of ticks a call."""
    return [digest(case, ticks, ticks_a_call) for ticks_a_call in CALLS]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", action="store_true", help="only the hashes of one ticks-a-call")
    parser.add_argument("--ticks", type=int, default=TICKS)
    given = parser.parse_args()
    ticks: int = given.ticks
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if given.bare:
        print("\n".join(digest(case, ticks, CALLS[0]) for case in CASES))
        return
    command = [sys.executable, "-m", "benchmarks.identical", "--bare", "--ticks", str(ticks)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{loading.describe()}; {ticks} ticks; ticks a call: {', '.join(map(str, CALLS))}\n")
    different = 0
    for case, elsewhere in zip(CASES, run.stdout.split(), strict=True):
        found = [*digests(case, ticks), digest(case, ticks, CALLS[0]), elsewhere]
        different += len(set(found)) > 1
        words = "the same" if len(set(found)) == 1 else f"DIFFERENT: {' '.join(found)}"
        print(f"{case!s:24} {found[0]}  {words}: 4 ways to call, run again, another process")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
