"""Snapshots never change once they have their name; so a copy made at any moment is a backup."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_rnn.checkpoint.snapshot import snapshots
from stream_rnn.resuming import newest_readable

pytestmark = pytest.mark.slow

CONFIG = """
source = { kind = "jsonl", path = "events.jsonl", follow = true }
task = { kind = "forecast", target = "y" }
state = { dir = "state", every_events = 25, keep = 20 }
sink = [{ kind = "jsonl", path = "predictions.jsonl" }]
[learner]
cell = { kind = "gru", units = 32 }
credit = { kind = "rtrl" }
"""
PATIENCE_S = 240.0
N_SEEN = 6  # snapshots looked at, each of them several times
N_COPIES = 8
Seen = dict[str, tuple[int, int, str]]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """The folder of a daemon that saves all the time."""
    lines = (json.dumps({"y": i * i % 17}) for i in range(200_000))
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "stream_rnn", "run", "config.toml"]
    with (tmp_path / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(snapshots(tmp_path / "state")) < 2:
            assert daemon.poll() is None, (tmp_path / "daemon.log").read_text()
            assert time.monotonic() < deadline, "no snapshots"
            time.sleep(0.02)
        yield tmp_path / "state"
        assert daemon.poll() is None, (tmp_path / "daemon.log").read_text()
    finally:
        daemon.kill()
        daemon.wait()


def view(folder: Path) -> Seen | None:
    """Inode, time of change and content of each file; None if the snapshot was removed."""
    seen: Seen = {}
    try:
        for path in sorted(folder.iterdir()):
            status = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            seen[path.name] = status.st_ino, status.st_mtime_ns, digest
    except FileNotFoundError:
        return None
    return seen if folder.exists() else None


def test_a_snapshot_never_changes_from_the_moment_it_has_its_name(state):
    first: dict[str, Seen] = {}
    views = 0
    deadline = time.monotonic() + PATIENCE_S
    while len(first) < N_SEEN or views < 3 * len(first):
        assert time.monotonic() < deadline, "the daemon saves too little for this to mean anything"
        for folder in snapshots(state)[:3]:
            seen = view(folder)
            if seen is None:
                continue
            assert seen == first.setdefault(folder.name, seen)
            views += 1


def test_a_copy_made_while_the_daemon_runs_has_a_sound_snapshot(state, tmp_path):
    steps: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(set(steps)) < N_COPIES:
        assert time.monotonic() < deadline, f"the daemon saves too little: {steps}"
        copy = tmp_path / f"copy-{len(steps)}"
        subprocess.run(["cp", "-a", state, copy], check=False, capture_output=True)
        loaded = newest_readable(snapshots(copy))
        assert loaded is not None
        steps.append(loaded.step)
        time.sleep(0.05)
    assert steps == sorted(steps)


def test_a_copy_lets_a_second_daemon_go_on_beside_the_first(state, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(["cp", "-a", state, there / "state"], check=False, capture_output=True)
    newest = newest_readable(snapshots(there / "state"))
    assert newest is not None
    (there / "events.jsonl").symlink_to(tmp_path / "events.jsonl")
    (there / "config.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "stream_rnn", "run", "config.toml", "--max-events", "30"]
    said = subprocess.run(command, cwd=there, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert f"resumes at step {newest.step} " in said.stderr
