"""SIGTERM and SIGINT, to a real process: drain, snapshot, leave; a second one leaves at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream_rnn.checkpoint import snapshot

FOLLOW = 'kind = "jsonl"\npath = "events.jsonl"\nfollow = true\n'
CONFIG = """
[source]
SOURCE
[task]
kind = "forecast"
target = "y"
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "rtrl" }
[state]
dir = "state"
every_s = 1000.0
[limits]
gone_s = GONE
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(source: str = FOLLOW, gone_s: float = 60.0) -> subprocess.Popen[bytes]:
        text = CONFIG.replace("SOURCE", source).replace("GONE", str(gone_s))
        (tmp_path / "config.toml").write_text(text)
        with (tmp_path / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "stream_rnn", "run", "config.toml"],
                cwd=tmp_path,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
        started.append(daemon)
        return daemon

    yield start
    for daemon in started:
        daemon.kill()
        daemon.wait()


def wait_for(condition: Callable[[], bool], patience_s: float = 300.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def predictions(folder: Path) -> list[dict[str, object]]:
    path = folder / "state/predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_drains_and_snapshots(number: int, start: Start, tmp_path: Path) -> None:
    events = "".join(json.dumps({"y": n % 7}) + "\n" for n in range(3000))
    (tmp_path / "events.jsonl").write_text(events)
    daemon = start()
    wait_for(lambda: bool(predictions(tmp_path)))
    daemon.send_signal(number)
    assert daemon.wait(300) == 0
    last = predictions(tmp_path)[-1]
    newest = snapshot.read(snapshot.snapshots(tmp_path / "state")[0])
    assert newest.positions == {"source": {last["partition"]: last["position"]}}
    assert newest.step == last["step"]
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import time\n"
        "from connectors.jsonl import JsonlSource\n"
        "class Stuck(JsonlSource):\n"
        "    def poll(self, max_events, timeout_s):\n"
        "        open('polled', 'w').close()\n"
        "        end = time.monotonic() + 600\n"
        "        while time.monotonic() < end:\n"
        "            time.sleep(0.1)\n"
    )
    (tmp_path / "events.jsonl").write_text('{"y": 1}\n')
    daemon = start('kind = "stuck:Stuck"\npath = "events.jsonl"')
    wait_for((tmp_path / "polled").exists)
    daemon.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert daemon.poll() is None  # it waits for the poll to come back
    daemon.send_signal(signal.SIGINT)
    assert daemon.wait(300) == 128 + signal.SIGINT


@pytest.mark.slow
def test_a_signal_ends_the_waiting_for_a_source_that_is_not_there(
    start: Start, tmp_path: Path
) -> None:
    daemon = start()
    wait_for(lambda: "does not exist yet" in (tmp_path / "log").read_text())
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(300) == 0


@pytest.mark.slow
def test_a_source_that_is_gone_for_too_long_is_exit_code_75(start: Start, tmp_path: Path) -> None:
    assert start(gone_s=0.3).wait(300) == 75
    log = (tmp_path / "log").read_text()
    assert "stream-rnn: [source] not reachable for 0.3 s ([limits] gone_s)" in log
    assert "events.jsonl does not exist yet" in log
    assert "Traceback" not in log
