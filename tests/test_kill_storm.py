"""SIGKILL at any moment: the restarted daemon ends where an undisturbed one does, bit by bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.checkpoint import snapshot

pytestmark = pytest.mark.slow

CONFIG = """
[source]
kind = "jsonl"
path = "../events.jsonl"
[task]
kind = "forecast"
target = "y"
horizon = 2
[features]
numeric = ["y"]
categorical = ["color"]
calendar = { field = "at", cycles = ["hour", "day"] }
lags = { y = [1, 3] }
[lanes]
key = "id"
capacity = 2
batching = "BATCHING"
[learner]
cell = { kind = "gru", units = 8 }
credit = { kind = "ok", rank = 1 }
fallback = { kind = "tbptt", window = 4 }
governor = { trips = 1, cooldown = 50 }
optimizer = { kind = "adam", lr = 0.01 }
[state]
dir = "state"
every_events = 97
[[sink]]
kind = "jsonl"
path = "predictions.jsonl"
"""
BAD = [b"no JSON", b'{"y": null}', b'{"y": 1e30, "id": "a"}', b'{"id": "a"}', b"[1]"]
Outcome = dict[str, Any]


def write_events(path: Path, n: int) -> None:
    chance = random.Random(5)
    with path.open("wb") as file:
        for i in range(n):
            record = {
                "id": chance.choice("aaabbbc"),  # three keys in two lanes: evictions, too
                "y": chance.gauss(10, 3) + i % 7 + (20 if i % 1000 > 500 else 0),  # drifts
                "color": chance.choice(["red", "blue", "green"]),
                "at": 1_700_000_000 + 60 * i,
            }
            line = chance.choice(BAD) if i % 50 == 49 else json.dumps(record).encode()
            file.write(line + b"\n")


def start(folder: Path, fault: str = "") -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "STREAM_RNN_FAULT": fault}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "stream_rnn", "run", "config.toml"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def finish(folder: Path) -> None:
    assert start(folder).wait(600) == 0, (folder / "log").read_text()[-2000:]


@dataclass
class Place:
    folder: Path

    @classmethod
    def make(cls, folder: Path, batching: str = "event") -> "Place":
        folder.mkdir()
        (folder / "config.toml").write_text(CONFIG.replace("BATCHING", batching))
        return cls(folder)

    def lines(self, name: str) -> list[Outcome]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()]

    def first_of_each_id(self, name: str) -> list[Outcome]:
        """What a consumer keeps: the first per id; a later one must say that it is a repetition."""
        kept: dict[str, Outcome] = {}
        for line in self.lines(name):
            told = line.pop("replayed", None)
            line.pop("written_at", None)  # of a dead letter
            if line["id"] in kept:
                assert told is not False, "a repetition that does not say so"
                assert kept[line["id"]] == line, "a repetition that differs"
            kept.setdefault(line["id"], line)
        return list(kept.values())

    def newest(self) -> snapshot.Loaded:
        return snapshot.read(snapshot.snapshots(self.folder / "state")[0])


def last_position(path: Path) -> int:
    """Of the newest whole line; -1 if there is none."""
    if not path.exists():
        return -1
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")
    try:
        return int(json.loads(lines[-2])["position"])
    except (IndexError, ValueError):  # not yet, or its beginning was cut off
        return -1


def assert_same_end(one: Place, other: Place) -> None:
    assert one.first_of_each_id("predictions.jsonl") == other.first_of_each_id("predictions.jsonl")
    letters = "state/dead_letters.jsonl"
    assert one.first_of_each_id(letters) == other.first_of_each_id(letters)
    mine, theirs = one.newest(), other.newest()
    assert mine.positions == theirs.positions
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert [n for n in theirs.tensors if not mine.tensors[n].equal(theirs.tensors[n])] == []
    assert json.loads(mine.host) == json.loads(theirs.host)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("batching", "n_kills", "n_events"), [("event", 20, 6000), ("log", 5, 4000)]
)
def test_a_storm_of_kills_leaves_no_trace(
    tmp_path: Path, batching: str, n_kills: int, n_events: int
) -> None:
    write_events(tmp_path / "events.jsonl", n_events)
    calm, storm = (Place.make(tmp_path / name, batching) for name in ("calm", "storm"))
    finish(calm.folder)
    chance = random.Random(11)
    kills = 0
    predictions = storm.folder / "predictions.jsonl"
    # Places in the stream, not moments: the machine may be slow in one run and fast in the other.
    # Each is beyond the one before: dying of one event again and again means something else.
    length = (tmp_path / "events.jsonl").stat().st_size
    while kills < n_kills:
        place = (kills + chance.uniform(0.1, 0.9)) / n_kills * 0.9 * length
        daemon = start(storm.folder)
        while daemon.poll() is None and last_position(predictions) < place:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.03))
        daemon.send_signal(signal.SIGKILL)
        if daemon.wait(300) != -signal.SIGKILL:
            break
        kills += 1
    assert kills == n_kills, "the stream was over too soon; make it longer"
    finish(storm.folder)
    told = [line["replayed"] for line in storm.lines("predictions.jsonl")]
    assert sum(told) > n_kills
    assert_same_end(storm, calm)
