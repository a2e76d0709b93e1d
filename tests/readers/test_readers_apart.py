"""A daemon whose readers have a process of their own, as its users meet it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream_rnn import apart as module
from stream_rnn import app
from stream_rnn.apart import apart, rehearse
from stream_rnn.assembly.settings import MetricsTable
from stream_rnn.config import ConfigError
from stream_rnn.readers.zeromq import ask

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "value"},
    "learner": {"cell": {"kind": "gru", "units": 3}, "credit": {"kind": "tbptt", "window": 2}},
}
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"process": True}, "process = true needs where it is asked: http = "),
        ({"http": "127.0.0.1:9465"}, "is the address of a process of its own: set process = true"),
        ({"process": True, "http": "9465"}, 'http: expected "host:port"'),
        ({"process": True, "address": "tcp://0.0.0.0:1"}, "can be reached by other machines"),
    ],
)
def test_a_wrong_table_is_refused_with_the_remedy(table: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"\[readers\]") as error:
        app.build(TABLES | {"readers": table})
    assert words in str(error.value)


def test_the_process_is_no_part_of_the_model() -> None:
    job = app.build(TABLES | {"readers": {"process": True, "http": "127.0.0.1:0"}})
    assert job.fingerprint == app.build(TABLES).fingerprint
    assert job.readers is None
    assert job.apart is not None


def no_token() -> str:
    raise AssertionError("a token was asked for before the port was taken")


@pytest.mark.parametrize("key", ["http", "address"])
def test_a_taken_port_is_refused_at_the_start(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        table = {"process": True, key: place if key == "http" else f"tcp://{place}"}
        job = app.build(TABLES | {"readers": table})
        assert job.apart is not None
        said = rf"\[readers\] {key}: {place} is in use"
        given = job.apart, job.engine, job.model, MetricsTable(), no_token, list
        with pytest.raises(ConfigError, match=said), apart(*given):
            pass
        with pytest.raises(ConfigError, match=said):
            rehearse(job.apart, MetricsTable())


# With a real daemon ------------------------------------------------------------------------------


class Daemon:
    """A daemon in a folder, and how to ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = [_free_port() for _ in range(3)]
        metrics, http, zeromq = self.ports
        self.zeromq = f"tcp://127.0.0.1:{zeromq}"
        (folder / "c.toml").write_text(
            f"""
            source = {{ kind = "synthetic", rate_hz = 300 }}
            task = {{ kind = "forecast", target = "value" }}
            state = {{ dir = "{folder}/state", every_s = 0.5 }}
            metrics = {{ address = "127.0.0.1:{metrics}", token = "{TOKEN}" }}
            [readers]
            process = true
            http = "127.0.0.1:{http}"
            address = "{self.zeromq}"
            [learner]
            cell = {{ kind = "gru", units = 3 }}
            credit = {{ kind = "tbptt", window = 2 }}
            """
        )
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "stream_rnn", "run", str(self.folder / "c.toml")]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def get(self, path: str, server: int = 0) -> str:
        return self.call(path, server)[1]

    def call(
        self, path: str, server: int, body: bytes | None = None, token: str = TOKEN
    ) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[server]}{path}", body)
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def predict(self) -> dict[str, Any]:
        status, text = self.call("/predict", 1, b'{"record": {"value": 0.5}}')
        assert status == 200, text
        told: dict[str, Any] = json.loads(text)
        return told

    def readers(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.get("/status"))["readers"]
        return told

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.call("/readyz", 0)[0] == 200, self.process)


@contextmanager
def running(folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(folder)
    try:
        daemon.wait_until_ready()
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.slow
def test_a_daemon_is_asked_at_the_addresses_of_its_readers(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        assert daemon.predict()["lane"] == "known"
        status, body = ask(daemon.zeromq, b'{"record": {"value": 0.5}}', 120.0)
        assert (status, json.loads(body)["lane"]) == (200, "known")
        assert daemon.call("/predict", 1, b"{}", token="x" * 16)[0] == 401
        status, text = daemon.call("/predict", 0, b"{}")
        assert status == 421
        assert text.startswith(f"POST /predict is answered at http://127.0.0.1:{daemon.ports[1]}/")
        assert daemon.call("/readyz", 1) == (200, "ok\n")
        assert daemon.call("/metrics", 1)[0] == 404  # the learner's alone
        page = daemon.get("/metrics")
        assert 'stream_rnn_reader_requests_total{outcome="answered"} 2.0' in page
        assert "stream_rnn_reader_restarts_total 0.0" in page
        assert "stream_rnn_reader_copy_age_seconds NaN" not in page
        daemon.process.send_signal(signal.SIGINT)  # a terminal sends it to the readers, too
        os.kill(pid := daemon.readers()["pid"], signal.SIGINT)
        assert daemon.process.wait(300) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_readers_that_are_killed_come_back_at_the_same_port(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        steps = daemon.predict()["step"]
        os.kill(daemon.readers()["pid"], signal.SIGKILL)
        assert daemon.predict()["step"] > steps  # who connects meanwhile waits
        assert ask(daemon.zeromq, b'{"record": {"value": 0.5}}', 120.0)[0] == 200
        daemon.wait_until_ready()
        assert daemon.readers()["restarts"] == 1
        assert "stream_rnn_reader_restarts_total 1.0" in daemon.get("/metrics")
        assert "the readers' process was killed by signal 9" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_daemon_that_was_killed_starts_again_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.predict()
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        daemon.wait_until_ready()
        assert daemon.predict()["lane"] == "known"
