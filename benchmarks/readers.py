"""Requests to the readers of a learning daemon: how long an answer takes, what asking costs.

    python -m benchmarks.readers [--rate 1000] [--events 30000] [--units 32] [--native off]
    python -m benchmarks.readers --over http --cell rtu --events 400000

Two daemons learn the same file, one of them asked over ZeroMQ (or HTTP, on a few connections that
stay open) all the while, at a steady pace. An
answer's time counts from the moment its request was due, so that a slow answer also delays those
behind it. Parameters are compared to the bit.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import zmq

CONFIG = """\
source = {{ kind = "jsonl", path = "{folder}/events.jsonl" }}
task = {{ kind = "forecast", target = "y", horizon = 2 }}
features = {{ numeric = ["x"], lags = {{ y = [1, 24] }} }}
lanes = {{ key = "id", capacity = 8 }}
state = {{ dir = "{folder}/{name}", every_s = 3600.0 }}
metrics = {{ address = "127.0.0.1:{port}" }}
sink = [{{ kind = "jsonl", path = "{folder}/{name}.jsonl" }}]
[learner]
cell = {{ kind = "{cell}", units = {units} }}
{credit}
optimizer = {{ kind = "adam" }}
"""


CONNECTIONS = 12  # of HTTP, kept open; the daemon keeps 16


@dataclass
class Run:
    """What came of one daemon."""

    seconds: float = 0.0
    step_us: float = math.nan  # mean, of the learner's step
    cpu_s: float = 0.0  # of the daemon, the start included
    answer_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    state: bytes = b""  # what was learned

    def quantile(self, share: float) -> float:
        """Of the answers' times, ms."""
        return statistics.quantiles(self.answer_ms, n=1000)[round(share * 1000) - 1]


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    cell: str
    units: int
    native: str
    over: str


def run(folder: Path, name: str, setting: Setting, rate: float) -> Run:
    """One daemon from the first event to the last; `rate` 0: nobody asks."""
    port, over = _free_port(), setting.over
    credit = "" if setting.cell in ("lru", "rtu", "elstm") else 'credit = { kind = "ok", rank = 3 }'
    text = CONFIG.format(
        folder=folder, name=name, port=port, units=setting.units, cell=setting.cell, credit=credit
    )
    address = f"tcp://127.0.0.1:{_free_port()}"
    if rate:
        text += "[readers]\n" + (f'address = "{address}"\n' if over == "zeromq" else "")
    config = folder / f"{name}.toml"
    config.write_text(text)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if setting.native == "off":
        environment["STREAM_RNN_NATIVE"] = "off"
    command = [sys.executable, "-m", "stream_rnn", "run", str(config)]
    made = Run()
    with (folder / f"{name}.log").open("w") as log:
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        daemon = subprocess.Popen(command, stderr=log, env=environment)
        try:
            if rate and over == "http":
                _watch_http(daemon, made, folder / name / "token", rate, port)
            else:
                _watch(daemon, made, address, rate, port)
        finally:
            daemon.kill()
            daemon.wait()
        made.seconds = time.monotonic() - start
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        made.cpu_s = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    if daemon.returncode:
        raise RuntimeError((folder / f"{name}.log").read_text())
    (newest,) = sorted((folder / name).glob("*/manifest.json"))[-1:]
    made.state = b"".join(p.read_bytes() for p in sorted(newest.parent.glob("*.safetensors")))
    return made


def _watch(
    daemon: subprocess.Popen[bytes], made: Run, address: str, rate: float, port: int
) -> None:
    """Ask at the given pace, and read the metrics now and then, until the daemon is done."""
    asked: dict[bytes, float] = {}  # when each request on its way was due
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.connect(address)
        due = metrics_at = time.perf_counter()
        n = 0
        is_up = False
        while daemon.poll() is None:
            now = time.perf_counter()
            if now >= metrics_at:
                metrics_at = now + 1.0
                made.step_us = _step_us(port, made.step_us)
                if not is_up and not math.isnan(made.step_us):
                    is_up, due = True, now  # the pace begins when it learns
            while is_up and rate and now >= due and len(asked) < 10_000:
                record = {"y": math.sin(n / 9), "x": n % 7, "id": "abcdefgh"[n % 8]}
                request = [b"%d" % n, b"", json.dumps({"record": record}).encode()]
                try:
                    dealer.send_multipart(request, zmq.NOBLOCK)
                except zmq.Again:  # it is gone, or reads no more: what is due stays due
                    break
                asked[b"%d" % n] = due
                due, n = due + 1 / rate, n + 1
            until = min(due if is_up and rate else metrics_at, metrics_at)
            wait_ms = max(0.0, until - time.perf_counter()) * 1000
            if dealer.poll(math.ceil(min(wait_ms, 100))):
                _take(dealer, asked, made)


def _take(dealer: zmq.Socket[bytes], asked: dict[bytes, float], made: Run) -> None:
    while True:
        try:
            number, _, status, _ = dealer.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        made.statuses[status.decode()] += 1
        due = asked.pop(number)
        if status == b"200":
            made.answer_ms.append((time.perf_counter() - due) * 1000)


def _watch_http(
    daemon: subprocess.Popen[bytes], made: Run, token: Path, rate: float, port: int
) -> None:
    """The same over HTTP: whichever connection is free asks what is due next."""
    while math.isnan(made.step_us) and daemon.poll() is None:  # the pace begins when it learns
        time.sleep(0.1)
        made.step_us = _step_us(port, made.step_us)
    begun, ticket, over = time.perf_counter(), itertools.count(), threading.Event()
    answers: list[tuple[str, float]] = []

    def ask() -> None:
        broken = 0  # since the last answer: those at the end are the daemon leaving
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {token.read_text().strip()}",
        }
        while not over.is_set():
            n = next(ticket)
            due = begun + n / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            record = {"y": math.sin(n / 9), "x": n % 7, "id": "abcdefgh"[n % 8]}
            try:
                asking.request("POST", "/predict", json.dumps({"record": record}), headers)
                answer = asking.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                broken += 1
                asking.close()
                time.sleep(0.05)
                continue
            answers.append((str(answer.status), (time.perf_counter() - due) * 1000))
            answers.extend([("broken off", 0.0)] * broken)
            broken = 0

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    while daemon.poll() is None:
        time.sleep(0.5)
        made.step_us = _step_us(port, made.step_us)
    over.set()
    for thread in threads:
        thread.join()
    made.statuses.update(status for status, _ in answers)
    made.answer_ms.extend(ms for status, ms in answers if status == "200")


def _step_us(port: int, before: float) -> float:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
    except OSError:  # not up yet, or done
        return before
    total, count = (
        float(re.search(rf"^stream_rnn_tick_seconds_{what} (\S+)$", text, re.M)[1])  # type: ignore[index]
        for what in ("sum", "count")
    )
    return total / count * 1e6 if count else before


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def write_events(path: Path, n: int) -> None:
    """The same events every time."""
    with path.open("w") as file:
        for i in range(n):
            event = {"y": math.sin(i / 20) + i % 5 / 9, "x": i % 7, "id": "abcdefgh"[i * i % 8]}
            file.write(json.dumps(event) + "\n")


def measure(events: int, setting: Setting, rate: float) -> tuple[Run, Run]:
    """The same events without readers, then with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.jsonl", events)
        return run(folder, "alone", setting, 0), run(folder, "asked", setting, rate)


def table(alone: Run, asked: Run) -> str:
    """What was measured, in Markdown."""
    p50, p99 = asked.quantile(0.5), asked.quantile(0.99)
    steps = p99 * 1000 / asked.step_us
    return "\n".join(
        [
            "| | alone | asked |",
            "|---|---|---|",
            f"| step, mean | {alone.step_us:.0f} us | {asked.step_us:.0f} us |",
            f"| daemon's processor time | {alone.cpu_s:.1f} s | {asked.cpu_s:.1f} s |",
            f"| whole run | {alone.seconds:.1f} s | {asked.seconds:.1f} s |",
            f"| answers | - | {sum(asked.statuses.values())} {dict(asked.statuses)} |",
            f"| answer, p50 | - | {p50:.2f} ms |",
            f"| answer, p99 | - | {p99:.2f} ms ({steps:.1f} steps) |",
            f"| state equal to the bit | - | {alone.state == asked.state} |",
        ]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--native", choices=("auto", "off"), default="auto")
    parser.add_argument("--over", choices=("zeromq", "http"), default="zeromq")
    parser.add_argument("--cell", default="lstm")
    given = parser.parse_args()
    setting = Setting(given.cell, given.units, given.native, given.over)
    print(table(*measure(given.events, setting, given.rate)))


if __name__ == "__main__":
    main()
