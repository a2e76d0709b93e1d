"""Killed, stopped, damaged, grown, and started again: as if nothing had happened.

Every place where a process can be killed has its test in tests/crash.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.assembly import model
from stream_rnn.checkpoint import snapshot
from stream_rnn.cli import _exit_code, cli

CONFIG = """
[source]
kind = "jsonl"
path = "EVENTS"
[task]
kind = "regression"
target = "y"
[features]
numeric = ["x"]
[lanes]
key = "id"
capacity = 2
[learner]
cell = { kind = "lstm", units = 4 }
credit = { kind = "kf" }
fallback = { kind = "tbptt", window = 3 }
optimizer = { kind = "adam", lr = 0.01 }
[state]
dir = "state"
every_events = 20
[[sink]]
kind = "jsonl"
path = "predictions.jsonl"
"""
N_EVENTS = 150
Line = dict[str, Any]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / "events.jsonl"
    with path.open("w") as file:
        for i in range(N_EVENTS):
            record = {"id": "abc"[i * i % 3], "x": i % 11, "y": (i * 37) % 23}
            file.write("no JSON\n" if i % 40 == 39 else json.dumps(record) + "\n")
    return path


@pytest.fixture(scope="module")
def calm(events: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(events, tmp_path_factory.mktemp("calm"))


def place(events: Path, folder: Path) -> Path:
    config = folder / "config.toml"
    if not config.exists():
        config.write_text(CONFIG.replace("EVENTS", str(events)))
    return config


def run_here(events: Path, folder: Path, *options: str) -> Path:
    config = place(events, folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        arguments = ["run", *options, str(config)]
        assert _exit_code(lambda: cli.main(arguments, standalone_mode=False)) == 0
    finally:
        os.chdir(before)
    return folder


def run_there(events: Path, folder: Path, fault: str) -> int:
    """In a process of its own, which may be killed at a stage of a snapshot."""
    return subprocess.run(
        [sys.executable, "-m", "stream_rnn", "run", str(place(events, folder))],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "STREAM_RNN_FAULT": fault},
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=300,
    ).returncode


def first_of_each_id(path: Path) -> list[Line]:
    kept: dict[str, Line] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        line.pop("replayed", None)
        line.pop("written_at", None)  # of a dead letter
        assert kept.setdefault(line["id"], line) == line
    return list(kept.values())


def assert_same_end(one: Path, other: Path) -> None:
    for name in ("predictions.jsonl", "state/dead_letters.jsonl"):
        assert first_of_each_id(one / name) == first_of_each_id(other / name)
    mine, theirs = (snapshot.read(snapshot.snapshots(f / "state")[0]) for f in (one, other))
    assert mine.positions == theirs.positions
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert [n for n in theirs.tensors if not mine.tensors[n].equal(theirs.tensors[n])] == []
    assert json.loads(mine.host) == json.loads(theirs.host)


def test_one_kill_leaves_no_trace(events: Path, calm: Path, tmp_path: Path) -> None:
    assert run_there(events, tmp_path, "before_manifest:2") == -signal.SIGKILL
    assert len(snapshot.snapshots(tmp_path / "state")) == 1
    run_here(events, tmp_path)
    assert_same_end(tmp_path, calm)
    lines = [json.loads(text) for text in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    flags = [line["replayed"] for line in lines]
    repeated = flags[flags.index(True) :]
    # up to the newest event that was attempted; a fast learner may have attempted them all
    assert repeated == sorted(repeated, reverse=True)
    assert sum(repeated) >= len(lines) - len({line["id"] for line in lines})


@pytest.mark.parametrize("pieces", [[1, 5, 77], [20, 20, 20], [149]], ids=str)
def test_a_run_in_pieces_equals_a_run_in_one(
    pieces: list[int], events: Path, calm: Path, tmp_path: Path
) -> None:
    for n in pieces:
        run_here(events, tmp_path, "--max-events", str(n))
    run_here(events, tmp_path)
    assert_same_end(tmp_path, calm)
    lines = [json.loads(text) for text in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert not any(line["replayed"] for line in lines)


def test_a_resumption_on_another_execution_path_is_told(
    events: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_here(events, tmp_path, "--max-events", "10")
    run_here(events, tmp_path, "--max-events", "10")
    assert "execution path" not in capfd.readouterr().err  # the same one
    mine = platform.python_version()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    run_here(events, tmp_path, "--max-events", "10")
    told = f"resuming on another execution path (python: {mine} -> 3.99.0): sound"
    assert told in capfd.readouterr().err


def test_a_damaged_newest_snapshot_costs_only_a_repetition(
    events: Path, calm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_here(events, tmp_path, "--max-events", "70")
    run_here(events, tmp_path, "--max-events", "10")
    newest = snapshot.snapshots(tmp_path / "state")[0]
    (newest / "state.safetensors").write_bytes(b"damaged")
    capfd.readouterr()
    run_here(events, tmp_path)
    assert "snapshot damaged" in capfd.readouterr().err
    assert_same_end(tmp_path, calm)


def test_a_source_that_grew_is_taken_up_where_it_ended(events: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    grown = tmp_path / "grown"
    for folder in (whole, grown):
        folder.mkdir()
    lines = events.read_text().splitlines(keepends=True)
    stream = tmp_path / "stream.jsonl"
    stream.write_text("".join(lines[:60]))
    run_here(stream, grown)
    stream.write_text("".join(lines))
    run_here(stream, grown)
    run_here(stream, whole)
    assert_same_end(grown, whole)


def test_a_default_of_ok_that_changed_is_told_and_can_be_written_down(
    events: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A state of rank 8 from when snapshots did not say the rank that a table left out."""
    short, full = (CONFIG.replace('"kf"', kind) for kind in ('"ok"', '"ok", rank = 8'))
    (tmp_path / "config.toml").write_text(full.replace("EVENTS", str(events)))
    with monkeypatch.context() as then:
        unsaid = {"credit": {"kind": "ok"}}
        then.setattr(model, "written_out", lambda learner: {**learner, **unsaid})
        run_here(events, tmp_path, "--max-events", "40")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(short.replace("EVENTS", str(events)))
    assert _exit_code(lambda: cli.main(["run", "config.toml"], standalone_mode=False)) == 78
    assert "learner.credit.rank: the state has 8, the configuration 4" in capfd.readouterr().err
    (tmp_path / "config.toml").write_text(full.replace("EVENTS", str(events)))
    run_here(events, tmp_path, "--max-events", "1")
    assert "resumes at step" in capfd.readouterr().err
