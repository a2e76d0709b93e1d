"""Several runs side by side, each a process of its own with one thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_all(commands: Sequence[Sequence[str]], n_jobs: int, poll_s: float = 0.2) -> list[int]:
    """Run `python -m benchmarks.reproduce ARGUMENTS` for each; the exit codes, in order.

    An interrupt, a SIGTERM or an exception ends the processes that still run; each saves itself
    first.
    """
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    environment = os.environ | one_thread
    codes: dict[int, int] = {}
    running: dict[int, subprocess.Popen[bytes]] = {}
    waiting = list(enumerate(commands))
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                index, arguments = waiting.pop(0)
                command = [sys.executable, "-m", "benchmarks.reproduce", *arguments]
                running[index] = subprocess.Popen(command, cwd=ROOT, env=environment)
            for index, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    codes[index] = code
                    del running[index]
            time.sleep(poll_s)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)
    return [codes[index] for index in range(len(commands))]
