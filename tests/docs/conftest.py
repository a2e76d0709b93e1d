"""The pages as tests see them: their blocks in order, and a terminal in which to try these.

A page is read as a person reads it who pastes each block into the same terminal. What such a
person knows and a block does not say stands in HTML comments in front of it, which no reader of
the page sees:

    <!-- not run: REASON -->        the block is not tried; the reason is for people
    <!-- file: NAME -->             the block is the content of this file
    <!-- part of: PATH -->          the block stands in this file of the repository, word for word
    <!-- with: OPTIONS -->          appended to `stream-rnn run`, `demo`, `evaluate`: makes them end
    <!-- background until: TEXT --> runs in a terminal of its own; goes on when it has printed TEXT
    <!-- needs: PROGRAM -->         skipped where the program is missing
    <!-- not compared: REASON -->   the output shown is not compared with what comes
    <!-- page run by: PATH -->      first line of a page: this test runs the whole page instead
    <!-- Ctrl-C -->, <!-- kill -9 -->   stands alone: so ends what runs in the background

Ports are replaced by free ones. Outputs (`text` behind a block that ran) are compared line by
line, in order, numbers and blanks aside; `...` stands for anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("deploy/*/README.md")),
]
PORTS = ("9464", "5555", "5556", "5570", "9090", "9093")
PATIENCE_S = 300.0  # for one block, on a machine that has other things to do
COMMENT = re.compile(r"^<!-- (.*?) -->$")
NUMBER = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-]\d\d:\d\d)?"  # a moment
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b"  # a hash
    r"|-?\d[\d,.:]*(?:e[+-]?\d+)?[kM]?\b|\bnan\b"
)


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment that stands alone (its language is "action")."""

    language: str
    text: str
    line: int
    notes: tuple[str, ...]

    def note(self, name: str) -> str | None:
        """What stands behind `name:` in the comments before it."""
        found = self.all(name)
        return found[0] if found else None

    def all(self, name: str) -> list[str]:
        """The same where there may be several."""
        return [
            note.partition(":")[2].strip() for note in self.notes if note.startswith(f"{name}:")
        ]


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page in order, each with the comments directly before it."""
    blocks: list[Block] = []
    notes: list[str] = []
    inside: list[str] | None = None
    language, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        comment = COMMENT.match(line)
        if inside is not None:
            if line.rstrip() == "```":
                blocks.append(Block(language, "\n".join(inside) + "\n", start, tuple(notes)))
                inside, notes = None, []
            else:
                inside.append(line)
        elif line.startswith("```"):
            language, start, inside = line[3:].strip(), number, []
        elif comment and comment[1] in ("Ctrl-C", "kill -9"):
            blocks.append(Block("action", comment[1], number, ()))
        elif comment:
            notes.append(comment[1])
        elif line.strip():
            notes = []
    assert inside is None, f"the block of line {start} has no end"
    return blocks


def masked(line: str) -> str:
    """Without what differs from run to run: numbers, ids, widths of columns."""
    return " ".join(NUMBER.sub("#", line).split())


def missing_from(shown: str, printed: str) -> list[str]:
    """The lines of `shown` that `printed` has not, or not in this order."""
    came = iter([masked(line) for line in printed.replace("\r", "\n").splitlines()])
    missing = []
    for line in shown.splitlines():
        expected = masked(line)
        if expected in ("", "..."):
            continue
        pattern = re.compile(re.escape(expected).replace(re.escape("..."), ".*"))
        seen = []
        for candidate in came:
            if pattern.fullmatch(candidate):
                break
            seen.append(candidate)
        else:
            missing.append(line)
            came = iter(seen)
    return missing


class Terminal:
    """Bash in a folder: one for the blocks of a page, and more for what keeps running."""

    def __init__(self, folder: Path, outside: Path) -> None:
        self.folder, self._outside, self._count = folder, outside, 0
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        programs = outside / "bin"
        programs.mkdir()
        for name, start in (("stream-rnn", "-m stream_rnn "), ("python", ""), ("python3", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {start}"$@"\n')
            program.chmod(0o755)
        path = os.pathsep.join([str(programs), os.environ["PATH"]])
        self._env = os.environ | {
            "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "STREAM_RNN_CACHE": str(outside / "cache"),  # pages show what is new: nothing built yet
        }  # fmt: skip
        self._place()
        self._shell = self._start(
            ["bash", "--noprofile", "--norc", "-e"], outside / "shell", subprocess.PIPE
        )
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def _place(self) -> None:
        """The folder of a checkout, as far as pages use it, with a small stream."""
        shutil.copytree(ROOT / "examples", self.folder / "examples")
        for path in self.folder.glob("examples/*.toml"):
            path.write_text(self.here(path.read_text()))
        for name in ("deploy", "docs", "benchmarks"):
            (self.folder / name).symlink_to(ROOT / name)
        lines = [
            json.dumps(
                {"timestamp": f"2026-01-{1 + n // 24:02}T{n % 24:02}:00:00", "load": n % 5 + 0.5}
            )
            for n in range(400)
        ]
        (self.folder / "power.jsonl").write_text("\n".join(lines) + "\n")
        (self.folder / "predictions.jsonl").write_text('{"id": "a:1"}\n{"id": "a:1"}\n')

    def _start(
        self, command: list[str], log: Path, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                command, stdin=stdin, stdout=file, stderr=subprocess.STDOUT,
                cwd=self.folder, env=self._env, start_new_session=True,
            )  # fmt: skip

    def here(self, text: str) -> str:
        """The text with ports that are free here."""
        return re.sub(r"\b\d{4}\b", lambda found: self._ports.get(found[0], found[0]), text)

    def run(self, text: str) -> str:
        """What the block prints; fails if a command of it fails."""
        self._count += 1
        script, end = self._outside / f"block-{self._count}", f"END-OF-BLOCK-{self._count}"
        script.write_text(self.here(text))
        log = self._outside / "shell"
        begin = log.stat().st_size
        assert self._shell.stdin is not None
        self._shell.stdin.write(f". {script} < /dev/null\necho {end}\n".encode())
        self._shell.stdin.flush()

        def printed() -> str:
            return log.read_bytes()[begin:].decode(errors="replace")

        wait_for(lambda: end in printed() or self._shell.poll() is not None, printed)
        said = printed()
        assert end in said, f"a command failed:\n{text}\n{said}"
        return said.replace(f"{end}\n", "")

    def background(self, text: str, until: str) -> str:
        """Start the block in a terminal of its own; what it printed when `until` was there."""
        self._count += 1
        log = self._outside / f"background-{self._count}"
        process = self._start(["bash", "-c", f"exec {self.here(text).strip()}"], log)
        self._running.append((process, log))

        def printed() -> str:
            return log.read_text(errors="replace")

        wait_for(lambda: until in printed() or process.poll() is not None, printed)
        assert until in printed(), f"ended before it printed {until!r}:\n{printed()}"
        return printed()

    def stop(self, how: str) -> None:
        """End what was started last in the background, as a person would."""
        process, log = self._running.pop()
        process.send_signal(signal.SIGKILL if how == "kill -9" else signal.SIGINT)
        code = process.wait(PATIENCE_S)
        assert code == (-signal.SIGKILL if how == "kill -9" else 0), log.read_text()

    def close(self) -> None:
        for process in [self._shell, *(each for each, _ in self._running)]:
            if process.poll() is None or process is self._shell:  # the shell's own children, too
                kill_group(process.pid)
            process.wait(120)
        assert self._shell.stdin is not None
        self._shell.stdin.close()


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of them have ended by themselves


def wait_for(done: object, printed: object) -> None:
    assert callable(done)
    assert callable(printed)
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"no end after {PATIENCE_S:.0f} s:\n{printed()}"
        time.sleep(0.02)


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames and "any_page" not in metafunc.fixturenames:
        if metafunc.definition.get_closest_marker("parametrize"):
            return
        names = [str(page.relative_to(ROOT)) for page in PAGES]
        metafunc.parametrize("page", PAGES, ids=names)


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def read() -> object:
    """The blocks of a page's text."""
    return blocks_of


@pytest.fixture
def compare() -> object:
    """The lines shown that were not printed."""
    return missing_from


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    folder, outside = tmp_path / "here", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(folder))
    terminal = Terminal(folder, outside)
    try:
        yield terminal
    finally:
        terminal.close()
