"""Several runs side by side, each a process of its own with one thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]


def run_all(
    commands: Sequence[Sequence[str]],
    n_jobs: int,
    hear: Callable[[str], None],
    poll_s: float = 0.2,
) -> list[int]:
    """Run `python -m benchmarks.reproduce ARGUMENTS` for each; the exit codes, in order.

    `hear` gets every line that one of them writes to stdout. An interrupt, a SIGTERM or an
    exception ends the processes that still run; each saves itself first.
    """
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    environment = os.environ | one_thread
    codes: dict[int, int] = {}
    running: dict[int, subprocess.Popen[str]] = {}
    readers: list[Thread] = []
    heard: SimpleQueue[str] = SimpleQueue()
    waiting = list(enumerate(commands))
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                index, arguments = waiting.pop(0)
                command = [sys.executable, "-m", "benchmarks.reproduce", *arguments]
                running[index] = process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
                )
                readers.append(Thread(target=_read, args=(process.stdout, heard.put), daemon=True))
                readers[-1].start()
            with suppress(Empty):
                hear(heard.get(timeout=poll_s))
            for index, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    codes[index] = code
                    del running[index]
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        for reader in readers:
            reader.join()
        signal.signal(signal.SIGTERM, before)
    while not heard.empty():
        hear(heard.get())
    return [codes[index] for index in range(len(commands))]


def _read(pipe: TextIO, put: Callable[[str], None]) -> None:
    """A thread of its own to each process: none can be held up by a full pipe, or by another."""
    with pipe:
        for line in pipe:
            put(line)
