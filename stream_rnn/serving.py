"""The readers' process: `python -m stream_rnn.serving`, started and told by a daemon of ours.

It knows the model's shape and takes what was learned from shared memory; it has no part in
learning, and what a client makes of it cannot touch the learner's state.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import torch

from stream_rnn.app import task_of
from stream_rnn.assembly.replica import build_replica
from stream_rnn.config import ConfigError
from stream_rnn.http.bounded import Bounds
from stream_rnn.http.pages import predicting, probes
from stream_rnn.http.server import HttpServer
from stream_rnn.lanes import Lanes
from stream_rnn.readers import wire
from stream_rnn.readers.attached import Attached
from stream_rnn.readers.page import BEAT_S, SERVING, STATE
from stream_rnn.readers.publication import Publication
from stream_rnn.readers.region import Reader, Words
from stream_rnn.readers.replica import Replica
from stream_rnn.readers.zeromq import ReadersSocket
from stream_rnn.runtime.collector import settled
from stream_rnn.spi import SettingError

_log = logging.getLogger(__name__)

BOUNDS = Bounds(connections=64, kept=60)  # nobody else is served here
LEAVE_S = 2.5  # for the answers under way when the daemon is gone
SWITCH_S = 0.0005  # a request in a hurry must not wait 5 ms for one that computes
OOM_SCORE = 500  # of 1000; a readers' process is started anew, the learner's events are not


def main() -> int:
    """Serve until the standard input closes; the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the daemon, which ends us when it is done
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s readers: %(message)s", force=True
    )
    _go_before_the_learner()
    lines = _lines(sys.stdin.fileno())
    told = next(line for line in lines if line is not None)
    with ExitStack() as stack:
        words = Words(told["page"], is_ours=True)
        stack.callback(words.close)
        reasons: list[str] = []
        try:
            _open(stack, told, words.words, reasons)
        except (ConfigError, SettingError) as error:
            _log.error("%s", error)
            return 78
        stack.enter_context(settled())
        words.words[BEAT_S] = int(time.monotonic())
        words.words[STATE] = SERVING
        for line in lines:
            words.words[BEAT_S] = int(time.monotonic())
            if line is not None:
                reasons[:] = line
        # a client that does not let go must not keep the port from the daemon's next start
        threading.Thread(target=_leave_in_time, daemon=True).start()
    sys.stderr.flush()
    os._exit(0)  # nothing is left to be put in order, and torch takes its time


def attached(told: Mapping[str, Any], words: memoryview[int]) -> Attached:
    """Who answers, from the memory that `told` names; raises ConfigError."""
    model = told["model"]
    task = task_of(model)
    replicas = [
        Replica(build_replica(model["learner"], task)) for _ in range(told["max_concurrent"])
    ]
    table = model["lanes"]

    def lanes() -> Lanes:
        return Lanes(table["key"], table["capacity"], table.get("end"))

    def decode(body: bytearray) -> Publication:
        return wire.publication(body, task.reading(), lanes)

    return Attached(Reader(told["copies"]), words, decode, replicas, told["max_bytes"])


def _open(
    stack: ExitStack, told: Mapping[str, Any], words: memoryview[int], reasons: list[str]
) -> None:
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    answers = attached(told, words)
    http, zeromq = told["http"], told["zeromq"]
    if http is not None:
        server = HttpServer(
            http["address"],
            {**predicting(answers.answer), **probes(list, lambda: list(reasons))},
            token=http["token"],
            certificate=http["certificate"],
            key=http["key"],
            bounds=BOUNDS,
            listening=socket.socket(fileno=http["listening"]),
        )
        server.open()
        stack.callback(server.close)
    if zeromq is not None:
        asked = ReadersSocket(
            zeromq["address"],
            answers.answer,
            answers.turned_away,
            told["max_bytes"],
            insecure=True,  # the daemon has seen to it
            listening=zeromq["listening"],
        )
        asked.open()
        stack.callback(asked.close)


def _lines(pipe: int) -> Iterator[Any]:
    """What the daemon says, line by line; None after every second without a word."""
    waiting = b""
    while True:
        readable, _, _ = select.select([pipe], [], [], 1.0)
        if not readable:
            yield None
            continue
        came = os.read(pipe, 1 << 16)
        if not came:
            return
        *complete, waiting = (waiting + came).split(b"\n")
        for line in complete:
            yield json.loads(line)


def _go_before_the_learner() -> None:
    """Where memory is short.

    Not where cores are: one interpreter takes one at most, and a nicer one waits for everything
    else on the machine, too.
    """
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(str(OOM_SCORE))


def _leave_in_time() -> None:
    time.sleep(LEAVE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
