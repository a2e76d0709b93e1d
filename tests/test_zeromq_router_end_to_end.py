"""Daemon and producer killed at random moments: the model ends as if nothing had happened."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.checkpoint import snapshot

ROOT = Path(__file__).parents[1]
N_EVENTS = 4000
CONFIG = """
[source]
kind = "zeromq_router"
address = "ADDRESS"
credit = 200
[task]
kind = "forecast"
target = "y"
[features]
numeric = ["y"]
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "kf" }
optimizer = { kind = "adam", lr = 0.01 }
[state]
dir = "state"
every_events = 61
every_s = 0.5
[[sink]]
kind = "jsonl"
path = "predictions.jsonl"
"""
SPOOLED = """
import sys
from stream_rnn.producer import Producer
with Producer(sys.argv[1], "p", spool="spool", buffer_events=300) as producer:
    producer.connect()
    with open("events.jsonl", "rb") as file:
        for line in file.readlines()[producer.newest:]:
            producer.send(line.strip())
"""


class Run:
    """A daemon and its producer in a folder of their own."""

    def __init__(self, folder: Path, n_events: int) -> None:
        folder.mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self.folder = folder
        (folder / "config.toml").write_text(CONFIG.replace("ADDRESS", self.address))
        chance = random.Random(3)
        lines = (json.dumps({"y": chance.gauss(5, 2) + n % 7}) for n in range(n_events))
        (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        # in torch: the native step would be through with the stream before anything is killed
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "STREAM_RNN_NATIVE": "off"}
        environment = os.environ | own
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill what a failed test left."""
        for process in self._started:
            process.kill()
            process.wait()

    def daemon(self) -> subprocess.Popen[bytes]:
        return self._start("-m", "stream_rnn", "run", "config.toml")

    def replayer(self) -> subprocess.Popen[bytes]:
        script = str(ROOT / "examples" / "producer.py")
        return self._start(script, "events.jsonl", "--connect", self.address, "--id", "p")

    def spooler(self) -> subprocess.Popen[bytes]:
        return self._start("-c", SPOOLED, self.address)

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "predictions.jsonl"
        written = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in written[: written.rfind(b"\n") + 1].splitlines()]

    def wait_for_progress(self, process: subprocess.Popen[bytes]) -> None:
        before, until = len(self.lines()), time.monotonic() + 300
        while len(self.lines()) <= before:
            assert process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < until, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.01)

    def finish(self, daemon: subprocess.Popen[bytes], producer: subprocess.Popen[bytes]) -> None:
        """The producer leaves once everything is durable; then the daemon is told to."""
        log = self.folder / "log"
        assert producer.wait(300) == 0, log.read_text()[-3000:]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(300) == 0, log.read_text()[-3000:]

    def first_of_each_id(self) -> list[dict[str, Any]]:
        kept: dict[str, dict[str, Any]] = {}
        for line in self.lines():
            told = line.pop("replayed")
            assert line["id"] not in kept or (told and kept[line["id"]] == line)
            kept.setdefault(line["id"], line)
        return list(kept.values())


Make = Callable[[Path, int], Run]


def assert_same_end(one: Run, other: Run) -> None:
    assert one.first_of_each_id() == other.first_of_each_id()
    ids = [line["id"] for line in one.first_of_each_id()]
    assert ids == [f"producer/p:{n}" for n in range(1, N_EVENTS + 1)]
    mine, theirs = (snapshot.read(snapshot.snapshots(r.folder / "state")[0]) for r in (one, other))
    assert mine.positions == theirs.positions == {"source": {"producer/p": N_EVENTS}}
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert [n for n in theirs.tensors if not mine.tensors[n].equal(theirs.tensors[n])] == []
    assert json.loads(mine.host) == json.loads(theirs.host)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Nothing happened in it."""
    with closing(Run(tmp_path_factory.mktemp("calm") / "run", N_EVENTS)) as run:
        run.finish(run.daemon(), run.replayer())
    return run


@pytest.fixture
def make() -> Iterator[Callable[[Path, int], Run]]:
    """Makes runs; what they started ends with the test."""
    with ExitStack() as stack:
        yield lambda folder, n_events: stack.enter_context(closing(Run(folder, n_events)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("memory", ["log", "spool"])
def test_killing_daemon_and_producer_leaves_no_trace(
    calm: Run, make: Make, tmp_path: Path, memory: str
) -> None:
    chance, storm = random.Random(7), make(tmp_path / "storm", N_EVENTS)
    produce = storm.replayer if memory == "log" else storm.spooler
    daemon, producer = storm.daemon(), produce()
    for _ in range(5):
        storm.wait_for_progress(daemon)
        time.sleep(chance.uniform(0.0, 0.06))
        daemon.kill()
        assert daemon.wait(300) == -signal.SIGKILL
        daemon = storm.daemon()
        if chance.random() < 0.6:
            storm.wait_for_progress(daemon)
            time.sleep(chance.uniform(0.0, 0.04))
            producer.kill()
            assert producer.wait(300) == -signal.SIGKILL
            producer = produce()
    assert len(storm.first_of_each_id()) < N_EVENTS, "the stream was over too soon; make it longer"
    storm.finish(daemon, producer)
    assert sum(line["replayed"] for line in storm.lines()) > 0
    assert_same_end(storm, calm)


@pytest.mark.slow
def test_one_kill_of_the_daemon_loses_nothing(make: Make, tmp_path: Path) -> None:
    run = make(tmp_path / "run", 400)
    daemon, producer = run.daemon(), run.replayer()
    run.wait_for_progress(daemon)
    daemon.kill()
    daemon.wait(300)
    run.finish(run.daemon(), producer)
    ids = [line["id"] for line in run.first_of_each_id()]
    assert ids == [f"producer/p:{n}" for n in range(1, 401)]
    assert "every event affects the model exactly once" in (run.folder / "log").read_text()
