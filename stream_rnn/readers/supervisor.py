"""Keeps one process running beside the daemon: started, told, watched, started anew, ended.

What it needs to know comes on its standard input, a line of JSON for each thing; when that closes,
however the daemon ended, the process ends too.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stream_rnn.readers.page import BEAT_S, SERVING, STATE

_log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often it is looked after, and told
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # before it is started anew
GOOD_S = 60.0  # of life, after which a death is its first again
START_S = 120.0  # until it must answer; a cold disk and a busy machine included
SILENT_S = 30.0  # without a sign of life it hangs
LEAVE_S = 5.0  # to end by itself


class Supervisor:
    """Runs `python -m MODULE` between `open` and `close`, on a thread of its own.

    Args:
        module: reads `STARTING` from its standard input, then lists of reasons.
        told: that first line, as plain values: it may hold a secret, so it is in no argument.
        words: of the page that the process writes.
        descriptors: that it inherits.
        ready: reasons against the daemon's readiness, without ours; called on our thread.
        clock: seconds, monotonic.

    Attributes:
        restarts: how often it was started anew.
        pid: of the process that runs now.
    """

    def __init__(
        self,
        module: str,
        told: Mapping[str, Any],
        words: memoryview[int],
        descriptors: Sequence[int],
        ready: Callable[[], list[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # no folder of ours on its path but those on ours: a module there must not shadow another
        self._command = [sys.executable, "-P", "-m", module]
        self._first = json.dumps(told, default=str).encode() + b"\n"
        self._words = words
        self._descriptors = tuple(descriptors)
        self._ready = ready
        self._clock = clock
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._why = "is starting"
        self.restarts = 0
        self.pid: int | None = None

    def open(self) -> None:
        """Start it; does not wait until it answers."""
        self._thread = threading.Thread(target=self._run, name="readers' process", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, within `LEAVE_S` by force; a second call does nothing."""
        if self._thread is not None:
            self._closing.set()
            self._thread.join()
            self._thread = None

    def reasons(self) -> list[str]:
        """Why nobody is answered by it now; any thread."""
        if self._thread is None or (self.pid is not None and self._words[STATE] == SERVING):
            return []
        return [f"the readers' process {self._why}"]

    def status(self) -> dict[str, Any]:
        """For /status; any thread."""
        reasons = self.reasons()
        return {"pid": self.pid, "restarts": self.restarts, "serves": not reasons}

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closing.is_set():
            begun = self._clock()
            try:
                how = self._live()
            except OSError as error:  # no memory, no more processes: later there may be
                how = f"cannot be started ({error.strerror})"
            self.pid = None
            if self._closing.is_set():
                return
            wait_s = FIRST_WAIT_S if self._clock() - begun > GOOD_S else wait_s
            self._why = f"{how}; it is started anew"
            _log.warning("the readers' process %s; it is started anew in %g s", how, wait_s)
            self._closing.wait(wait_s)
            self.restarts += 1
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _live(self) -> str:
        """One life; how it ended."""
        self._words[STATE], self._words[BEAT_S] = 0, 0
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # the daemon's is not for what a plug-in prints
            pass_fds=self._descriptors,
            env=_environment(),
            bufsize=0,
        )
        self.pid = process.pid
        try:
            hangs = self._look_after(process)
        finally:
            is_leaving = self._closing.is_set() and self._words[STATE] == SERVING
            _end(process, LEAVE_S if is_leaving else 0.0)
        if hangs:
            return hangs
        code = process.returncode
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _look_after(self, process: subprocess.Popen[bytes]) -> str | None:
        """Until it ends or must: None, or why it must."""
        begun, said, is_up, rest = self._clock(), None, False, self._first
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        os.set_blocking(pipe, False)  # one that does not listen must not hold us back
        with suppress(BrokenPipeError):  # it died already, which is seen below
            while True:
                rest = rest[_written(pipe, rest) :]
                if process.poll() is not None or self._closing.wait(LOOK_S):
                    break
                now = self._clock()
                if not is_up and self._words[STATE] == SERVING:
                    is_up = True
                    _log.info("the readers' process (%d) answers", process.pid)
                if not is_up and now - begun > START_S:
                    return f"did not answer within {START_S:g} s"
                if is_up and now - self._words[BEAT_S] > SILENT_S:
                    return f"gave no sign of life for {SILENT_S:g} s"
                reasons = self._ready()
                if not rest and reasons != said:
                    said, rest = (
                        reasons,
                        json.dumps([each[:300] for each in reasons]).encode() + b"\n",
                    )
        if not self._closing.is_set():
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_S)
        return None


def _environment() -> dict[str, str]:
    """Ours, with our path of modules; it is no service of its own, and computes on the host."""
    kept = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    path = os.pathsep.join(each or os.getcwd() for each in sys.path)  # noqa: PTH109
    return kept | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _written(pipe: int, line: bytes) -> int:
    """How much of it went into the pipe; a full one is tried again later."""
    try:
        return os.write(pipe, line) if line else 0
    except BlockingIOError:
        return 0


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
