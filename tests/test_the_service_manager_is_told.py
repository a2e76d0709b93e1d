"""sd_notify on a real datagram socket; what a daemon sends is in test_a_daemon_obeys.py."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_rnn.notify import Notifier


class Manager:
    """Listens like systemd does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every line that came so far."""
        lines = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    manager = Manager(path if request.param == "path" else f"@stream-rnn-{secrets.token_hex(8)}")
    yield manager
    manager.socket.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notifier(manager: Manager, clock: Clock) -> Iterator[Notifier]:
    notifier = Notifier(manager.address, 30.0, clock)
    yield notifier
    notifier.close()


def test_ready_is_said_once_and_starts_the_watch(notifier: Notifier, manager: Manager) -> None:
    notifier.ready()
    notifier.ready()
    assert manager.heard() == ["READY=1", "WATCHDOG=1"]


def test_a_start_that_takes_long_asks_for_more_time(
    notifier: Notifier, manager: Manager, clock: Clock
) -> None:
    assert notifier.alive(clock.now) == clock.now + 10.0
    assert manager.heard() == ["EXTEND_TIMEOUT_USEC=60000000"]


def test_a_turning_loop_says_so_at_half_of_the_patience(
    notifier: Notifier, manager: Manager, clock: Clock
) -> None:
    notifier.ready()
    manager.heard()
    assert notifier.alive(clock.now) == clock.now + 15.0
    assert manager.heard() == ["WATCHDOG=1"]


def test_without_a_watchdog_only_the_start_is_watched(manager: Manager, clock: Clock) -> None:
    notifier = Notifier(manager.address, None, clock)
    notifier.ready()
    assert notifier.alive(clock.now) == float("inf")
    assert manager.heard() == ["READY=1"]
    notifier.close()


def test_the_status_is_one_line_and_comes_seldom(
    notifier: Notifier, manager: Manager, clock: Clock
) -> None:
    notifier.status(lambda: "first\nREADY=1\x1b[31m " + "x" * 500)
    notifier.status(lambda: "too early")
    clock.now += 5.0
    notifier.status(lambda: "second")
    first, second = manager.heard()
    assert first.startswith("STATUS=first READY=1 [31m xxx")
    assert len(first) == len("STATUS=") + 200
    assert second == "STATUS=second"


def test_a_reload_is_announced_with_its_moment_and_then_over(
    notifier: Notifier, manager: Manager
) -> None:
    notifier.ready()
    manager.heard()
    notifier.reloading()
    notifier.reloaded()
    reloading, moment, ready = manager.heard()
    assert (reloading, ready) == ("RELOADING=1", "READY=1")
    assert moment.startswith("MONOTONIC_USEC=")
    assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0


def test_leaving_is_said_once_and_more_time_is_asked_for(
    notifier: Notifier, manager: Manager
) -> None:
    notifier.ready()
    manager.heard()
    notifier.stopping()
    notifier.stopping()
    notifier.still_stopping()
    assert manager.heard() == [
        "STOPPING=1",
        "STATUS=writing the last snapshot",
        "EXTEND_TIMEOUT_USEC=60000000",
        "WATCHDOG=1",
    ]


def test_a_manager_that_is_gone_costs_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"), 1.0)
    with caplog.at_level(logging.WARNING):
        notifier.ready()
        for now in range(10):
            notifier.alive(float(now))
    notifier.close()
    assert len(caplog.records) == 1
    assert "cannot be told anything: No such file or directory" in caplog.text


def test_a_manager_that_does_not_read_does_not_stop_the_loop(
    notifier: Notifier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    notifier.ready()
    for _ in range(10_000):  # many more than its queue holds; it would wait here for ever
        notifier.alive(clock.now)
    assert "cannot be told anything" in caplog.text


@pytest.mark.parametrize(
    ("environment", "address", "watchdog_s"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": ""}, None, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, None, None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000"}, "/run/n", 3.0),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "x"}, "@n", None),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"}, "@n", None),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, "@n", None),
        (
            {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "5000", "WATCHDOG_PID": str(os.getpid())},
            "@n",
            0.005,
        ),
    ],
    ids=str,
)
def test_the_environment_says_whom_to_tell(
    environment: dict[str, str], address: str | None, watchdog_s: float | None
) -> None:
    notifier = Notifier.from_environment(environment)
    assert (notifier._address, notifier._watchdog_s) == (address, watchdog_s)
    assert notifier.is_on is (address is not None)
