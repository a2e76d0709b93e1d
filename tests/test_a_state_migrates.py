"""`run --migrate`: another configuration goes on with what fits of the old one's state."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.manifest import read_manifest
from stream_rnn.cli import _exit_code, cli

N, THEN = 360, 240
BASE = {
    "source": '{ kind = "jsonl", path = "events.jsonl" }',
    "task": '{ kind = "regression", target = "y" }',
    "features": '{ numeric = ["x"] }',
    "lanes": '{ key = "id", capacity = 2 }',
    "learner.cell": '{ kind = "gru", units = 4 }',
    "learner.credit": '{ kind = "rtrl" }',
    "learner.fallback": "false",
    "learner.optimizer": '{ kind = "adam", lr = 0.005 }',
    "state": '{ dir = "state", every_events = 120 }',
}
CHANGES: dict[str, dict[str, str]] = {
    "a slower rate": {"learner.optimizer": '{ kind = "adam", lr = 0.002 }'},
    "another optimizer": {"learner.optimizer": '{ kind = "sgd", lr = 0.02 }'},
    "another rule": {"learner.credit": '{ kind = "kf" }'},
    "a fallback": {"learner.fallback": '{ kind = "tbptt", window = 4 }'},
    "more lanes": {"lanes": '{ key = "id", capacity = 5 }'},
    "a feature more": {"features": '{ numeric = ["z", "x"] }'},
    "a layer on top": {
        "learner.cell": '[{ kind = "gru", units = 4 }, { kind = "feedforward", units = 4 }]'
    },
    "a read-out that is solved": {"learner.head_optimizer": '{ kind = "rls" }'},
}


def config(**changes: str) -> str:
    return "".join(f"{key} = {value}\n" for key, value in (BASE | changes).items())


def run(text: str, *options: str) -> int:
    Path("config.toml").write_text(text)
    arguments = ["run", "config.toml", *options]
    return _exit_code(lambda: cli.main(arguments, standalone_mode=False))


def events(first: int, last: int) -> str:
    lines = []
    for i in range(first, last):
        x, z = math.sin(i / 7), (i * 37 % 11) / 11
        lines.append(json.dumps({"id": "ab"[i % 2], "x": x, "z": z, "y": 2 * x + 0.1 * z}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("events.jsonl").write_text(events(0, N))
        assert run(config(), "--max-events", str(THEN)) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(learned, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


def newest() -> snapshot.Loaded:
    return snapshot.read(snapshot.snapshots(Path("state"))[0])


def losses(path: Path) -> list[float]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["scored"]["loss"] for line in lines if line["scored"]]


@pytest.mark.parametrize("change", CHANGES)
def test_a_migrated_run_goes_on_from_its_position_and_predicts_better_than_a_fresh_one(
    place: Path, change: str
) -> None:
    text = config(**CHANGES[change])
    Path("rest").mkdir()
    Path("rest/events.jsonl").write_text(events(THEN, N))

    assert run(text, "--migrate") == 0
    os.chdir("rest")
    assert run(text) == 0

    ours, fresh = (
        losses(place / "state/predictions.jsonl")[THEN:],
        losses(place / "rest/state/predictions.jsonl"),
    )
    assert len(ours) == N - THEN  # none twice, none left out
    assert sum(ours) / len(ours) < sum(fresh) / len(fresh)


def test_without_the_option_another_model_is_refused_with_the_option_named(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(config(**CHANGES["another rule"])) == 78
    assert "--migrate" in capfd.readouterr().err


def test_it_says_what_is_carried_and_what_starts_afresh(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(config(**CHANGES["a feature more"]), "--migrate", "--max-events", "1") == 0

    lines = capfd.readouterr().err.splitlines()
    carried = next(line for line in lines if line.startswith("  carried"))
    fresh = next(line for line in lines if line.startswith("  afresh"))
    assert "recurrence.W_ZM (112 of 128 numbers)" in carried  # rows: [z, x, y before, h.., 1]
    assert "scale of x" in carried
    assert "scale of z" in fresh
    assert "recurrence.credit.G_BSZM" in fresh


def test_a_weight_goes_to_the_input_of_its_name(place: Path) -> None:
    before = newest().tensors["head.V_PF"]
    assert run(config(**CHANGES["a feature more"]), "--migrate", "--max-events", "1") == 0
    moved = snapshot.read(snapshot.snapshots(Path("state"))[0]).tensors["head.V_PF"]

    # [h | z, x, y before | 1]: one update of Adam moves a weight by its rate at most
    torch.testing.assert_close(moved[:, 5:], before[:, 4:], atol=0.006, rtol=0)
    assert abs(float(moved[0, 4])) < 0.006


def test_a_net_that_goes_on_begins_to_listen_to_a_new_input_from_zero(place: Path) -> None:
    assert run(config(**CHANGES["a feature more"]), "--migrate", "--max-events", "1") == 0

    assert newest().tensors["recurrence.W_ZM"][:, 0].abs().max() < 0.006  # one update, at most


def test_more_lanes_keep_the_hidden_states_of_their_keys(place: Path) -> None:
    before = newest().tensors["recurrence.s_BS"]
    assert run(config(**CHANGES["more lanes"]), "--migrate", "--max-events", "1") == 0
    after = newest().tensors["recurrence.s_BS"]

    assert after.shape == (5, 4)
    assert torch.equal(after[1], before[1])  # the one event was the other lane's
    assert not after[2:].any()


def test_the_first_snapshot_records_where_it_comes_from_and_no_other_does(place: Path) -> None:
    origin = newest().fingerprint
    assert run(config(**CHANGES["another rule"]), "--migrate", "--max-events", "1") == 0
    assert newest().migrated_from == {
        "step": THEN,
        "folder": f"step-{THEN:012d}",
        "fingerprint": origin,
    }
    assert run(config(**CHANGES["another rule"]), "--migrate") == 0
    assert newest().migrated_from is None
    assert read_manifest(newest().path).format == 1  # readable by programs before migration


def test_old_snapshots_outlive_the_new_ones(place: Path) -> None:
    old = {path.name for path in snapshot.snapshots(Path("state"))}
    text = config(**CHANGES["another rule"], state='{ dir = "state", every_events = 10, keep = 1 }')

    assert run(text, "--migrate") == 0

    kept = next(Path("state").glob("before-migration-*"))
    assert {snapshot.read(path).path.name for path in kept.iterdir()} == old


def test_a_model_with_nothing_in_common_is_refused(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = newest().path
    assert run(config(**{"learner.cell": '{ kind = "lstm", units = 5 }'}), "--migrate") == 78

    assert "--fresh" in capfd.readouterr().err
    assert newest().path == before
    assert not list(Path("state").glob("before-migration-*"))


def test_another_horizon_lines_both_states_up_at_the_newest_event(place: Path) -> None:
    before = newest().tensors
    changes = {"task": '{ kind = "forecast", target = "y", horizon = 2 }'}
    assert run(config(**changes), "--migrate", "--max-events", "1") == 0

    after = newest().tensors
    assert torch.equal(after["recurrence.s_BS"], before["recurrence.s_BS"])  # waits for 2 events
    assert torch.equal(after["recurrence.ahead_BS"][1], before["recurrence.s_BS"][1])
