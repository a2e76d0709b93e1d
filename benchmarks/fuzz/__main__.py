"""`python -m benchmarks.fuzz`: hostile inputs, sources and influences; exit code 1 on a finding."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.fuzz import checkpoints, configs, influences, payloads, rewinds
from benchmarks.fuzz.bounds import Tally, limit_memory

FULL = {
    "payloads": 1_000_000,
    "checkpoints": 100_000,
    "configs": 10_000,
    "influences": 10_000,
    "rewinds": 10_000,
}


def main(share: float, seed: int, out: Path, only: str | None) -> list[Tally]:
    """Fuzz a share of the full run; returns what became of it."""
    torch.set_num_threads(1)
    tallies = []
    out = out.absolute()
    for name, full in FULL.items():
        if only not in (None, name):
            continue
        tally, cases = Tally(name, out), max(int(full * share), 1)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            if name == "payloads":
                payloads.fuzz(tally, cases, seed)
            elif name == "checkpoints":
                checkpoints.fuzz(tally, cases, seed, Path(folder))
            elif name == "influences":
                influences.fuzz(tally, cases, seed)
            elif name == "rewinds":
                rewinds.fuzz(tally, cases, seed, Path(folder))
            else:
                configs.fuzz(tally, cases, seed, Path(folder))
        tallies.append(tally)
        print("\n".join(tally.lines()), flush=True)
    return tallies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full run")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--only", choices=sorted(FULL))
    given = parser.parse_args()
    limit_memory(3 << 30)
    done = main(given.share, given.seed, given.out, given.only)
    sys.exit(1 if any(tally.failures for tally in done) else 0)
