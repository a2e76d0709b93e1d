"""A real daemon and an event that ends it: three deaths, then it goes on as if it were unreadable."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.checkpoint import snapshot

ROOT = Path(__file__).resolve().parents[2]
N_EVENTS, POISON_AT = 60, 29
CONFIG = """
source = { kind = "jsonl", path = "events.jsonl" }
codec = { kind = "CODEC", ARMED }
task = { kind = "regression", target = "y" }
features = { numeric = ["x"], categorical = { what = ["fine", "boom"] } }
lanes = { key = "id", capacity = 8, batching = "BATCHING" }
state = { dir = "state", every_events = 10 }
sink = [{ kind = "jsonl", path = "predictions.jsonl" }]
[learner]
cell = { kind = "killers:Cell", units = 4 }
credit = { kind = "kf" }
optimizer = { kind = "adam", lr = 0.01 }
"""
BY_CODEC = {"boom": "kill", "what": "fine"}
BY_ABORT = {"boom": "abort", "what": "fine"}
BY_BUG = {"boom": "raise", "what": "fine"}
BY_CELL = {"what": "boom"}
"""What stands in the event."""


class Daemon:
    def __init__(self, folder: Path, poison: dict[str, str], batching: str = "event") -> None:
        folder.mkdir()
        self.folder = folder
        with (folder / "events.jsonl").open("w") as file:
            for i in range(N_EVENTS):
                record: dict[str, Any] = {"id": "abcdefgh"[i % 8], "x": i % 11, "y": i * 37 % 23}
                record |= poison if i == POISON_AT else {"what": "fine"}
                file.write(json.dumps(record) + "\n")
        text = CONFIG.replace("BATCHING", batching)
        text = text.replace("CODEC", "killers:Codec").replace("ARMED", "armed = true")
        (folder / "config.toml").write_text(text)

    def unreadable(self) -> "Daemon":
        """The same, but for a decode error in the place of the event."""
        path = self.folder / "config.toml"
        path.write_text(path.read_text().replace("armed = true", "armed = false"))
        events = self.folder / "events.jsonl"
        lines = events.read_text().splitlines()
        lines[POISON_AT] = "{" + " " * (len(lines[POISON_AT]) - 1)
        events.write_text("\n".join(lines) + "\n")
        return self

    def run(self, *options: str) -> int:
        paths = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
        with (self.folder / "log").open("ab") as log:
            return subprocess.run(
                [sys.executable, "-m", "stream_rnn", "run", "config.toml", *options],
                cwd=self.folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
                stdout=subprocess.DEVNULL,
                stderr=log,
                check=False,
                timeout=60,
            ).returncode

    def deaths(self) -> int:
        """Runs it, as a supervisor does, until it ends well."""
        for n in range(10):
            if self.run() == 0:
                return n
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def lines(self, name: str) -> list[dict[str, Any]]:
        kept: dict[str, dict[str, Any]] = {}
        for text in (self.folder / name).read_text().splitlines():
            line = json.loads(text)
            line.pop("replayed", None)
            assert kept.setdefault(line["id"], line) == line
        return list(kept.values())

    def newest(self) -> snapshot.Loaded:
        return snapshot.read(snapshot.snapshots(self.folder / "state")[0])


def assert_same_end(one: Daemon, other: Daemon) -> None:
    assert one.lines("predictions.jsonl") == other.lines("predictions.jsonl")
    mine, theirs = one.newest(), other.newest()
    assert mine.positions == theirs.positions
    assert [n for n in theirs.tensors if not mine.tensors[n].equal(theirs.tensors[n])] == []
    assert json.loads(mine.host) == json.loads(theirs.host)


def test_after_three_deaths_the_event_is_left_out_and_all_others_are_learned(
    tmp_path: Path,
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", BY_CELL)

    assert poisoned.deaths() == 3

    (letter,) = poisoned.lines("state/dead_letters.jsonl")
    assert (letter["stage"], letter["issue"]) == ("poison", "killed")
    assert "3 times in a row" in letter["reason"]
    assert "quarantined" in poisoned.log
    assert len(poisoned.lines("predictions.jsonl")) == N_EVENTS - 1
    kept = json.loads((poisoned.folder / "state/quarantine.json").read_text())
    assert [each["position"] for each in kept["poison"]] in ([letter["position"]], [])
    calm = Daemon(tmp_path / "calm", BY_CELL).unreadable()
    assert calm.run() == 0
    assert_same_end(poisoned, calm)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["event", "log"])
@pytest.mark.parametrize("poison", [BY_CODEC, BY_ABORT, BY_BUG], ids=["kill", "abort", "bug"])
def test_a_death_while_decoding_is_blamed_on_that_event_alone(
    tmp_path: Path, poison: dict[str, str], batching: str
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", poison, batching)

    assert poisoned.deaths() == 3

    calm = Daemon(tmp_path / "calm", poison, batching).unreadable()
    assert calm.run() == 0
    assert_same_end(poisoned, calm)


@pytest.mark.slow
def test_in_a_block_of_eight_the_culprit_is_found_and_the_other_seven_are_learned(
    tmp_path: Path,
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", BY_CELL, "log")

    assert poisoned.deaths() == 5  # the block twice, then the event three times

    assert poisoned.log.count("events 25..32; it is tried again as it was") == 1
    assert "events 25..32; fed one by one" in poisoned.log
    (letter,) = poisoned.lines("state/dead_letters.jsonl")
    assert letter["stage"] == "poison"
    ids = {line["id"] for line in poisoned.lines("predictions.jsonl")}
    calm = Daemon(tmp_path / "calm", BY_CELL, "log").unreadable()
    assert calm.run() == 0
    assert ids == {line["id"] for line in calm.lines("predictions.jsonl")}


@pytest.mark.slow
def test_a_kill_after_the_verdict_does_not_try_the_event_again(tmp_path: Path) -> None:
    poisoned = Daemon(tmp_path / "poisoned", BY_CELL)
    assert [poisoned.run() != 0 for _ in range(3)] == [True] * 3
    os.environ["STREAM_RNN_FAULT"] = "in_tick:12"  # beyond the event, before the next snapshot
    try:
        assert poisoned.run() == -9
    finally:
        del os.environ["STREAM_RNN_FAULT"]

    assert poisoned.run() == 0

    assert len(poisoned.lines("predictions.jsonl")) == N_EVENTS - 1
    assert poisoned.log.count("quarantined in") == 1
