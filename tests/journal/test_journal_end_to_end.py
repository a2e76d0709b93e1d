"""A daemon behind a journal, killed at every stage: each event is applied once, bit by bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.faults import JOURNAL_STAGES

N = 240
CONFIG = """
[source]
kind = "upstream:Broker"
folder = "."
keeps = KEEPS
most = 16
[journal]
fsync_every = 16
segment_bytes = 4096
max_bytes = 65536
[task]
kind = "forecast"
target = "y"
[features]
numeric = ["y"]
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "ok", rank = 1 }
optimizer = { kind = "adam", lr = 0.01 }
[state]
every_events = 23
"""


class Place:
    """A folder with a stream, a broker's memory and a daemon's state."""

    def __init__(self, folder: Path, keeps: bool = True, n: int = N) -> None:
        folder.mkdir()
        self.folder = folder
        self.n = n
        (folder / "config.toml").write_text(CONFIG.replace("KEEPS", str(keeps).lower()))
        chance = random.Random(5)
        lines = [json.dumps({"y": chance.gauss(0, 1) + i % 5}) + "\n" for i in range(n)]
        (folder / "events.jsonl").write_text("".join(lines))

    def start(self, fault: str = "") -> subprocess.Popen[bytes]:
        upstream = str(Path(__file__).parent)
        path = os.pathsep.join([upstream, os.environ.get("PYTHONPATH", str(Path.cwd()))])
        # in torch: the native step would be through with the stream before anything is killed
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "STREAM_RNN_NATIVE": "off"}
        environment = os.environ | own
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "stream_rnn", "run", "config.toml"],
                cwd=self.folder,
                env=environment | {"STREAM_RNN_FAULT": fault},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def run(self, fault: str = "") -> int:
        return self.start(fault).wait(300)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def newest(self) -> snapshot.Loaded:
        return snapshot.read(snapshot.snapshots(self.folder / "state")[0])

    def learned(self) -> dict[str, str]:
        """Prediction by id, the first of each; a later one must say so and be the same."""
        kept: dict[str, str] = {}
        for line in (self.folder / "state/predictions.jsonl").read_text().splitlines():
            record = json.loads(line)
            told = record.pop("replayed")
            text = json.dumps(record)
            assert kept.setdefault(record["id"], text) == text
            assert told or record["id"] not in list(kept)[:-1]
        return kept


def assert_same_end(one: Place, other: Place) -> None:
    assert one.learned() == other.learned()
    mine, theirs = one.newest(), other.newest()
    assert mine.positions == theirs.positions
    assert [n for n in theirs.tensors if not mine.tensors[n].equal(theirs.tensors[n])] == []
    assert json.loads(mine.host) == json.loads(theirs.host)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What comes out when nothing happens."""
    place = Place(tmp_path_factory.mktemp("journal") / "calm")
    assert place.run() == 0, place.log()
    assert place.newest().positions["source"] == {"journal": N}
    return place


@pytest.mark.slow
@pytest.mark.parametrize("passage", [1, 3])
@pytest.mark.parametrize("stage", JOURNAL_STAGES)
def test_a_kill_at_any_stage_of_the_journal_leaves_no_trace(
    tmp_path: Path, calm: Place, stage: str, passage: int
) -> None:
    place = Place(tmp_path / "killed")
    assert place.run(f"{stage}:{passage}") == -signal.SIGKILL, place.log()
    assert place.run(f"{stage}:1") == -signal.SIGKILL, place.log()
    assert place.run() == 0, place.log()
    assert_same_end(place, calm)
    acked = [
        json.loads(line.split(" ack ")[1].replace("'", '"'))["line"]
        for line in (place.folder / "upstream.log").read_text().splitlines()
        if " ack " in line
    ]
    assert acked == sorted(acked)
    assert acked[-1] == N


@pytest.mark.slow
def test_kills_at_any_moment_leave_no_trace(tmp_path: Path) -> None:
    """Each after an event that no life before it attempted: three at the same one are poison."""
    # long enough that no daemon is through before it is killed, however late that comes
    calm, place = (Place(tmp_path / name, n=5 * N) for name in ("calm", "storm"))
    assert calm.run() == 0, calm.log()
    chance = random.Random(3)
    predictions = place.folder / "state/predictions.jsonl"

    def reached() -> int:
        return predictions.read_text().count('"replayed":false') if predictions.exists() else 0

    kills = 0
    for _ in range(6):
        before = reached()
        daemon = place.start()
        while daemon.poll() is None and reached() <= before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.05))
        daemon.kill()
        kills += daemon.wait(300) == -signal.SIGKILL
    assert kills >= 3
    assert place.run() == 0, place.log()
    assert_same_end(place, calm)


@pytest.mark.slow
@pytest.mark.parametrize("stage", JOURNAL_STAGES[:4])
def test_a_source_that_keeps_nothing_loses_what_was_not_flushed_and_nothing_else(
    tmp_path: Path, stage: str
) -> None:
    place = Place(tmp_path / "forgetful", keeps=False)
    assert place.run(f"{stage}:3") == -signal.SIGKILL
    assert place.run() == 0, place.log()
    applied = place.newest().positions["source"]["journal"]
    # Of the third group of 16 events, what never reached the disk is gone. A killed *process*
    # loses no write; the page cache outlives it.
    assert applied == N - (16 if stage == "journal_append" else 0)
    assert len(place.learned()) == applied


@pytest.mark.slow
def test_a_journal_shows_in_what_a_person_reads(tmp_path: Path) -> None:
    place = Place(tmp_path / "one", n=40)
    assert place.run() == 0, place.log()
    log = place.log()
    assert "through the journal state/journal" in log
    assert "guarantee    replayable from the journal on" in log
    assert "before the journal at least once" in log
    config = (place.folder / "config.toml").read_text()
    without = config[: config.index("[journal]")] + config[config.index("[task]") :]
    (place.folder / "config.toml").write_text(without)
    assert place.run() == 78
    assert "was learned through a journal, up to its event 40" in place.log()
    (place.folder / "config.toml").write_text(config)
    segment = min((place.folder / "state/journal").glob("*.journal"))
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    assert place.run() == 78
    assert f"[journal] state/journal/{segment.name} at byte" in place.log()
    assert 'set on_damage = "skip"' in place.log()
