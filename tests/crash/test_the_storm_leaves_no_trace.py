"""Three minutes of `make storm`: sources of all kinds are killed all along and end the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.storm.daemons import ROOT


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_minutes_of_kills_lose_nothing_and_leak_nothing(tmp_path: Path) -> None:
    seconds = os.environ.get("STORM_S", "180")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.storm", "--seconds", seconds],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stdout.write(done.stdout)  # shown with `pytest -rP`
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    rows = [line.split() for line in done.stdout.splitlines() if "identical" in line]
    assert len(rows) >= 3
    for row in rows:
        assert int(row[2]) + int(row[3]) > 3, f"hardly killed: {row}"
