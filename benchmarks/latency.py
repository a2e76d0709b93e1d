"""From the moment an event is due to the moment its prediction arrives, at a steady pace.

    python -m benchmarks.latency [--rate 1000] [--events 20000] [--cell rtu] [--units 32]

A real daemon with a ZeroMQ PULL source and a ZeroMQ PUSH sink; this process sends and receives, so
both hops of libzmq, the codec, the step, the metrics and the line are in the time. It spins between
two events: nothing of its own waits for a timer. The first tenth is not counted. Beside it: a
process that passes each message on, which is what the sockets and the machine take by themselves.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

CONFIG = """\
source = {{ kind = "zeromq", address = "ipc://{folder}/in", bind = true }}
task = {{ kind = "regression", target = "y" }}
features = {{ numeric = ["x"] }}
state = {{ dir = "{folder}/state", every_s = 3600.0 }}
sink = [{{ kind = "zeromq", address = "ipc://{folder}/out" }}]
[learner]
cell = {{ kind = "{cell}", units = {units} }}
optimizer = {{ kind = "adam" }}
"""
PASS_ON = """\
import sys, zmq
context = zmq.Context()
pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
pull.bind(sys.argv[1])
push.connect(sys.argv[2])
while True:
    push.send(pull.recv())
"""
PATIENCE_S = 60.0
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def measure(folder: Path, command: list[str], rate: float, n: int) -> list[float]:
    """Seconds for each event, in order, through what the command starts."""
    with (
        zmq.Context() as context,
        context.socket(zmq.PUSH) as push,
        context.socket(zmq.PULL) as pull,
    ):
        push.set(zmq.LINGER, 0)
        pull.bind(f"ipc://{folder}/out")
        push.connect(f"ipc://{folder}/in")
        with (folder / "log").open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            started = subprocess.Popen([sys.executable, *command], stderr=log, env=environment)
        try:
            _send(push, -1)
            if not pull.poll(PATIENCE_S * 1000):
                raise SystemExit(f"no prediction came:\n{(folder / 'log').read_text()}")
            pull.recv()
            return _pace(push, pull, rate, n)
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait()


def _send(push: zmq.Socket[bytes], i: int) -> None:
    push.send(json.dumps({"x": math.sin(i / 9), "y": math.cos(i / 9)}).encode())


def _pace(push: zmq.Socket[bytes], pull: zmq.Socket[bytes], rate: float, n: int) -> list[float]:
    took: list[float] = []
    begin, sent = time.perf_counter(), 0
    until = begin + n / rate + PATIENCE_S
    while len(took) < n:
        now = time.perf_counter()
        if sent < n and now >= begin + sent / rate:
            _send(push, sent)
            sent += 1
        try:
            pull.recv(zmq.NOBLOCK)
        except zmq.Again:
            if now > until:
                raise SystemExit(f"{len(took)} of {n} predictions came") from None
        else:  # they come in the order of the events
            took.append(time.perf_counter() - (begin + len(took) / rate))
    return took


def quantiles(took: list[float]) -> str:
    """Of all but the first tenth, for people."""
    counted = sorted(took[len(took) // 10 :])
    told = [
        f"{name} {counted[math.ceil(q * len(counted)) - 1] * 1e6:,.0f} us"
        for name, q in QUANTILES.items()
    ]
    return f"{', '.join(told)}; mean {statistics.fmean(counted) * 1e6:,.0f} us"


def main() -> None:
    """Print the quantiles of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=1000.0, help="events per second")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--cell", default="rtu")
    parser.add_argument("--units", type=int, default=32)
    given = parser.parse_args()
    print(f"{given.events} events, {given.rate:g} a second, the first tenth not counted")
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        folder, config = Path(name), Path(name, "config.toml")
        config.write_text(CONFIG.format(folder=folder, cell=given.cell, units=given.units))
        commands = {
            f"{given.cell} of {given.units} units": ["-m", "stream_rnn", "run", str(config)],
            "passed on": ["-c", PASS_ON, f"ipc://{folder}/in", f"ipc://{folder}/out"],
        }
        for what, command in commands.items():
            print(f"{what}: {quantiles(measure(folder, command, given.rate, given.events))}")


if __name__ == "__main__":
    main()
