"""`stream-rnn ckpt`: list, show, compare, verify, go back, take out."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stream_rnn import app, config
from stream_rnn.checkpoint import snapshot
from stream_rnn.checkpoint.rollback import roll_back
from stream_rnn.checkpoint.snapshot import snapshots
from stream_rnn.cli import _exit_code, cli

CONFIG = """
source = { kind = "synthetic", n = 60 }
task = { kind = "forecast", target = "value" }
[learner]
cell = { kind = "gru", units = 3 }
credit = { kind = "rtrl" }
[state]
dir = "state"
every_events = 1000
"""


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and the state it came to: steps 20, 40 and 60."""
    folder = tmp_path_factory.mktemp("learned")
    (folder / "config.toml").write_text(CONFIG)
    before = Path.cwd()
    os.chdir(folder)
    try:
        arguments = ["run", "config.toml", "--max-events", "20"]
        for _ in range(3):  # each leaves a snapshot behind
            assert _exit_code(lambda: cli.main(arguments, standalone_mode=False)) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(learned, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


def told(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capfd.readouterr()
    assert _exit_code(lambda: cli.main(list(arguments), standalone_mode=False)) == code
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return out + err


def spoil(folder: Path) -> None:
    path = folder / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_ls_lists_the_newest_first_with_positions(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = told(capfd, "ckpt", "ls", "config.toml").splitlines()

    assert [line.split()[0] for line in lines[1:]] == [
        "step-000000000060",
        "step-000000000040",
        "step-000000000020",
    ]
    assert lines[1].endswith('yes       {"synthetic": 59}')


def test_ls_says_which_one_is_damaged(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spoil(place / "state" / "step-000000000040")

    lines = told(capfd, "ckpt", "ls", "state").splitlines()

    assert ["DAMAGED" in line for line in lines[1:]] == [False, True, False]


def test_verify_is_content_with_sound_ones(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(capfd, "ckpt", "verify", "state").count("ok ") == 3


def test_verify_exits_1_and_names_the_damaged(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(place / "state" / "step-000000000040")
    (place / "state" / "step-000000000020").rename(place / "state" / "damaged-step-000000000020")

    text = told(capfd, "ckpt", "verify", "state", code=1)

    assert "BAD  step-000000000040" in text
    assert "BAD  damaged-step-000000000020" in text


def test_diff_tells_how_far_each_tensor_moved(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = told(capfd, "ckpt", "diff", "state/step-000000000020", "state")

    assert "source synthetic: 19 -> 59 (+40)" in text
    changes = {line.split()[0]: line.split()[1] for line in text.splitlines() if "[" in line}
    assert 0 < float(changes["recurrence.W_ZM"]) < 1
    assert float(changes["update.count"]) > 1.9  # 20 ticks, then 60: about three times the count
    assert "settings\n  same" in text


def test_a_rollback_moves_newer_ones_aside_and_the_next_run_goes_on_from_there(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = told(capfd, "ckpt", "rollback", "config.toml", "--to", "20")

    assert "source synthetic: 59 -> 19 (-40)" in text
    assert "learned again" in text
    aside = next((place / "state").glob("rolled-back-*"))
    assert sorted(p.name for p in aside.iterdir()) == ["step-000000000040", "step-000000000060"]
    assert "resumes at step 20" in told(capfd, "run", "config.toml")
    assert snapshots(place / "state")[0].name == "step-000000000060"


@pytest.mark.parametrize(
    ("tables", "consequence"),
    [
        ('[source]\nkind = "zeromq"\n[journal]\n', "learned again, from the journal"),
        ('[source]\nkind = "zeromq"\n', "cannot rewind"),
        ('[source]\nkind = "zeromq_router"\n', "acknowledged may be gone at the source"),
    ],
)
def test_a_rollback_tells_whether_the_events_in_between_come_again(
    place: Path, capfd: pytest.CaptureFixture[str], tables: str, consequence: str
) -> None:
    (place / "other.toml").write_text(f'{tables}[state]\ndir = "state"\n')
    assert consequence in told(capfd, "ckpt", "rollback", "other.toml", "--to", "20")


def test_learning_again_after_a_rollback_comes_to_the_same_parameters(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (place / "state/step-000000000060/state.safetensors").read_bytes()
    told(capfd, "ckpt", "rollback", "config.toml", "--to", "step-000000000020")

    told(capfd, "run", "config.toml")

    assert (place / "state/step-000000000060/state.safetensors").read_bytes() == before


def test_a_rollback_raises_the_epoch(place: Path) -> None:
    before = int((place / "state/epoch").read_text())

    assert roll_back(place / "state", "20").epoch == before + 1
    assert int((place / "state/epoch").read_text()) == before + 1


def test_a_rollback_is_refused_while_a_daemon_holds_the_folder(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (place / "state/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = told(capfd, "ckpt", "rollback", "state", "--to", "20", code=78)

    assert "in use by process" in text
    assert len(snapshots(place / "state")) == 3


def test_a_rollback_to_a_damaged_snapshot_is_refused_and_moves_nothing(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(place / "state/step-000000000020")

    told(capfd, "ckpt", "rollback", "state", "--to", "20", code=78)

    assert len(snapshots(place / "state")) == 3


def test_a_rollback_to_nowhere_names_what_there_is(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = told(capfd, "ckpt", "rollback", "state", "--to", "30", code=78)

    assert "no snapshot '30' (there are: step-000000000060" in text


def test_an_export_of_parameters_holds_what_predicts_and_nothing_else(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told(capfd, "ckpt", "export", "state", "newest", "model.safetensors")

    with safe_open("model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["head.V_PF", "recurrence.W_ZM"]
    described = json.loads(Path("model.json").read_text())
    assert described["step"] == 60
    assert described["model"]["learner"]["cell"] == {"kind": "gru", "units": 3}


def parameters(file: str) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("cell", "readout"),
    [
        ('{ kind = "gru", units = 3 }', '{ kind = "fptt" }'),
        ('[{ kind = "rtu", units = 3 }, { kind = "feedforward", units = 2 }]', '{ kind = "rls" }'),
    ],
    ids=["one tensor", "several of one shape"],
)
def test_an_export_of_means_is_what_a_learner_would_evaluate_with(
    cell: str,
    readout: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace('{ kind = "gru", units = 3 }', cell).replace(
        'credit = { kind = "rtrl" }', f'optimizer = {{ kind = "fptt" }}\nhead_optimizer = {readout}'
    )
    Path("config.toml").write_text(text)
    told(capfd, "run", "config.toml")
    told(capfd, "ckpt", "export", "state", "newest", "model.safetensors")
    told(capfd, "ckpt", "export", "state", "newest", "mean.safetensors", "--mean")

    learner = app.build(config.load(Path("config.toml"))).engine.learner
    learner.load_state_dict(dict(snapshot.read(snapshots(Path("state"))[0]).tensors))
    with learner.evaluation_weights():
        truth = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    mean, learned = parameters("mean.safetensors"), parameters("model.safetensors")
    assert mean.keys() == learned.keys()
    assert all(torch.equal(tensor, truth[name]) for name, tensor in mean.items())
    for name, tensor in mean.items():
        solved = name.startswith("head.") and "rls" in readout
        assert torch.equal(tensor, learned[name]) == solved
    assert json.loads(Path("mean.json").read_text())["parameters"] == "running means"


@pytest.mark.parametrize(
    ("file", "message"),
    [("mean.safetensors", "no running means"), ("whole.tar", "a .tar holds the means already")],
)
def test_means_that_nobody_keeps_are_not_exported(
    file: str, message: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in told(capfd, "ckpt", "export", "state", "newest", file, "--mean", code=78)
    assert not Path(file).exists()


def test_an_exported_tar_unpacked_in_a_state_folder_is_the_snapshot(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told(capfd, "ckpt", "export", "config.toml", "20", "whole.tar")
    shutil.rmtree("state")
    with tarfile.open("whole.tar") as tar:
        tar.extractall("state", filter="data")

    assert "resumes at step 20" in told(capfd, "run", "config.toml")


def test_an_export_never_overwrites_a_file(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("model.json").write_text("mine")

    assert "exists already" in told(
        capfd, "ckpt", "export", "state", "newest", "model.safetensors", code=78
    )
    assert Path("model.json").read_text() == "mine"
    assert not Path("model.safetensors").exists()


def test_a_forged_snapshot_does_not_steer_the_terminal(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = place / "state/step-000000000060"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["created"] = "\x1b[2J"
    (folder / "manifest.json").write_text(json.dumps(manifest))

    assert "\x1b" not in told(capfd, "ckpt", "ls", "state")


@pytest.mark.parametrize(
    "arguments", [("ls", "state"), ("ls", "config.toml"), ("show", "state"), ("verify", "state")]
)
def test_another_user_s_folder_is_named_with_the_remedy(place, capfd, monkeypatch, arguments):
    monkeypatch.setattr(os, "access", lambda *given, **more: False)
    listed = os.listdir

    def denied(path: object = ".") -> list[str]:  # root may look into what is 0000
        if Path(str(path)).name == "state":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(str(path))

    monkeypatch.setattr(os, "listdir", denied)
    said = told(capfd, "ckpt", *arguments, code=78)
    assert "state: this user may not read it; be the daemon's user or root" in said


@pytest.mark.parametrize(
    "arguments",
    [("ckpt", "show", "state"), ("ckpt", "diff", "state", "state"), ("show", "state")],
    ids=" ".join,
)
def test_a_folder_that_may_not_be_searched_is_named_with_the_remedy(
    place, capfd, monkeypatch, arguments
):
    asked = os.stat

    def denied(path: Any, **more: Any) -> os.stat_result:
        if Path(path).parent.name == "state":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return asked(path, **more)

    monkeypatch.setattr(os, "stat", denied)
    said = told(capfd, *arguments, code=78)
    assert "stream-rnn: state: this user may not read it; be the daemon's user or root" in said


def test_one_snapshot_of_another_user_is_listed_beside_the_others(place, capfd, monkeypatch):
    newest, listed = snapshots(Path("state"))[0].name, os.listdir

    def denied(path: object = ".") -> list[str]:
        if Path(str(path)).name == newest:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(str(path))

    monkeypatch.setattr(os, "listdir", denied)
    _, first, *others = told(capfd, "ckpt", "ls", "state").splitlines()
    assert first.split()[:2] == [newest, "no"]
    assert "this user may not read or write it; be the daemon's user or root" in first
    assert others
    assert all(" yes " in line for line in others)
