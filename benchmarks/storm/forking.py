"""The parent of the daemons that are killed: it has imported everything once, and forks.

    python -m benchmarks.storm.forking

A daemon of its is the process that `python -m stream_rnn` would be, without the seconds that torch
takes to be imported: a storm spends its time on learning and dying. Speaks JSON lines: a request in
starts a daemon, a line out tells its process id, another one later how it ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental.symbolic_shapes  # torch does it at the first step; slow

from connectors import jsonl, stdio, zeromq_router
from stream_rnn import cli, commands, daemon
from stream_rnn.checkpoint import faults, tensor_file
from stream_rnn.scores import Drift

assert all((commands, daemon, jsonl, stdio, zeromq_router, tensor_file)), "for the children"


def main() -> None:
    """Entry point."""
    torch.set_num_threads(1)
    Drift()  # imports what is slow
    tensor_file.encode_tensors({"W": torch.zeros(1)}, 0)
    ended, waker = os.pipe()
    for descriptor in (ended, waker):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us, by end of input
    alive: set[int] = set()
    rest = b""
    while True:
        readable, _, _ = select.select([0, ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
            _reap(alive)
        if 0 not in readable:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                os.close(ended)
                os.close(waker)
                _become(json.loads(line))
            alive.add(pid)
            _tell(pid=pid)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _reap(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        alive.discard(pid)
        _tell(pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(**said: int) -> None:
    os.write(1, json.dumps(said).encode() + b"\n")


def _become(request: dict[str, Any]) -> None:
    """Be `stream-rnn ARGUMENTS`, started in a folder; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    source = os.open(request["stdin"] or os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((source, log, log)):
        os.dup2(descriptor, number)
    os.close(source)
    os.close(log)
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["stream-rnn", *request["arguments"]]
    faults.arm(request["fault"])
    code: object = 1
    try:
        cli.main()
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
