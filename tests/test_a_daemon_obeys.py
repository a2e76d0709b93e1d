"""`stream-rnn ctl`, signals and the service manager, with a real daemon process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stream_rnn.checkpoint import snapshot

CONFIG = """
[source]
KIND
path = "events.jsonl"
follow = true
[task]
kind = "forecast"
target = "y"
[learner]
cell = { kind = "gru", units = 3 }
credit = { kind = "rtrl" }
[state]
dir = "state"
every_s = 1000.0
[limits]
breaker_events = 40
"""
WATCHDOG_S = 1.0
STUCK = """
import pathlib, time
from connectors.jsonl import JsonlSource
class Stuck(JsonlSource):
    def poll(self, max_events, timeout_s):
        while pathlib.Path("hang").exists():
            time.sleep(0.05)
        return super().poll(max_events, timeout_s)
"""


class Daemon:
    """One process in its folder, watched by somebody who plays systemd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "notify"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(self.path))
        self.process: subprocess.Popen[bytes] | None = None
        self.heard: list[str] = []
        (folder / "stuck.py").write_text(STUCK)
        self.configure('kind = "stuck:Stuck"')
        self.add(30)

    def configure(self, kind: str, *changes: tuple[str, str]) -> None:
        text = CONFIG.replace("KIND", kind)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.folder / "config.toml").write_text(text)

    def add(self, n: int, bad: bool = False) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            for i in range(n):
                file.write("junk\n" if bad else json.dumps({"y": i % 7}) + "\n")

    def start(self, *options: str) -> None:
        self.heard.clear()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream_rnn", "run", "config.toml", *options],
                cwd=self.folder,
                env=os.environ
                | {
                    "OMP_NUM_THREADS": "1",
                    "NOTIFY_SOCKET": str(self.path),
                    "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
                },
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
        self.wait_for(lambda: "READY=1" in self.listen())

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, patience_s: float = 300.0) -> int:
        assert self.process is not None
        return self.process.wait(patience_s)

    def listen(self) -> list[str]:
        """All that the manager heard since the start."""
        self.manager.setblocking(False)
        while True:
            try:
                self.heard += self.manager.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.heard

    def ctl(self, *words: str, target: str = "state") -> subprocess.CompletedProcess[str]:
        patient = [] if "--timeout" in words else ["--timeout", "300"]
        return subprocess.run(
            [sys.executable, "-m", "stream_rnn", "ctl", target, *words, *patient],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def said(self, *words: str) -> str:
        done = self.ctl(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def n_predictions(self) -> int:
        path = self.folder / "state/predictions.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    @staticmethod
    def wait_for(condition: Callable[[], object], patience_s: float = 300.0) -> None:
        until = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.02)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.manager.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with closing(Daemon(tmp_path)) as daemon:
        daemon.start()
        daemon.wait_for(lambda: daemon.n_predictions == 30)
        yield daemon


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for those who leave it as they found it."""
    with closing(Daemon(tmp_path_factory.mktemp("shared"))) as daemon:
        daemon.start()
        daemon.wait_for(lambda: daemon.n_predictions == 30)
        yield daemon


# Verbs ------------------------------------------------------------------------------------------


def test_status_is_readable_and_the_configuration_leads_to_the_daemon_too(shared: Daemon) -> None:
    status = json.loads(shared.ctl("status", target="config.toml").stdout)
    assert status["sources"][0]["level"] == "exactly-once-effect"
    assert status["sources"][0]["conditions"]
    assert (status["paused"], status["frozen_since_step"]) == ([], None)


def test_checkpoint_names_a_snapshot_that_is_there(shared: Daemon) -> None:
    shared.add(5)
    shared.wait_for(lambda: shared.n_predictions % 5 == 0)
    said = shared.said("checkpoint")
    assert said.startswith("snapshot taken; ")
    path = shared.folder / said.rpartition(" ")[2]
    assert snapshot.read(path).step == json.loads(shared.said("status"))["step"]


def test_pause_and_resume_hold_the_stream_and_let_it_go(shared: Daemon) -> None:
    assert shared.said("pause").startswith("paused by ctl since 2")
    before = shared.n_predictions
    shared.add(3)
    time.sleep(0.6)
    assert shared.n_predictions == before
    assert any("paused by ctl" in each for each in json.loads(shared.said("status"))["ready"])
    assert shared.said("resume") == "resumed (ctl held)"
    shared.wait_for(lambda: shared.n_predictions == before + 3)


def test_set_changes_what_is_safe_and_names_it_for_what_is_not(shared: Daemon) -> None:
    assert shared.said("set", "limits.unsaved_s=77") == (
        "limits.unsaved_s 300 -> 77; until the next start or reload, for it is in no file"
    )
    refused = shared.ctl("set", "learner.seed=3")
    assert refused.returncode == 78
    assert "one of state.every_s, state.every_events, limits.poll_events" in refused.stderr


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("limits.gone_s=soon", "[limits] gone_s: expected float, got str ('soon')"),
        ("limits.poll_events=0", "[limits] poll_events must be at least 1, got 0"),
        ("state.every_s=-1", "[state] every_s must be positive, got -1.0"),
        ("state.dir='/tmp'", "'state.dir' cannot be changed while the daemon runs"),
        ("limits.gone_s", "expected KEY=VALUE with one of"),
        ("limits.gone_s=1\nx=2", "takes one value"),
    ],
)
@pytest.mark.slow
def test_a_wrong_setting_is_refused_with_its_place(
    shared: Daemon, assignment: str, complaint: str
) -> None:
    refused = shared.ctl("set", assignment)
    assert refused.returncode == 78
    assert complaint in refused.stderr
    assert "Traceback" not in refused.stderr


def test_hostile_lines_on_the_socket_do_not_disturb_it(shared: Daemon) -> None:
    for data in (b"\xff" * 100_000, b"[" * 4000 + b"\n", bytes(300), b""):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(shared.folder / "state/control.sock"))
            connection.settimeout(60)
            try:
                connection.sendall(data)
            except BrokenPipeError:
                continue
    before = shared.n_predictions
    shared.add(2)
    shared.wait_for(lambda: shared.n_predictions == before + 2)
    assert json.loads(shared.said("status"))["step"] > 0


@pytest.mark.slow
def test_drain_learns_what_was_received_and_ends_with_0(daemon: Daemon) -> None:
    said = daemon.said("drain")
    assert said.startswith("drained: 30 events learned by this process; newest snapshot ")
    assert daemon.ended() == 0
    assert (daemon.folder / said.rpartition(" ")[2] / "manifest.json").exists()
    assert "STOPPING=1" in daemon.listen()
    assert not (daemon.folder / "state/control.sock").exists()


@pytest.mark.slow
def test_a_freeze_outlives_kill_9_and_is_in_the_banner(daemon: Daemon) -> None:
    assert daemon.said("freeze").startswith("frozen since step 30: predictions go on, nothing is")
    daemon.signal(signal.SIGKILL)
    daemon.ended()
    assert "no daemon runs on state" in daemon.ctl("status").stderr
    daemon.start()  # its socket replaces the killed one's
    assert "  frozen       since step 30: nothing is learned until ctl unfreeze" in daemon.log
    status = json.loads(daemon.said("status"))
    assert (status["teaches"], status["frozen_since_step"]) == ("nothing", 30)
    assert "teaches all" in daemon.said("unfreeze")


@pytest.mark.slow
def test_a_freeze_is_carried_over_to_another_model(daemon: Daemon) -> None:
    daemon.said("freeze")
    daemon.said("drain")
    assert daemon.ended() == 0
    daemon.configure('kind = "stuck:Stuck"', ('kind = "rtrl"', 'kind = "tbptt", window = 4'))
    daemon.start("--migrate")
    assert "  frozen       since step 30: nothing is learned until ctl unfreeze" in daemon.log


@pytest.mark.slow
def test_a_stopped_daemon_is_called_stopped(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.signal(signal.SIGSTOP)
    silent = daemon.ctl("pause", "--timeout", "0.5")
    daemon.signal(signal.SIGCONT)
    assert silent.returncode == 75
    pid = daemon.process.pid
    assert (
        f"process {pid} has not answered within 0.5 s: it is stopped; wake it with kill -CONT {pid}"
        in (silent.stderr)
    )
    assert "Traceback" not in silent.stderr


@pytest.mark.slow
def test_the_breaker_stops_a_stream_gone_bad_until_it_is_resumed(daemon: Daemon) -> None:
    daemon.add(300, bad=True)
    daemon.wait_for(lambda: "polling stops: the breaker is open: 20 of the last 40" in daemon.log)
    assert "all of them at stage decode" in daemon.log
    assert any("breaker" in each for each in json.loads(daemon.said("status"))["ready"])
    daemon.add(40)
    assert "breaker held" in daemon.said("resume")
    # what is still bad trips it again: a fresh window, as many refusals
    daemon.wait_for(lambda: daemon.said("resume") and daemon.n_predictions == 70)


# Signals ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sigusr1_takes_a_snapshot_now(daemon: Daemon) -> None:
    daemon.wait_for(lambda: daemon.n_predictions == 30)
    assert snapshot.snapshots(daemon.folder / "state") == []
    daemon.signal(signal.SIGUSR1)
    daemon.wait_for(lambda: "snapshot by signal; step 30 is durable in" in daemon.log)
    assert snapshot.read(snapshot.snapshots(daemon.folder / "state")[0]).step == 30


@pytest.mark.slow
def test_sighup_takes_over_what_is_safe_and_names_the_rest(daemon: Daemon) -> None:
    daemon.configure(
        'kind = "stuck:Stuck"',
        ("every_s = 1000.0", "every_s = 0.1"),
        ("units = 3", "units = 4"),
    )
    daemon.add(5)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for(lambda: "reloaded: state.every_s 1000 -> 0.1" in daemon.log)
    daemon.wait_for(lambda: "reloaded: [learner] cell changed and needs a restart" in daemon.log)
    daemon.wait_for(lambda: snapshot.snapshots(daemon.folder / "state"))
    heard = daemon.listen()
    at = heard.index("RELOADING=1")
    assert heard[at + 1].startswith("MONOTONIC_USEC=")
    assert "READY=1" in heard[at + 2 :]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["journal", "readers"])
def test_an_empty_table_that_came_needs_a_restart_too(shared: Daemon, table: str) -> None:
    path = shared.folder / "config.toml"
    before = path.read_text()
    path.write_text(f"{before}[{table}]\n")
    shared.signal(signal.SIGHUP)
    shared.wait_for(lambda: f"reloaded: [{table}] changed and needs a restart" in shared.log)
    path.write_text(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[state\n", "config.toml: not valid TOML"),
        ("[state]\nevery_s = 'x'\n[limits]\ngone_s = 1\n", "[state] every_s: expected float"),
        ("[limit]\ngone_s = 1\n", "unknown table [limit]"),
        ("[limits]\ngone_s = 1\n[readers]\nport = 1\n", "[readers] unknown key 'port'"),
    ],
    ids=["no-toml", "no-number", "no-table", "no-key"],
)
def test_an_invalid_file_changes_nothing_on_sighup(
    shared: Daemon, text: str, complaint: str
) -> None:
    before = (shared.folder / "config.toml").read_text()
    (shared.folder / "config.toml").write_text(text)
    shared.signal(signal.SIGHUP)
    shared.wait_for(lambda: complaint in shared.log)
    (shared.folder / "config.toml").write_text(before)
    assert "the configuration was not taken over, nothing changed: " in shared.log
    assert "limits.gone_s" not in shared.log
    assert "step" in json.loads(shared.said("status"))


# The service manager ----------------------------------------------------------------------------


def test_the_manager_hears_that_it_is_ready_and_what_it_does(shared: Daemon) -> None:
    shared.wait_for(lambda: any(each.startswith("STATUS=") for each in shared.listen()))
    heard = shared.listen()
    assert heard.count("READY=1") >= 1
    status = next(each for each in heard if each.startswith("STATUS="))
    assert "events" in status
    assert "rtrl" in status


def test_a_loop_that_hangs_stops_the_watchdog_and_one_that_turns_feeds_it(shared: Daemon) -> None:
    def fed(seconds: float) -> int:
        before = shared.listen().count("WATCHDOG=1")
        time.sleep(seconds)
        return shared.listen().count("WATCHDOG=1") - before

    shared.wait_for(lambda: fed(0.1) > 0)
    shared.wait_for(lambda: fed(0.1) > 0)  # and again
    (shared.folder / "hang").touch()
    shared.wait_for(lambda: fed(1.2) == 0)
    status = json.loads(shared.said("status"))  # it answers while the loop hangs
    late = shared.ctl("checkpoint", "--timeout", "2")
    (shared.folder / "hang").unlink()
    assert status["step"] > 0
    assert late.returncode == 75
    assert "checkpoint: not done within 2 s" in late.stderr
    shared.wait_for(lambda: fed(0.3) > 0)
