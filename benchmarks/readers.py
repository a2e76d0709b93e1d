"""Requests to the readers of a learning daemon: how long an answer takes, what asking costs.

    python -m benchmarks.readers [--rate 300 1000] [--events 30000] [--units 32] [--native off]
    python -m benchmarks.readers --over http --apart --cell rtu --events 400000

Daemons learn the same file: one that nobody asks, then one for each rate, asked over ZeroMQ (or
HTTP, on a few connections that stay open) all the while, at a steady pace, by this process, which
is neither the daemon's nor that of its readers (`--apart`). An answer's time counts from the moment
its request was due, so that a slow answer also delays those behind it. What was learned is compared
to the bit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import selectors
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
    events_per_s: float = math.nan  # while it learned
    step_us: float = math.nan  # mean, of the learner's step
    cpu_s: float = 0.0  # of the daemon and its readers, the start included
    answer_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    state: bytes = b""  # what was learned
    is_up: bool = False  # it learns, and answers
    first: tuple[float, float] | None = None  # moment and ticks at the first look

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
    apart: bool = False


def run(folder: Path, name: str, setting: Setting, rate: float) -> Run:
    """One daemon from the first event to the last; `rate` 0: nobody asks."""
    port, over = _free_port(), setting.over
    credit = "" if setting.cell in ("lru", "rtu", "elstm") else 'credit = { kind = "ok", rank = 3 }'
    text = CONFIG.format(
        folder=folder, name=name, port=port, units=setting.units, cell=setting.cell, credit=credit
    )
    address = f"tcp://127.0.0.1:{_free_port()}"
    asked_at = _free_port() if setting.apart else port
    if rate:
        text += "[readers]\n" + (f'address = "{address}"\n' if over == "zeromq" else "")
        if setting.apart:
            text += "process = true\n"
            text += f'http = "127.0.0.1:{asked_at}"\n' if over == "http" else ""
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
        watching = threading.Thread(target=_watch, args=(daemon, made, port))
        watching.start()
        try:
            while rate and not made.is_up and daemon.poll() is None:  # the pace begins then
                time.sleep(0.05)
            if rate and over == "http":
                _ask_http(daemon, made, folder / name / "token", rate, asked_at)
            elif rate:
                _ask_zeromq(daemon, made, address, rate)
            watching.join()
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


def _watch(daemon: subprocess.Popen[bytes], made: Run, port: int) -> None:
    """Read the metrics now and then, until the daemon is done.

    On a thread of its own: the learner's process takes its time for them.
    """
    while daemon.poll() is None:
        made.step_us = _step_us(port, made)
        if not made.is_up and not math.isnan(made.step_us):
            made.is_up = _is_ready(port)
        time.sleep(1.0 if made.is_up else 0.05)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:  # 503 among others
        return False


def _ask_zeromq(daemon: subprocess.Popen[bytes], made: Run, address: str, rate: float) -> None:
    """Ask at the given pace until the daemon is done."""
    asked: dict[bytes, float] = {}  # when each request on its way was due
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.connect(address)
        due, n = time.perf_counter(), 0
        while daemon.poll() is None:
            while time.perf_counter() >= due and len(asked) < 10_000:
                record = {"y": math.sin(n / 9), "x": n % 7, "id": "abcdefgh"[n % 8]}
                request = [b"%d" % n, b"", json.dumps({"record": record}).encode()]
                try:
                    dealer.send_multipart(request, zmq.NOBLOCK)
                except zmq.Again:  # it is gone, or reads no more: what is due stays due
                    break
                asked[b"%d" % n] = due
                due, n = due + 1 / rate, n + 1
            wait_ms = max(0.0, due - time.perf_counter()) * 1000
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


class _Asking:
    """One connection that stays open; at most one request is on its way."""

    def __init__(self, port: int, head: bytes) -> None:
        self._port, self._head = port, head
        self._socket: socket.socket | None = None
        self._came = b""
        self.due = math.nan  # when the request on its way was

    def send(self, body: bytes, due: float) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=20)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._head % len(body) + body)
        self._came, self.due = b"", due
        return self._socket

    def take(self) -> str | None:
        """The status, once the answer is complete; raises OSError if the connection is."""
        assert self._socket is not None
        came = self._socket.recv(65536)
        if not came:
            raise ConnectionAbortedError
        self._came += came
        head, end, body = self._came.partition(b"\r\n\r\n")
        if not end:
            return None
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        if len(body) < int(length[1]):
            return None
        if b"\r\nConnection: close" in head:
            self.close()
        return head[9:12].decode()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _ask_http(
    daemon: subprocess.Popen[bytes], made: Run, token: Path, rate: float, asked_at: int
) -> None:
    """The same over HTTP: whichever connection is free asks what is due next.

    One thread and few system calls: who asks takes as little as it can of the cores that are
    measured.
    """
    said = f"Authorization: Bearer {token.read_text().strip()}"
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{asked_at}\r\n{said}\r\n"
        "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    ).encode()
    free = [_Asking(asked_at, head) for _ in range(CONNECTIONS)]
    n = 0
    due = time.perf_counter()
    with selectors.SelectSelector() as selector:  # of all, it alone waits for microseconds
        while daemon.poll() is None:
            while time.perf_counter() >= due and free:
                asking = free.pop(0)  # in turn: one that nobody uses for long is closed
                record = {"y": math.sin(n / 9), "x": n % 7, "id": "abcdefgh"[n % 8]}
                try:
                    way = asking.send(json.dumps({"record": record}).encode(), due)
                except OSError:  # those at the end are the daemon leaving
                    asking.close()
                    free.append(asking)
                    break
                selector.register(way, selectors.EVENT_READ, asking)
                due, n = due + 1 / rate, n + 1
            wait_s = max(0.0, min(due - time.perf_counter(), 0.1)) if free else 0.1
            for key, _ in selector.select(wait_s):
                asking = key.data
                try:
                    status = asking.take()
                except OSError:
                    status = "broken off"
                    asking.close()
                if status is not None:
                    selector.unregister(key.fileobj)
                    free.append(asking)
                    made.statuses[status] += 1
                    if status == "200":
                        made.answer_ms.append((time.perf_counter() - asking.due) * 1000)


def _step_us(port: int, made: Run) -> float:
    """Mean time of a step so far; brings the rate of events up to date, too."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
    except OSError:  # not up yet, or done
        return made.step_us
    total, count = (
        float(re.search(rf"^stream_rnn_tick_seconds_{what} (\S+)$", text, re.M)[1])  # type: ignore[index]
        for what in ("sum", "count")
    )
    now = time.monotonic()
    if count and made.first is None:
        made.first = now, count
    elif made.first is not None and now > made.first[0] + 1:
        made.events_per_s = (count - made.first[1]) / (now - made.first[0])
    return total / count * 1e6 if count else made.step_us


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


def measure(events: int, setting: Setting, *rates: float) -> list[Run]:
    """The same events without readers, then asked at each rate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.jsonl", events)
        alone = run(folder, "alone", setting, 0)
        return [alone, *(run(folder, f"asked-{rate:g}", setting, rate) for rate in rates)]


def table(runs: list[Run], rates: list[float]) -> str:
    """What was measured, in Markdown."""
    alone, *asked = runs
    rows = {
        "": [f"asked {rate:g} a second" for rate in rates],
        "step, mean": [f"{each.step_us:.0f} us" for each in asked],
        "events a second": [f"{each.events_per_s:.0f}" for each in asked],
        "processor time": [f"{each.cpu_s:.1f} s" for each in asked],
        "whole run": [f"{each.seconds:.1f} s" for each in asked],
        "answers": [f"{sum(each.statuses.values())} {dict(each.statuses)}" for each in asked],
        "answer, p50": [f"{each.quantile(0.5):.2f} ms" for each in asked],
        "answer, p99": [
            f"{each.quantile(0.99):.2f} ms ({each.quantile(0.99) * 1000 / each.step_us:.1f} steps)"
            for each in asked
        ],
        "answers within 2 steps": [
            f"{sum(ms < 2e-3 * each.step_us for ms in each.answer_ms) / len(each.answer_ms):.1%}"
            for each in asked
        ],
        "state equal to the bit": [str(alone.state == each.state) for each in asked],
    }
    first = [
        "alone",
        f"{alone.step_us:.0f} us",
        f"{alone.events_per_s:.0f}",
        f"{alone.cpu_s:.1f} s",
        f"{alone.seconds:.1f} s",
    ]
    cells = [
        [name, first[i] if i < len(first) else "-", *row]
        for i, (name, row) in enumerate(rows.items())
    ]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, nargs="+", default=[1000.0])
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--native", choices=("auto", "off"), default="auto")
    parser.add_argument("--over", choices=("zeromq", "http"), default="zeromq")
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--apart", action="store_true", help="[readers] process = true")
    given = parser.parse_args()
    setting = Setting(given.cell, given.units, given.native, given.over, given.apart)
    print(table(measure(given.events, setting, *given.rate), given.rate))


if __name__ == "__main__":
    main()
