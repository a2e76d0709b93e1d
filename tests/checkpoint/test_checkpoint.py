from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.snapshot import Snapshot, read, snapshots
from stream_rnn.checkpoint.store import Store

FILES = ["state.safetensors", "host.json", "manifest.json"]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "cut in the header": lambda data: data[:9],
    "half": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "appended": lambda data: data + b"\n",
    "zeroed": lambda data: bytes(len(data)),
    "first bit flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "middle bit flipped": lambda data: flipped(data, len(data) * 4),
    "last bit flipped": lambda data: flipped(data, len(data) * 8 - 1),
}


# White space behind a manifest says the same as none: not damage.
DAMAGED = [(f, d) for f in FILES for d in DAMAGE if (f, d) != ("manifest.json", "appended")]


def test_only_the_newest_are_kept(directory: Path, snapshot: Callable[..., Snapshot]) -> None:
    store = Store(directory, keep=2)
    store.open()
    for step in (1, 5, 9, 10):
        store.save(snapshot(step))
    store.close()

    assert [path.name for path in snapshots(directory)] == [
        "step-000000000010",
        "step-000000000009",
    ]
    assert sorted(os.listdir(directory)) == [  # noqa: PTH208
        "epoch",
        "lock",
        "step-000000000009",
        "step-000000000010",
    ]


def test_keep_must_be_at_least_one(directory: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Store(directory, keep=0)


def test_saving_a_step_again_replaces_it(store: Store, snapshot: Callable[..., Snapshot]) -> None:
    store.save(snapshot(1))
    store.save(snapshot(2))
    for marker in (b"1", b"2", b"3"):
        store.save(replace(snapshot(2), host=marker))

    loaded = store.newest()

    assert loaded is not None
    assert (loaded.step, loaded.host) == (2, b"3")
    assert len(snapshots(store.directory)) == 2


def test_a_step_behind_the_newest_is_refused(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    store.save(snapshot(100))
    with pytest.raises(CheckpointError, match="newer than step 7"):
        store.save(snapshot(7))


def test_the_line_of_learning_is_recorded(
    two: Path, open_store: Callable[[Path], Store], snapshot: Callable[..., Snapshot]
) -> None:
    store = open_store(two)
    store.newest()

    saved = store.save(snapshot(30))

    loaded = read(saved.path)
    assert (loaded.parent, loaded.epoch) == (20, 2)


def test_leftovers_of_a_killed_writer_are_removed(
    two: Path, open_store: Callable[[Path], Store]
) -> None:
    (two / ".tmp-21-4242").mkdir()
    (two / ".tmp-21-4242" / "state.safetensors").write_bytes(b"torso")
    (two / ".tmp-epoch-4242").write_text("3")

    loaded = open_store(two).newest()

    assert loaded is not None
    assert loaded.fallbacks == []
    assert list(two.glob(".tmp*")) == []


def test_files_of_others_in_the_folder_are_left_alone(
    two: Path, open_store: Callable[[Path], Store]
) -> None:
    (two / "attempt").write_bytes(bytes(16))
    (two / "step-7").mkdir()
    (two / "step-000000000099").symlink_to("/")

    store = open_store(two)
    loaded = store.newest()

    assert loaded is not None
    assert loaded.step == 20
    assert (two / "attempt").exists()
    assert (two / "step-7").exists()


@pytest.mark.parametrize(("file", "damage"), DAMAGED)
def test_a_damaged_file_is_noticed_and_the_snapshot_before_is_used(
    two: Path,
    open_store: Callable[[Path], Store],
    file: str,
    damage: str,
    caplog: pytest.LogCaptureFixture,
    step_folder: Callable[[Path, int], Path],
) -> None:
    path = step_folder(two, 20) / file
    intact = path.read_bytes()
    path.write_bytes(DAMAGE[damage](intact))
    assert path.read_bytes() != intact

    loaded = open_store(two).newest()

    assert loaded is not None
    assert loaded.step == 10
    assert len(loaded.fallbacks) == 1
    assert str(path) in loaded.fallbacks[0]
    assert "snapshot damaged" in caplog.text


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_damage(
    two: Path,
    open_store: Callable[[Path], Store],
    file: str,
    step_folder: Callable[[Path, int], Path],
) -> None:
    (step_folder(two, 20) / file).unlink()

    loaded = open_store(two).newest()

    assert loaded is not None
    assert loaded.step == 10


@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(
    prepared: Path, data: st.DataObject, step_folder: Callable[[Path, int], Path]
) -> None:
    file = data.draw(st.sampled_from(FILES))
    path = step_folder(prepared, 20) / file
    intact = path.read_bytes()
    bit = data.draw(st.integers(0, len(intact) * 8 - 1))
    path.write_bytes(flipped(intact, bit))
    try:
        with pytest.raises(CheckpointError):
            read(path.parent)
    finally:
        path.write_bytes(intact)


def test_learning_after_a_fallback_is_not_shadowed_by_the_damage(
    two: Path,
    open_store: Callable[[Path], Store],
    snapshot: Callable[..., Snapshot],
    step_folder: Callable[[Path, int], Path],
) -> None:
    (step_folder(two, 20) / "host.json").write_bytes(b"")
    store = open_store(two)
    store.newest()

    store.save(snapshot(15))

    loaded = store.newest()
    assert loaded is not None
    assert (loaded.step, loaded.parent, loaded.fallbacks) == (15, 10, [])
    assert (two / "damaged-step-000000000020").is_dir()


def test_when_all_are_damaged_nothing_starts_afresh(
    two: Path, open_store: Callable[[Path], Store], step_folder: Callable[[Path, int], Path]
) -> None:
    for step in (10, 20):
        (step_folder(two, step) / "state.safetensors").write_bytes(b"")
    store = open_store(two)

    for _ in range(2):  # and again at the next restart
        with pytest.raises(CheckpointError, match=r"no snapshot can be trusted.*--fresh"):
            store.newest()
    assert len(snapshots(two)) == 2


def test_a_folder_renamed_by_hand_is_not_trusted(
    two: Path, step_folder: Callable[[Path, int], Path]
) -> None:
    renamed = step_folder(two, 20).rename(step_folder(two, 99))
    with pytest.raises(CheckpointError, match="holds step 20"):
        read(renamed)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_state_is_refused_and_the_old_stands(
    store: Store, bad: float, snapshot: Callable[..., Snapshot]
) -> None:
    store.save(snapshot(1))
    poisoned = torch.ones(5)
    poisoned[3] = bad

    with pytest.raises(CheckpointError, match=r"'net.W' of step 2 holds non-finite"):
        store.save(snapshot(2, **{"net.W": poisoned}))

    loaded = store.newest()
    assert loaded is not None
    assert loaded.step == 1
    assert list(store.directory.glob(".tmp*")) == []


@pytest.mark.parametrize(
    "unsavable",
    [
        {"host": b"{"},
        {"step": -1},
        {"step": 10**18},
        {"positions": {"main": {"0": 1.5}}},
        {"tensors": {"Z": torch.zeros(2, dtype=torch.complex64)}},
    ],
    ids=["host", "negative step", "huge step", "position", "complex"],
)
def test_what_could_not_be_read_back_is_not_written(
    store: Store, unsavable: dict[str, Any], snapshot: Callable[..., Snapshot]
) -> None:
    with pytest.raises(CheckpointError):
        store.save(replace(snapshot(2), **unsavable))

    assert snapshots(store.directory) == []
    assert list(store.directory.glob(".tmp*")) == []


def test_a_full_disk_leaves_the_old_snapshot_and_heals_by_itself(
    small_disk: Path, snapshot: Callable[..., Snapshot]
) -> None:
    store = Store(small_disk / "state")
    store.open()
    store.save(snapshot(1, W=torch.ones(100_000)))  # 400 kB of 1 MB

    with pytest.raises(CheckpointError, match="No space left on device"):
        store.save(snapshot(2, W=torch.ones(200_000)))

    loaded = store.newest()
    assert loaded is not None
    assert loaded.step == 1
    assert loaded.fallbacks == []
    store.save(snapshot(3, W=torch.ones(100_000)))  # nothing was left behind
    store.close()
