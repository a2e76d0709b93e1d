"""Every command of docs/operations.md, run in its order beside, and after, a real daemon."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream_rnn.checkpoint import snapshot
from stream_rnn.resuming import newest_readable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PATIENCE_S = 240.0
# the program is not installed where the tests run
SHELL = f'set -euo pipefail\nstream-rnn() {{ "{sys.executable}" -m stream_rnn "$@"; }}\n'


@dataclass
class Section:
    """What became of a section's commands.

    Attributes:
        said: everything they wrote.
        steps: of the snapshots in `state` afterwards, newest first.
    """

    said: str
    steps: list[int]


def sections() -> dict[str, str]:
    """Title -> its commands."""
    found: dict[str, str] = {}
    for part in re.split(r"(?m)^## ", PAGE.read_text())[1:]:
        blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", part)
        if blocks:
            found[part.partition("\n")[0]] = "".join(blocks)
    return found


def steps_of(state: Path) -> list[int]:
    return [snapshot.step_of(path) for path in snapshot.snapshots(state)]


def until_saved(state: Path, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(steps_of(state)) < 3:
        assert daemon.poll() is None, "the daemon ended"
        assert time.monotonic() < deadline, "no snapshots"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations")
    lines = (json.dumps({"y": i * i % 17}) for i in range(4000))
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    (config,) = re.findall(r"(?ms)^```toml\n(.*?)^```$", PAGE.read_text())
    (folder / "config.toml").write_text(config)
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Section]:
    """All sections, done; a daemon runs beside those that say so."""
    results: dict[str, Section] = {}
    command = [sys.executable, "-m", "stream_rnn", "run", "config.toml", "--max-events", "3000"]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            until_saved(folder / "state", daemon)
            for title, commands in sections().items():
                if title == "Another configuration":
                    daemon.send_signal(signal.SIGTERM)
                    assert daemon.wait(PATIENCE_S) == 0
                said = subprocess.run(
                    ["bash", "-c", SHELL + commands],
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                assert said.returncode == 0, f"{title}:\n{said.stdout}"
                results[title] = Section(said.stdout, steps_of(folder / "state"))
        finally:
            daemon.kill()
            daemon.wait()
    return results


def test_the_page_has_these_drills_and_no_other(done):
    assert list(done) == [
        "Backup",
        "Restore, and the drill",
        "A new version",
        "Another configuration",
        "Back to an earlier state",
    ]


def test_a_backup_made_while_the_daemon_runs_goes_on_where_it_was_made(done, folder):
    (step,) = re.findall(r"(?m)^ok   step-0*(\d+) ", done["Restore, and the drill"].said)
    assert f"resumes at step {step} " in done["Restore, and the drill"].said
    assert steps_of(folder / "restored")[0] == int(step) + 200


def test_a_plain_copy_made_while_the_daemon_runs_has_a_sound_snapshot(done, folder):
    assert newest_readable(snapshot.snapshots(folder / "copied")) is not None


def test_another_configuration_is_refused_with_what_differs(done, folder):
    refused = (folder / "refused.txt").read_text()
    assert "holds another model" in refused
    assert re.search(r"lr.*0\.01.*0\.003", refused)


def test_a_migrated_state_goes_on_with_the_next_event(done, folder):
    kept = snapshot.read(snapshot.snapshots(folder / "migrated")[0])
    assert kept.config["learner"]["optimizer"]["lr"] == 0.003
    said = done["Another configuration"].said
    (before,) = set(re.findall(r"resumes at step (\d+) from (?=step)", said)) - {str(kept.step)}
    assert kept.step == int(before) + 200


def test_the_state_from_before_a_migration_comes_back(done):
    assert done["Another configuration"].said.count("resumes at step") == 2
    (step,) = set(re.findall(r"resumes at step (\d+)", done["Another configuration"].said))
    assert done["Another configuration"].steps[0] == int(step) + 200


def test_going_back_continues_from_the_snapshot_chosen_and_deletes_nothing(done, folder):
    newest, chosen = done["Another configuration"].steps[:2]
    assert f"resumes at step {chosen} " in done["Back to an earlier state"].said
    assert done["Back to an earlier state"].steps[0] == chosen + 200
    (aside,) = (folder / "state").glob("rolled-back-*")
    assert steps_of(aside) == [newest]
