"""The process beside the daemon is started anew when it dies or hangs, and ends with the daemon."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_rnn.readers import supervisor as module
from stream_rnn.readers.region import PAGE, Words, nameless
from stream_rnn.readers.supervisor import Supervisor

BEGINS = """
import json, mmap, os, sys, time
first = json.loads(sys.stdin.buffer.readline())
words = memoryview(mmap.mmap(first["page"], 4096)).cast("Q")
words[2] = int(time.monotonic())
words[1] = 1  # it answers
"""
LISTENS = "for line in sys.stdin:\n    open(first['heard'], 'a').write(line)\n"
HANGS = "time.sleep(600)\n"
DIES = "sys.exit(7)\n"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "FIRST_WAIT_S"):
        monkeypatch.setattr(module, name, 0.02)


class Kept:
    """A supervisor of a script, and what the script wrote down."""

    def __init__(self, folder: Path) -> None:
        self.page = nameless("test")
        os.ftruncate(self.page, PAGE)
        self.words = Words(self.page, is_ours=True)
        self.heard = folder / "heard"
        self.reasons: list[str] = []
        long = "more than a pipe takes at once" * 10_000
        told = {"page": self.page, "heard": str(self.heard), "long": long}
        ready = lambda: list(self.reasons)  # noqa: E731
        self.supervisor = Supervisor("script", told, self.words.words, [self.page], ready)


@contextmanager
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Iterator[Kept]:
    (tmp_path / "script.py").write_text(BEGINS + does)
    monkeypatch.syspath_prepend(tmp_path)
    made = Kept(tmp_path)
    made.supervisor.open()
    try:
        yield made
    finally:
        made.supervisor.close()
        made.words.close()
        os.close(made.page)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_started_anew_after_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with kept(tmp_path, monkeypatch, LISTENS) as beside:
        assert beside.supervisor.reasons() == ["the readers' process is starting"]
        wait_for(lambda: not beside.supervisor.reasons())
        first = beside.supervisor.pid
        assert beside.supervisor.status() == {"pid": first, "restarts": 0, "serves": True}
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(beside.supervisor.reasons)
        wait_for(lambda: not beside.supervisor.reasons())
        assert beside.supervisor.restarts == 1
        assert beside.supervisor.pid != first
    assert (
        "the readers' process was killed by signal 9; it is started anew in 0.02 s" in caplog.text
    )


def test_the_pause_before_the_next_start_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.04)
    with kept(tmp_path, monkeypatch, DIES) as beside:
        wait_for(lambda: beside.supervisor.restarts >= 3)
    pauses = [r.args[1] for r in caplog.records if r.levelno == logging.WARNING and r.args]  # type: ignore[index]
    assert pauses[:3] == [0.02, 0.04, 0.04]
    assert "ended with exit code 7" in caplog.text


def test_one_that_gives_no_sign_of_life_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 1.5)
    with kept(tmp_path, monkeypatch, HANGS) as beside:
        wait_for(lambda: beside.supervisor.pid)
        first = beside.supervisor.pid
        wait_for(lambda: beside.supervisor.restarts)
        assert not is_running(first)
    assert "gave no sign of life for 1.5 s" in caplog.text


def test_one_that_never_answers_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "START_S", 0.3)
    with kept(tmp_path, monkeypatch, "words[1] = 0\n" + HANGS) as beside:
        wait_for(lambda: beside.supervisor.restarts)
    assert "did not answer within 0.3 s" in caplog.text


def test_it_is_told_the_reasons_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does = LISTENS.replace("'a'", "'a', 1")
    with kept(tmp_path, monkeypatch, does) as beside:
        wait_for(lambda: beside.heard.exists() and beside.heard.read_text() == "[]\n")
        beside.reasons.append("the source is not connected")
        lines = '[]\n["the source is not connected"]\n'
        wait_for(lambda: beside.heard.read_text() == lines)


@pytest.mark.parametrize("does", [LISTENS, "words[1] = 0\n" + HANGS], ids=["listens", "starts"])
def test_it_ends_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(module, "LEAVE_S", 120.0)
    with kept(tmp_path, monkeypatch, does) as beside:
        wait_for(lambda: beside.supervisor.pid)
        pid, start = beside.supervisor.pid, time.monotonic()
    assert not is_running(pid)
    assert time.monotonic() - start < module.LEAVE_S / 2  # by itself
    assert beside.supervisor.restarts == 0


def test_it_ends_with_a_daemon_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(BEGINS + LISTENS)
    code = (
        "import os, time\n"
        "from stream_rnn.readers.region import *\n"
        "from stream_rnn.readers.supervisor import Supervisor\n"
        "page = nameless('test'); os.ftruncate(page, PAGE); words = Words(page, True).words\n"
        "beside = Supervisor('script', {'page': page, 'heard': 'heard'}, words, [page], list)\n"
        "beside.open()\n"
        "while beside.reasons(): time.sleep(0.01)\n"
        "print(beside.pid, flush=True); time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=tmp_path) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        assert is_running(pid)
        daemon.kill()
    wait_for(lambda: not is_running(pid) or is_zombie(pid))


def is_zombie(pid: int) -> bool:
    """Ended, where nobody is there to take notice (a container without an init)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_secret_is_in_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(tmp_path, monkeypatch, LISTENS) as beside:
        wait_for(lambda: not beside.supervisor.reasons())
        arguments = Path(f"/proc/{beside.supervisor.pid}/cmdline").read_bytes().split(b"\0")
        assert arguments[1:] == [b"-P", b"-m", b"script", b""]
        assert b"heard" not in Path(f"/proc/{beside.supervisor.pid}/environ").read_bytes()
