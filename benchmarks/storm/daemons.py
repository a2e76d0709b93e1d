"""Real daemon processes: started, watched, killed, waited for."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).resolve().parents[2]


@dataclass(eq=False)
class Daemon:
    """One process of a `Nursery`."""

    nursery: Nursery
    pid: int
    folder: Path

    def signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self.nursery.code(self.pid, 0.0)

    def wait(self, timeout_s: float = 300.0) -> int:
        """Until it ends; its exit code. Raises TimeoutError with the end of its log."""
        code = self.nursery.code(self.pid, timeout_s)
        if code is None:
            raise TimeoutError(
                f"{self.folder} still runs after {timeout_s} s: {self.log()[-2000:]}"
            )
        return code

    def kill(self) -> int:
        """SIGKILL; its exit code, which is another one if it was faster."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def log(self) -> str:
        """What it and the daemons before it said."""
        return (self.folder / "log").read_text()

    def size(self) -> tuple[float, int]:
        """Resident memory in MB, and open files; zeros once it has ended."""
        try:
            process = psutil.Process(self.pid)
            return process.memory_info().rss / 1e6, process.num_fds()
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            return 0.0, 0


class Nursery:
    """Starts daemons in a tenth of a second each; see `forking`. Used by one thread.

    Args:
        environment: of all daemons, besides what this process has; by default they compute in
            torch.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.storm.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "STREAM_RNN_FAULT": ""}
            | ({"STREAM_RNN_NATIVE": "off"} if environment is None else environment),
        )
        self._said = b""
        self._codes: dict[int, int] = {}
        self._pids: list[int] = []  # started, not yet handed out
        self._daemons: list[Daemon] = []

    def start(
        self,
        folder: Path,
        fault: str = "",
        arguments: Sequence[str] = ("run", "config.toml"),
        stdin: Path | None = None,
    ) -> Daemon:
        """`stream-rnn ARGUMENTS` in `folder`, both outputs appended to `log` there.

        Args:
            folder: has the configuration.
            fault: as in STREAM_RNN_FAULT.
            arguments: of the command.
            stdin: a file or named pipe; by default nothing.
        """
        request = {
            "folder": str(folder),
            "fault": fault,
            "arguments": list(arguments),
            "stdin": None if stdin is None else str(stdin),
        }
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(request).encode() + b"\n")
        self._parent.stdin.flush()
        until = time.monotonic() + 300.0
        while not self._pids:
            if not self._listen(until):
                raise TimeoutError("the parent of the daemons does not answer")
        self._daemons = [daemon for daemon in self._daemons if daemon.poll() is None]
        self._daemons.append(Daemon(self, self._pids.pop(0), folder))
        return self._daemons[-1]

    def kill_all(self) -> None:
        """Those that still run."""
        for daemon in self._daemons:
            daemon.kill()

    def code(self, pid: int, timeout_s: float) -> int | None:
        """How a daemon ended; None if it did not within that time."""
        until = time.monotonic() + timeout_s
        while pid not in self._codes:
            if not self._listen(until):
                return None
        return self._codes[pid]

    def _listen(self, until: float) -> bool:
        """Take what the parent says; False if it says nothing until then."""
        assert self._parent.stdout is not None
        descriptor = self._parent.stdout.fileno()
        left_s = max(0.0, until - time.monotonic())
        if not select.select([descriptor], [], [], left_s)[0]:
            return False
        data = os.read(descriptor, 1 << 16)
        if not data:
            raise RuntimeError(f"the parent of the daemons ended with {self._parent.wait()}")
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "code" in said:
                self._codes[said["pid"]] = said["code"]
            else:
                self._pids.append(said["pid"])
        return True

    def close(self) -> None:
        """Kill what is left."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        try:
            self._parent.wait(120)
        finally:
            self._parent.kill()
            self._parent.wait()
            self._parent.stdout.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
