"""A share of `make fuzz`: whatever comes from outside is refused with a word, or is sound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "share"),
    [
        ("payloads", 0.03),
        ("checkpoints", 0.002),
        ("configs", 0.02),
        ("influences", 0.008),
        ("rewinds", 0.004),
    ],
)
def test_no_mutated_input_leads_to_anything_unforeseen(
    target: str, share: float, tmp_path: Path
) -> None:
    # in a process of its own: it limits its memory
    command = [sys.executable, "-m", "benchmarks.fuzz", "--only", target, "--share", str(share)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )

    assert done.stdout.startswith(f"{target}: ")
    assert done.returncode == 0, done.stdout
