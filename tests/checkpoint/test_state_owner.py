from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.checkpoint.files import CheckpointError, Fenced, Forbidden, StateLocked
from stream_rnn.checkpoint.owner import move_aside
from stream_rnn.checkpoint.snapshot import Snapshot, read, snapshots
from stream_rnn.checkpoint.store import Store

ROOT = Path(__file__).parents[2]


def test_a_second_process_is_told_the_owners_pid(store: Store) -> None:
    script = (
        "import sys; from pathlib import Path; from stream_rnn.checkpoint.store import *\n"
        "from stream_rnn.checkpoint.owner import *\n"
        "assert 'torch' not in sys.modules\n"
        "try: Store(Path(sys.argv[1])).open()\n"
        "except StateLocked as error: print(error)\n"
        "try: move_aside(Path(sys.argv[1]))\n"
        "except StateLocked as error: print(error)\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", script, store.directory],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )

    lines = second.stdout.splitlines()
    assert len(lines) == 2
    assert all(f"in use by process {os.getpid()};" in line for line in lines)


def test_open_waits_for_a_process_that_leaves(store: Store) -> None:
    later = threading.Timer(0.1, store.close)
    later.start()
    successor = Store(store.directory)

    successor.open(wait_s=120)

    assert successor.epoch == 2
    successor.close()
    later.join()


def test_a_closed_folder_can_be_opened_again(store: Store) -> None:
    with pytest.raises(StateLocked):
        Store(store.directory).open()
    store.close()
    successor = Store(store.directory)
    successor.open()
    successor.close()


def test_every_open_starts_a_higher_epoch(directory: Path) -> None:
    epochs = []
    for _ in range(3):
        store = Store(directory)
        store.open()
        epochs.append(store.epoch)
        store.close()

    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("content", [None, b"", b"garbage\n", b"9" * 40])
def test_a_lost_epoch_file_does_not_let_the_epoch_fall_back(
    two: Path,
    open_store: Callable[[Path], Store],
    content: bytes | None,
    forged: Callable[..., Path],
    step_folder: Callable[[Path, int], Path],
) -> None:
    forged(step_folder(two, 20), epoch=41)
    (two / "epoch").unlink()
    if content is not None:
        (two / "epoch").write_bytes(content)

    assert open_store(two).epoch == 42


def test_a_writer_that_finds_a_higher_epoch_writes_nothing(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    store.save(snapshot(1))
    (store.directory / "epoch").write_text("2\n")

    with pytest.raises(Fenced, match="epoch 2 appeared, this process is epoch 1"):
        store.save(snapshot(2))

    assert [path.name for path in snapshots(store.directory)] == ["step-000000000001"]


def test_a_writer_whose_folder_was_replaced_writes_nothing(
    store: Store, open_store: Callable[[Path], Store], snapshot: Callable[..., Snapshot]
) -> None:
    store.directory.rename(store.directory.with_name("elsewhere"))
    open_store(store.directory)

    with pytest.raises(Fenced, match="moved or replaced"):
        store.save(snapshot(1))

    assert snapshots(store.directory) == []


def test_a_file_in_the_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(CheckpointError, match="check the path"):
        Store(tmp_path / "state").open()


def test_another_user_s_folder_is_refused_with_the_remedy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    opened, lock = os.open, store.directory / "lock"

    def denied(path: Any, *arguments: Any, **more: Any) -> int:  # root may open what is 0000
        if Path(path) == lock:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(Forbidden, match=rf"{lock}: this user may not read or write it; .*chown"):
        store.open()


def test_a_store_that_is_not_open_says_so(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"call open\(\) first"):
        Store(directory).newest()


def test_move_aside_keeps_everything(
    two: Path, open_store: Callable[[Path], Store], step_folder: Callable[[Path, int], Path]
) -> None:
    (two / "attempt").write_bytes(b"mark")

    old = move_aside(two)

    assert old is not None
    assert not two.exists()
    assert old.name.startswith("two.old-2")
    assert read(step_folder(old, 20)).step == 20
    assert (old / "attempt").read_bytes() == b"mark"
    assert open_store(two).newest() is None


def test_moving_aside_twice_in_a_second_overwrites_nothing(prepared: Path, tmp_path: Path) -> None:
    moved = [move_aside(shutil.copytree(prepared, tmp_path / "state")) for _ in range(3)]

    assert len(set(moved)) == 3
    assert all(path is not None and len(snapshots(path)) == 2 for path in moved)


def test_nothing_to_move_aside_is_none(directory: Path) -> None:
    assert move_aside(directory) is None


def test_a_mount_point_is_emptied_into_a_folder_inside(
    small_disk: Path, prepared: Path, open_store: Callable[[Path], Store]
) -> None:
    shutil.copytree(prepared, small_disk, dirs_exist_ok=True)

    old = move_aside(small_disk)

    assert old is not None
    assert old.parent == small_disk
    assert len(snapshots(old)) == 2
    store = open_store(small_disk)
    assert store.newest() is None
    assert store.epoch == 2
    store.close()
