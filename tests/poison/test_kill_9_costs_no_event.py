"""Killed from outside a hundred times, mostly in the middle of slow events: none is blamed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
N_KILLS = 100
CONFIG = """
source = { kind = "jsonl", path = "events.jsonl" }
codec = { kind = "killers:Codec", slow_s = 0.005 }
task = { kind = "regression", target = "y" }
features = { numeric = ["x"] }
learner = { cell = { kind = "tanh", units = 4 }, credit = { kind = "tbptt", window = 4 } }
state = { dir = "state", every_events = 10 }
limits = { poll_events = 10 }
"""

# One interpreter imports torch and forks a daemon for each kill: starting costs nothing then.
STORM = """
import os, random, signal, sys, time
from pathlib import Path
from stream_rnn import commands  # imports torch
from stream_rnn.cli import cli
from stream_rnn.checkpoint.attempt import AttemptMark
from stream_rnn.scores import Drift

Drift()  # imports what is slow
written = Path("state/predictions.jsonl")
chance, in_attempt, newest = random.Random(7), 0, 0
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        sys.stderr = open("log", "a")
        cli.main(["run", "config.toml"], standalone_mode=False)
        os._exit(3)
    size = written.stat().st_size if written.exists() else 0
    while not written.exists() or written.stat().st_size <= size:
        time.sleep(0.01)
    time.sleep(chance.uniform(0.0, 0.4))
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    mark = AttemptMark(Path("state/attempt"))
    if mark.path.exists():
        mark.open(); mark.close()
        in_attempt += mark.died_in is not None
        newest = mark.value
print(in_attempt, newest)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_kills_from_outside_quarantine_nothing(tmp_path: Path) -> None:
    with (tmp_path / "events.jsonl").open("w") as file:
        for i in range(60_000):
            file.write(json.dumps({"x": i % 11, "y": i * 37 % 23}) + "\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    paths = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    storm = subprocess.run(
        [sys.executable, "-c", STORM, str(N_KILLS)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    in_attempt, newest = map(int, storm.stdout.split())
    assert in_attempt > N_KILLS / 2, "the kills hit something else than events"
    assert newest > N_KILLS, "no progress was made"
    kept = json.loads((tmp_path / "state/quarantine.json").read_text())
    assert kept["poison"] == []
    log = (tmp_path / "log").read_text()
    assert log.count("tried again ") > N_KILLS / 2  # counted, and forgiven
    assert "quarantined" not in log
    letters = tmp_path / "state/dead_letters.jsonl"
    assert not letters.exists() or letters.read_text() == ""
