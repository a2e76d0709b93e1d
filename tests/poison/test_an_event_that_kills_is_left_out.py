"""A real daemon and an event that ends it: three deaths, then it goes on without the event."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


# One interpreter imports torch and forks a daemon for each start: that takes 0.1 s instead of 5.
STARTER = """
import os, sys
from stream_rnn import checkpoint, commands
from stream_rnn.checkpoint import faults
from stream_rnn.cli import _exit_code, cli
from stream_rnn.scores import Drift

Drift()  # imports what is slow
for line in sys.stdin:
    folder, _, fault = line.rstrip().partition("|")
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        faults._faults = faults._armed(fault)
        os._exit(_exit_code(lambda: cli.main(["run", "config.toml"], standalone_mode=False)))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
Start = Callable[[Path, str], int]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts a daemon in a folder, killed at a fault point if one is given; its exit code."""
    paths = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        ask, answer = starter.stdin, starter.stdout

        def start(folder: Path, fault: str) -> int:
            ask.write(f"{folder}|{fault}\n")
            ask.flush()
            return int(answer.readline())

        yield start
        ask.close()


class Daemon:
    def __init__(
        self, folder: Path, start: Start, poison: dict[str, str], batching: str = "event"
    ) -> None:
        folder.mkdir()
        self.folder, self.start = folder, start
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

    def run(self, fault: str = "") -> int:
        return self.start(self.folder, fault)

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
    tmp_path: Path, start: Start
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", start, BY_CELL)

    assert poisoned.deaths() == 3

    (letter,) = poisoned.lines("state/dead_letters.jsonl")
    assert (letter["stage"], letter["issue"]) == ("poison", "killed")
    assert "3 times in a row" in letter["reason"]
    assert "quarantined" in poisoned.log
    assert len(poisoned.lines("predictions.jsonl")) == N_EVENTS - 1
    kept = json.loads((poisoned.folder / "state/quarantine.json").read_text())
    assert [each["position"] for each in kept["poison"]] in ([letter["position"]], [])
    calm = Daemon(tmp_path / "calm", start, BY_CELL).unreadable()
    assert calm.run() == 0
    assert_same_end(poisoned, calm)


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["event", "log"])
@pytest.mark.parametrize("poison", [BY_CODEC, BY_ABORT, BY_BUG], ids=["kill", "abort", "bug"])
def test_a_death_while_decoding_is_blamed_on_that_event_alone(
    tmp_path: Path, start: Start, poison: dict[str, str], batching: str
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", start, poison, batching)

    assert poisoned.deaths() == 3

    calm = Daemon(tmp_path / "calm", start, poison, batching).unreadable()
    assert calm.run() == 0
    assert_same_end(poisoned, calm)


def test_in_a_block_of_eight_the_culprit_is_found_and_the_other_seven_are_learned(
    tmp_path: Path, start: Start
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", start, BY_CELL, "log")

    assert poisoned.deaths() == 5  # the block twice, then the event three times

    assert poisoned.log.count("events 25..32; tried again as it was") == 1
    assert "events 25..32; fed one by one" in poisoned.log
    (letter,) = poisoned.lines("state/dead_letters.jsonl")
    assert letter["stage"] == "poison"
    # read as they are: fed one by one, an event may be predicted otherwise than in its block
    told = (poisoned.folder / "predictions.jsonl").read_text().splitlines()
    ids = {json.loads(line)["id"] for line in told}
    calm = Daemon(tmp_path / "calm", start, BY_CELL, "log").unreadable()
    assert calm.run() == 0
    assert ids == {line["id"] for line in calm.lines("predictions.jsonl")}


def test_a_kill_after_the_verdict_does_not_try_the_event_again(
    tmp_path: Path, start: Start
) -> None:
    poisoned = Daemon(tmp_path / "poisoned", start, BY_CELL)
    assert [poisoned.run() != 0 for _ in range(3)] == [True] * 3
    assert poisoned.run("in_tick:12") == -9  # beyond the event, before the next snapshot

    assert poisoned.run() == 0

    assert len(poisoned.lines("predictions.jsonl")) == N_EVENTS - 1
    assert poisoned.log.count("quarantined in") == 1
