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
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.control import client, line, server
from stream_rnn.control.client import NoAnswer, ask
from stream_rnn.control.server import CONNECTIONS, ControlServer

PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy
Until = Callable[..., None]


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
    monkeypatch.setattr(server, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(client, "GRACE_S", PATIENCE_S)
    listening = ControlServer(folder, daemon.ask, lambda: ["the loop has not turned for 40 s"])
    listening.open()
    yield listening
    listening.close()


def connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE_S)
    connection.connect(str(folder / "control.sock"))
    return connection


def said(folder: Path, data: bytes) -> dict[str, Any]:
    """The answer to raw bytes."""
    with connect(folder) as connection:
        with contextlib.suppress(BrokenPipeError):  # it need not read all of it
            connection.sendall(data)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(line.read_line(connection, 1 << 20, PATIENCE_S))
        return answer


def test_what_is_asked_arrives_and_its_answer_comes_back(listening, daemon, folder):
    assert ask(folder, "set", "state.every_s=5", PATIENCE_S) == {
        "ok": True,
        "text": "set state.every_s=5",
    }
    assert daemon.asked == [("set", "state.every_s=5")]


def test_the_socket_is_for_its_user_alone(listening, folder):
    assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600


def test_another_user_is_refused_even_where_the_socket_lets_it_in(
    listening, daemon, folder, monkeypatch
):
    monkeypatch.setattr(server, "peer", lambda connection: (1, 65534))
    answer = ask(folder, "drain", "", PATIENCE_S)
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


@pytest.fixture
def impatient(listening: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client gets hardly any time."""
    monkeypatch.setattr(server, "PATIENCE_S", 0.3)


def test_a_client_that_sends_nothing_is_dropped_after_its_time(impatient, folder):
    began = time.monotonic()
    with connect(folder) as connection:
        assert connection.recv(1000) == b""
    assert time.monotonic() - began >= 0.3


def test_a_client_that_sends_byte_by_byte_gets_no_more_time(impatient, daemon, folder):
    def drip() -> None:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            connection.send(b" ")
            time.sleep(0.01)

    with connect(folder) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        drip()
    assert daemon.asked == []


def test_more_clients_than_there_are_places_are_told_to_come_again(listening, folder):
    with contextlib.ExitStack() as held:
        for _ in range(CONNECTIONS):
            held.enter_context(connect(folder))
        answer = ask(folder, "status", "", PATIENCE_S)  # taken in the order they came
    assert answer["ok"] is False
    assert "try again" in answer["text"]


def test_it_answers_again_after_a_crowd_of_rude_clients(listening, folder, until):
    threads = threading.active_count()
    for n in range(40):
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE_S)
            connection.connect(str(folder / "control.sock"))
            connection.sendall(b"\xff" * (n * 200))
    until(lambda: threading.active_count() <= threads, "the threads of the crowd end")
    assert ask(folder, "status", "", PATIENCE_S)["ok"] is True


def test_an_answer_that_does_not_come_in_time_says_why(listening, daemon, folder):
    daemon.answers = False
    answer = ask(folder, "checkpoint", "", 0.2)
    assert (answer["ok"], answer["late"]) == (False, True)
    assert "checkpoint: not done within 0.2 s: the loop has not turned for 40 s" in answer["text"]
    assert daemon.futures[0].cancelled()  # it must not be done behind the client's back


def test_what_a_client_that_left_asked_for_is_not_done(listening, daemon, folder, until):
    daemon.answers = False
    with connect(folder) as connection:
        connection.sendall(b'{"verb": "drain", "patience_s": 600}\n')
        until(lambda: daemon.futures)
    until(daemon.futures[0].cancelled)


def test_the_socket_of_a_killed_daemon_is_replaced(daemon, folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "control.sock"))
    with pytest.raises(NoAnswer, match=r"no daemon runs on .*start it with `stream-rnn run`"):
        ask(folder, "status", "", PATIENCE_S)
    listening = ControlServer(folder, daemon.ask, list)
    listening.open()
    assert ask(folder, "status", "", PATIENCE_S)["ok"] is True
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
    assert ask(deep, "status", "", PATIENCE_S)["ok"] is True
    listening.close()
    assert list(deep.iterdir()) == []


def test_closing_waits_for_the_answers_under_way(daemon, folder, monkeypatch, until):
    monkeypatch.setattr(server, "LAST_WORDS_S", PATIENCE_S)
    daemon.answers = False
    listening = ControlServer(folder, daemon.ask, list)
    listening.open()
    heard: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: heard.append(ask(folder, "drain", "", PATIENCE_S)))
    asking.start()
    until(lambda: daemon.futures)
    daemon.futures[0].set_result({"ok": True, "text": "drained"})
    listening.close()
    asking.join(PATIENCE_S)
    assert heard == [{"ok": True, "text": "drained"}]


def test_a_folder_without_a_daemon_is_said_to_have_none(folder):
    with pytest.raises(NoAnswer, match="no daemon runs on"):
        ask(folder, "status", "", PATIENCE_S)


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
            ask(folder, "status", "", PATIENCE_S)
        talking.join(PATIENCE_S)


def test_a_broken_client_is_not_worth_a_line_in_the_log(listening, folder, caplog):
    with caplog.at_level(logging.INFO):
        connect(folder).close()
        time.sleep(0.05)
    assert caplog.records == []
