"""What a daemon needs: memory, CPU per event and disk per snapshot, by units and lanes.

    python -m benchmarks.sizing                   # a table in Markdown; some minutes
    python -m benchmarks.sizing --units 32 --lanes 1 16

Real daemons, as a user would start them. CPU time per event is the difference of two runs, so that
the start does not count; memory is the most that the longer one ever held.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_rnn.native import loading

CONFIG = """
[source]
kind = "jsonl"
path = "events.jsonl"
[task]
kind = "forecast"
target = "value"
[lanes]
key = "key"
capacity = {lanes}
batching = "log"
[learner]
cell = {{ kind = "{cell}", units = {units} }}
{credit}
[state]
dir = "state-{events}"
every_events = 1_000_000
"""


@dataclass(frozen=True)
class Kind:
    """A row's model.

    Attributes:
        credit: its rule, where the cell needs one.
        ticks: units -> so many that they outweigh the noise of the start.
    """

    cell: str
    credit: str
    ticks: Callable[[int], int]

    @property
    def name(self) -> str:
        return f"{self.cell}, {self.credit}" if self.credit else self.cell


KINDS = (
    Kind("lstm", "ok", lambda units: 2048 if units <= 32 else 128),
    Kind("lru", "", lambda units: 20_000),
)


@dataclass(frozen=True)
class Need:
    """What one daemon took."""

    peak_mb: float
    cpu_us_per_event: float
    snapshot_mb: float


def measure(kind: Kind, units: int, lanes: int, events: int) -> Need:
    """Two daemons, one with twice the events of the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (json.dumps({"key": i % lanes, "value": i * 37 % 23}) for i in range(2 * events))
        (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
        short_s, _ = run(folder, kind, units, lanes, events)
        long_s, peak_mb = run(folder, kind, units, lanes, 2 * events)
        (newest,) = (folder / f"state-{2 * events}").glob("step-*")
        size = sum(file.stat().st_size for file in newest.iterdir())
    return Need(peak_mb, (long_s - short_s) / events * 1e6, size / 1e6)


def run(folder: Path, kind: Kind, units: int, lanes: int, events: int) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of one daemon, from start to end."""
    credit = f'credit = {{ kind = "{kind.credit}" }}' if kind.credit else ""
    config = folder / f"{events}.toml"
    config.write_text(
        CONFIG.format(units=units, lanes=lanes, cell=kind.cell, credit=credit, events=events)
    )
    command = [sys.executable, "-m", "stream_rnn", "run", config.name, "--max-events", str(events)]
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"the daemon ended with {process.returncode}: {said.read()!r}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--ticks", type=int, help="of the shorter run; else by the model")
    names = [kind.cell for kind in KINDS]
    parser.add_argument("--cells", nargs="+", default=names, choices=names)
    given = parser.parse_args(arguments)
    print(f"{loading.describe()}\n")
    print("| Model | Units | Lanes | Memory, MB | CPU time per event, ms | Snapshot, MB |")
    print("|---|---|---|---|---|---|")
    for kind in (kind for kind in KINDS if kind.cell in given.cells):
        for units in given.units:
            for lanes in given.lanes:
                ticks = given.ticks or kind.ticks(units)
                need = measure(kind, units, lanes, ticks * lanes)
                print(
                    f"| {kind.name} | {units} | {lanes} | {need.peak_mb:.0f} "
                    f"| {need.cpu_us_per_event / 1000:.3g} | {need.snapshot_mb:.2g} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
