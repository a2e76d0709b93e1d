"""From one ZeroMQ socket to another, through the whole daemon, on loopback."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.runtime.loop import Runtime

N = 40


@dataclass
class Ends:
    """Our ends of the two connections, bound to free ports."""

    push: "zmq.Socket[bytes]"
    pull: "zmq.Socket[bytes]"
    source: int
    sink: int


@pytest.fixture
def ends() -> Iterator[Ends]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (push, pull)]
    yield Ends(push, pull, *ports)
    push.close(linger=0)
    pull.close(linger=0)
    context.term()


@contextmanager
def daemon(folder: Path, ends: Ends, sequence: str = "none") -> Iterator[Runtime]:
    """Runs on a thread; leaving asks it to stop."""
    job = app.build(
        {
            "source": {
                "kind": "zeromq",
                "address": f"tcp://127.0.0.1:{ends.source}",
                "sequence": sequence,
            },
            "sink": [{"kind": "zeromq", "address": f"tcp://127.0.0.1:{ends.sink}"}],
            "task": {"kind": "forecast", "target": "y"},
            "learner": {"cell": {"kind": "gru", "units": 4}, "credit": {"kind": "rtrl"}},
            "state": {"dir": str(folder), "every_s": 1000.0},
        }
    )
    store = Store(folder)
    store.open()
    runtime = make_runtime(job, store, CollectorRegistry(), Console(io.StringIO()))
    newest = store.newest()
    if newest is not None:
        runtime.restore(newest)
    thread = threading.Thread(target=runtime.run)
    thread.start()
    try:
        yield runtime
    finally:
        runtime.stop()
        thread.join(120)
        store.close()
    assert not thread.is_alive()


def send(socket: "zmq.Socket[bytes]", first: int, last: int, skip: int = -1) -> None:
    for n in range(first, last):
        if n != skip:
            socket.send(json.dumps({"y": n % 7, "seq": n}).encode())


def receive(socket: "zmq.Socket[bytes]", n: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for _ in range(n):
        assert socket.poll(60_000), f"{len(lines)} of {n} predictions came"
        lines.append(json.loads(socket.recv()))
    return lines


def test_every_event_sent_comes_back_as_a_prediction(ends: Ends, tmp_path: Path) -> None:
    with daemon(tmp_path / "state", ends) as runtime:
        send(ends.push, 0, N)
        lines = receive(ends.pull, N)
    assert [line["position"] for line in lines] == list(range(1, N + 1))
    assert lines[-1]["scored"]["id"] == lines[-2]["id"]
    newest = snapshot.read(snapshot.snapshots(tmp_path / "state")[0])
    assert newest.positions == {"source": {f"tcp://127.0.0.1:{ends.source}": N}}
    assert runtime.source.guarantee.value == "fire-and-forget"


def test_it_goes_on_after_a_restart_with_what_it_had_learned(ends: Ends, tmp_path: Path) -> None:
    with daemon(tmp_path / "state", ends):
        send(ends.push, 0, N)
        receive(ends.pull, N)
    with daemon(tmp_path / "state", ends):
        send(ends.push, N, N + 5)
        lines = receive(ends.pull, 5)
    assert [line["step"] for line in lines] == list(range(N + 1, N + 6))
    assert [line["position"] for line in lines] == list(range(N + 1, N + 6))
    assert not any(line["replayed"] for line in lines)


def test_a_gap_in_the_producers_numbers_is_counted(ends: Ends, tmp_path: Path) -> None:
    with daemon(tmp_path / "state", ends, sequence="field:seq") as runtime:
        send(ends.push, 0, N, skip=20)
        receive(ends.pull, N - 1)
        assert runtime.source.counters()["sequence_gaps"] == 1
    assert runtime.metrics.events_applied == N - 1
