"""The socket, with real clients and hostile ones; what the verbs do is elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.control import client, line, server
from stream_rnn.control.client import NoAnswer, ask
from stream_rnn.control.server import CONNECTIONS, ControlServer


class Daemon:
    """What stands behind the socket: it keeps what it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.futures: list[Future[dict[str, Any]]] = []
        self.answers = True

    def ask(self, verb: str, argument: str) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        self.asked.append((verb, argument))
        self.futures.append(future)
        if self.answers:
            future.set_result({"ok": True, "text": f"{verb} {argument}"})
        return future


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def listening(
    daemon: Daemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ControlServer]:
    monkeypatch.setattr(server, "POLL_S", 0.01)
    monkeypatch.setattr(server, "PATIENCE_S", 0.3)
    monkeypatch.setattr(client, "GRACE_S", 0.2)
    listening = ControlServer(folder, daemon.ask, lambda: ["the loop has not turned for 40 s"])
    listening.open()
    yield listening
    listening.close()


def connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5)
    connection.connect(str(folder / "control.sock"))
    return connection


def said(folder: Path, data: bytes) -> dict[str, Any]:
    """The answer to raw bytes."""
    with connect(folder) as connection:
        with contextlib.suppress(BrokenPipeError):  # it need not read all of it
            connection.sendall(data)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(line.read_line(connection, 1 << 20, 5.0))
        return answer


def test_what_is_asked_arrives_and_its_answer_comes_back(listening, daemon, folder):
    assert ask(folder, "set", "state.every_s=5", 2.0) == {"ok": True, "text": "set state.every_s=5"}
    assert daemon.asked == [("set", "state.every_s=5")]


def test_the_socket_is_for_its_user_alone(listening, folder):
    assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600


def test_another_user_is_refused_even_where_the_socket_lets_it_in(
    listening, daemon, folder, monkeypatch
):
    monkeypatch.setattr(server, "peer", lambda connection: (1, 65534))
    answer = ask(folder, "drain", "", 2.0)
    assert answer["ok"] is False
    assert "user 65534 may not control a daemon of user" in answer["text"]
    assert daemon.asked == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_process_of_another_user_is_told_apart_by_the_kernel(listening, daemon, folder):
    for each in (folder, *list(folder.parents)[:-1]):
        each.chmod(each.stat().st_mode | 0o011)
    (folder / "control.sock").chmod(0o666)
    code = (
        "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        f"s.connect({str(folder / 'control.sock')!r});"
        "print(s.recv(1000).decode())"
    )
    heard = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "user 65534 may not control" in heard.stdout
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        pytest.param(b"x" * 100_000, "a line of more than 4096 bytes", id="huge"),
        pytest.param(bytes(range(256)) + b"\n", "expected one line of JSON", id="binary"),
        pytest.param(b'{"verb":' + b"[" * 3000 + b"\n", "expected one line", id="nested"),
        pytest.param(b"\n", "expected one line of JSON", id="empty"),
        pytest.param(b"", "expected one line of JSON", id="nothing"),
        pytest.param(b'["status"]\n', "expected one line of JSON", id="list"),
        pytest.param(b'{"verb": 3}\n', "expected one line of JSON", id="number"),
        pytest.param(b'{"verb": "a", "more": 1}\n', "unknown field", id="unknown-field"),
        pytest.param(b'{"verb": "a", "patience_s": 0}\n', "patience_s must be", id="no-patience"),
        pytest.param(b'{"verb": "a", "patience_s": 1e99}\n', "patience_s must", id="for-ever"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", "expected one line of JSON", id="http"),
    ],
)
def test_what_is_no_request_is_told_so_and_reaches_nobody(
    listening, daemon, folder, data, complaint
):
    answer = said(folder, data)
    assert (answer["ok"], answer["usage"]) == (False, True)
    assert complaint in answer["text"]
    assert daemon.asked == []


def test_a_client_that_sends_nothing_is_dropped_after_its_time(listening, folder):
    with connect(folder) as connection:
        began = time.monotonic()
        assert connection.recv(1000) == b""
    assert 0.2 < time.monotonic() - began < 2.0


def test_a_client_that_sends_byte_by_byte_gets_no_more_time(listening, daemon, folder):
    began = time.monotonic()
    with connect(folder) as connection, contextlib.suppress(OSError):
        for _ in range(1000):
            connection.send(b" ")
            time.sleep(0.01)
    assert time.monotonic() - began < 2.0
    assert daemon.asked == []


def test_more_clients_than_there_are_places_are_told_to_come_again(listening, folder):
    held = [connect(folder) for _ in range(CONNECTIONS)]
    time.sleep(0.1)
    answer = ask(folder, "status", "", 2.0)
    for each in held:
        each.close()
    assert answer["ok"] is False
    assert "try again" in answer["text"]


def test_it_answers_again_after_a_crowd_of_rude_clients(listening, folder):
    threads = threading.active_count()
    for n in range(40):
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.connect(str(folder / "control.sock"))
            connection.sendall(b"\xff" * (n * 200))
    until = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.02)
    assert threading.active_count() == threads
    assert ask(folder, "status", "", 2.0)["ok"] is True


def test_an_answer_that_does_not_come_in_time_says_why(listening, daemon, folder):
    daemon.answers = False
    answer = ask(folder, "checkpoint", "", 0.2)
    assert (answer["ok"], answer["late"]) == (False, True)
    assert "checkpoint: not done within 0.2 s: the loop has not turned for 40 s" in answer["text"]
    assert daemon.futures[0].cancelled()  # it must not be done behind the client's back


def test_what_a_client_that_left_asked_for_is_not_done(listening, daemon, folder):
    daemon.answers = False
    with connect(folder) as connection:
        connection.sendall(b'{"verb": "drain", "patience_s": 60}\n')
        while not daemon.futures:
            time.sleep(0.01)
    until = time.monotonic() + 5
    while not daemon.futures[0].cancelled():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_socket_of_a_killed_daemon_is_replaced(daemon, folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "control.sock"))
    with pytest.raises(NoAnswer, match=r"no daemon runs on .*start it with `stream-rnn run`"):
        ask(folder, "status", "", 1.0)
    listening = ControlServer(folder, daemon.ask, list)
    listening.open()
    assert ask(folder, "status", "", 2.0)["ok"] is True
    listening.close()
    assert not (folder / "control.sock").exists()


def test_a_queue_that_stays_full_is_a_daemon_that_is_stopped_or_hung(folder):
    with socket.socket(socket.AF_UNIX) as hung, contextlib.ExitStack() as stack:
        hung.bind(str(folder / "control.sock"))
        hung.listen(0)
        stack.enter_context(connect(folder))
        with pytest.raises(NoAnswer, match="takes no connection: it is stopped or hung"):
            ask(folder, "status", "", 0.2)


def test_something_else_at_its_place_is_left_alone(daemon, folder):
    (folder / "control.sock").write_text("mine")
    with pytest.raises(OSError, match=r"control.sock is there and is no socket; move it away"):
        ControlServer(folder, daemon.ask, list).open()
    assert (folder / "control.sock").read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_none_too_long(daemon, folder):
    deep = folder / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    listening = ControlServer(deep, daemon.ask, list)
    listening.open()
    assert ask(deep, "status", "", 2.0)["ok"] is True
    listening.close()
    assert list(deep.iterdir()) == []


def test_closing_waits_for_the_answers_under_way(daemon, folder):
    daemon.answers = False
    listening = ControlServer(folder, daemon.ask, list)
    listening.open()
    heard: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: heard.append(ask(folder, "drain", "", 10.0)))
    asking.start()
    while not daemon.futures:
        time.sleep(0.01)
    daemon.futures[0].set_result({"ok": True, "text": "drained"})
    listening.close()
    asking.join(5)
    assert heard == [{"ok": True, "text": "drained"}]


def test_a_folder_without_a_daemon_is_said_to_have_none(folder):
    with pytest.raises(NoAnswer, match="no daemon runs on"):
        ask(folder, "status", "", 1.0)


def test_a_daemon_that_answers_nonsense_is_no_answer(folder):
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(folder / "control.sock"))
        odd.listen()

        def talk() -> None:
            connection, _ = odd.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\xff\n")

        talking = threading.Thread(target=talk)
        talking.start()
        with pytest.raises(NoAnswer, match=rf"process {os.getpid()} gave no sound answer"):
            ask(folder, "status", "", 2.0)
        talking.join(5)


def test_a_broken_client_is_not_worth_a_line_in_the_log(listening, folder, caplog):
    with caplog.at_level(logging.INFO):
        connect(folder).close()
        time.sleep(0.05)
    assert caplog.records == []
