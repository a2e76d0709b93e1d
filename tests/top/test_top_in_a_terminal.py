"""Contains a test that looks at a live daemon as a person does: in a terminal, within tmux."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_rnn.top.series import Series

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("tmux") is None, reason="tmux is not installed (apt-get install tmux)"
    ),
]
CONFIG = """
source = { kind = "jsonl", path = "events.jsonl", follow = true }
task = { kind = "forecast", target = "y" }
state = { dir = "state", every_s = 2.0 }
[learner]
cell = { kind = "gru", units = 8 }
credit = { kind = "rtrl" }
[metrics]
address = "127.0.0.1:PORT"
"""


class Terminal:
    """A tmux server of its own with one window."""

    def __init__(self, folder: Path, columns: int, lines: int) -> None:
        self._tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        size = ["-x", str(columns), "-y", str(lines)]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        command = [*self._tmux, "new-session", "-d", *size, "-c", str(folder), "sh"]
        subprocess.run(command, check=True, env=environment)

    def type(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def text(self) -> str:
        command = [*self._tmux, "capture-pane", "-p"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=True)


def until(true: Callable[[], object], what: Callable[[], str], patience_s: float = 300.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.1)


def write(path: Path, start: int, n: int) -> None:
    with path.open("a") as file:
        for k in range(start, start + n):
            file.write(json.dumps({"y": math.sin(k / 7)}) + "\n" if k % 50 else "{oops\n")


@contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "stream_rnn", "run", "config.toml"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_terminal_shows_what_metrics_say_through_a_kill_and_a_restart(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "config.toml").write_text(CONFIG.replace("PORT", str(port)))
    events = tmp_path / "events.jsonl"
    write(events, 1, 500)

    def applied() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return int(Series(answer.read()).total("events_applied_total") or 0)

    def shown() -> int:
        found = re.search(r"applied ([\d,]+)", terminal.text())
        return int(found[1].replace(",", "")) if found else -1

    terminal = Terminal(tmp_path, 80, 24)
    try:
        with daemon(tmp_path) as process:
            terminal.type(
                shlex.join([sys.executable, "-m", "stream_rnn", "top", "config.toml"])
                + "; echo left with $?",
                "Enter",
            )
            until(lambda: "● ready" in terminal.text() and shown() > 0, terminal.text)
            for start in range(501, 2501, 500):  # while it learns, between two looks at the page
                write(events, start, 500)
                before = applied()
                until(lambda: shown() >= before, terminal.text)  # noqa: B023
                now = shown()
                assert now <= applied()
            until(lambda: applied() == 2450, lambda: str(applied()))  # one in 50 is a dead letter
            until(lambda: shown() == 2450, terminal.text)
            screen = terminal.text()
            assert "rejected 50 (decode 50)" in screen
            assert re.search(r"decode +expected a JSON object", screen)
            assert len(screen.splitlines()) == 24
            until(lambda: re.search(r"saved +\d+ s ago", terminal.text()), terminal.text)
            process.send_signal(signal.SIGKILL)
            until(lambda: re.search(r"✕ no answer for \d+ s", terminal.text()), terminal.text)
        with daemon(tmp_path):
            until(lambda: "● ready" in terminal.text(), terminal.text)
            write(events, 2501, 20)
            until(lambda: shown() == applied() > 0, terminal.text)
            terminal.type("q")
            until(lambda: "left with 0" in terminal.text(), terminal.text)
            assert "Loss" not in terminal.text()  # the terminal is as it was
    finally:
        terminal.close()
