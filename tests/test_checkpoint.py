from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stream_rnn.checkpoint import (
    FORMAT,
    STAGES,
    CheckpointError,
    Failure,
    Fenced,
    SavedInfo,
    Snapshot,
    SnapshotWriter,
    StateLocked,
    Store,
    UnknownFormat,
    move_aside,
    read,
    snapshots,
)

ROOT = Path(__file__).parents[1]
FILES = ["state.safetensors", "host.json", "manifest.json"]
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


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def snapshot(step: int, **tensors: Tensor) -> Snapshot:
    return Snapshot(
        step=step,
        tensors=tensors or {"W": torch.full((3, 4), float(step)), "counts": torch.arange(3)},
        host=json.dumps({"events": step, "name": "é"}).encode(),
        positions={"main": {"0": step, "log": f"{step:020d}-0"}},
        fingerprint="f1",
        config={"learner": {"cell": "gru", "rate": 1e-3}},
        execution={"torch": "2", "device": "cpu"},
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    opened = Store(directory)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with steps 10 and 20, to be copied: a copy needs no fsync."""
    folder = tmp_path_factory.mktemp("prepared") / "state"
    writer = Store(folder)
    writer.open()
    writer.save(snapshot(10))
    writer.save(snapshot(20))
    writer.close()
    return folder


@pytest.fixture
def two(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "two")


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:012d}"


@pytest.fixture
def open_store() -> Iterator[Callable[[Path], Store]]:
    opened: list[Store] = []

    def opener(folder: Path) -> Store:
        opened.append(Store(folder))
        opened[-1].open()
        return opened[-1]

    yield opener
    for each in opened:
        each.close()


# -------------------------------------------------------------------------------------- round trip


def test_everything_comes_back(store: Store) -> None:
    original = snapshot(1234)

    saved = store.save(original)
    loaded = store.newest()

    assert loaded is not None
    assert loaded.path == saved.path == store.directory / "step-000000001234"
    for name in ("step", "host", "positions", "fingerprint", "config", "execution"):
        assert getattr(loaded, name) == getattr(original, name), name
    assert loaded.tensors.keys() == original.tensors.keys()
    assert all(torch.equal(loaded.tensors[k], t) for k, t in original.tensors.items())
    assert (loaded.epoch, loaded.parent, loaded.fallbacks) == (1, None, [])
    assert saved.size_bytes == sum(file.stat().st_size for file in saved.path.iterdir())
    assert saved.positions == original.positions


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64]
DTYPES += [torch.int32, torch.int16, torch.int8, torch.uint8]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 5)], ids=str)
def test_a_tensor_of_any_kind_comes_back_bitwise(
    store: Store, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(5)
    tensor = (torch.randn(shape, generator=generator) * 3).to(dtype)

    saved = store.save(snapshot(1, T=tensor))

    back = read(saved.path).tensors["T"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert (
        back.numpy(force=True).tobytes() == tensor.numpy(force=True).tobytes()
        if (dtype is not torch.bfloat16)
        else torch.equal(back, tensor)
    )


def test_views_of_one_buffer_are_saved_each_by_itself(store: Store) -> None:
    flat = torch.arange(12.0)
    views = {"a": flat[:6], "b": flat[3:9].view(2, 3), "c": flat.view(3, 4).T, "same": flat[:6]}

    saved = store.save(snapshot(1, **views))

    back = read(saved.path).tensors
    assert all(torch.equal(back[name], view) for name, view in views.items())


def test_saving_is_invisible_to_the_tensors(store: Store) -> None:
    original = snapshot(1)
    before = {name: (t.clone(), t.data_ptr()) for name, t in original.tensors.items()}

    store.save(original)

    for name, tensor in original.tensors.items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.data_ptr() == before[name][1]


def test_what_is_loaded_does_not_hang_on_the_file(store: Store) -> None:
    saved = store.save(snapshot(7))
    loaded = read(saved.path)
    path = saved.path / "state.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))

    assert torch.equal(loaded.tensors["W"], torch.full((3, 4), 7.0))


def test_an_empty_folder_has_no_snapshot(store: Store) -> None:
    assert store.newest() is None


def test_the_manifest_is_readable_by_people(store: Store) -> None:
    saved = store.save(snapshot(3))
    text = (saved.path / "manifest.json").read_text()

    assert '\n  "step": 3,\n' in text
    assert json.loads(text)["format"] == FORMAT


def test_a_configuration_with_dates_and_paths_is_saved(store: Store) -> None:
    odd = {
        "since": date(2024, 5, 1),
        "path": Path("/data"),
        "x": float("nan"),
    }

    saved = store.save(replace(snapshot(1), config=odd))

    assert read(saved.path).config == {"since": "2024-05-01", "path": "/data", "x": None}


def test_files_are_private(store: Store) -> None:
    saved = store.save(snapshot(1))

    modes = [path.stat().st_mode & 0o077 for path in (store.directory, saved.path)]
    modes += [path.stat().st_mode & 0o077 for path in saved.path.iterdir()]
    assert modes == [0] * 5


# ---------------------------------------------------------------------------------- names and keep


def test_only_the_newest_are_kept(directory: Path) -> None:
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


def test_saving_a_step_again_replaces_it(store: Store) -> None:
    store.save(snapshot(1))
    store.save(snapshot(2))
    for marker in (b"1", b"2", b"3"):
        store.save(replace(snapshot(2), host=marker))

    loaded = store.newest()

    assert loaded is not None
    assert (loaded.step, loaded.host) == (2, b"3")
    assert len(snapshots(store.directory)) == 2


def test_a_step_behind_the_newest_is_refused(store: Store) -> None:
    store.save(snapshot(100))
    with pytest.raises(CheckpointError, match="newer than step 7"):
        store.save(snapshot(7))


def test_the_line_of_learning_is_recorded(two: Path, open_store: Callable[[Path], Store]) -> None:
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


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize(("file", "damage"), DAMAGED)
def test_a_damaged_file_is_noticed_and_the_snapshot_before_is_used(
    two: Path,
    open_store: Callable[[Path], Store],
    file: str,
    damage: str,
    caplog: pytest.LogCaptureFixture,
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
    two: Path, open_store: Callable[[Path], Store], file: str
) -> None:
    (step_folder(two, 20) / file).unlink()

    loaded = open_store(two).newest()

    assert loaded is not None
    assert loaded.step == 10


@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(prepared: Path, data: st.DataObject) -> None:
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
    two: Path, open_store: Callable[[Path], Store]
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
    two: Path, open_store: Callable[[Path], Store]
) -> None:
    for step in (10, 20):
        (step_folder(two, step) / "state.safetensors").write_bytes(b"")
    store = open_store(two)

    for _ in range(2):  # and again at the next restart
        with pytest.raises(CheckpointError, match=r"none of 2 snapshots can be trusted.*--fresh"):
            store.newest()
    assert len(snapshots(two)) == 2


def test_a_folder_renamed_by_hand_is_not_trusted(two: Path) -> None:
    renamed = step_folder(two, 20).rename(step_folder(two, 99))
    with pytest.raises(CheckpointError, match="holds step 20"):
        read(renamed)


# ----------------------------------------------------------------------------------------- hostile


def forged(folder: Path, **changes: Any) -> Path:
    """Rewrite the manifest as an attacker would: with a matching checksum."""
    content = json.loads((folder / "manifest.json").read_bytes())
    content.pop("sha256")
    content.update(changes)
    guard = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**content, "sha256": guard}))
    return folder


def test_the_forger_of_these_tests_makes_valid_manifests(two: Path) -> None:
    assert read(forged(step_folder(two, 20), fingerprint="other")).fingerprint == "other"


HOST = {"host.json": {"sha256": "0" * 64, "bytes": 1}}
STATE = {"state.safetensors": {"sha256": "0" * 64, "bytes": 1}}
W = {"W": {"dtype": "float32", "shape": [3, 4]}}
FORGERIES: dict[str, tuple[dict[str, Any], str]] = {
    "traversal": ({"files": {**HOST, "../../etc/passwd": HOST["host.json"]}}, "expected files"),
    "absolute path": ({"files": {**HOST, **STATE, "/etc/passwd": HOST["host.json"]}}, "expected"),
    "file missing": ({"files": HOST}, "expected files"),
    "huge file": ({"files": {**HOST, "state.safetensors": {"sha256": "", "bytes": 2**62}}}, "say"),
    "beyond 64 bits": (
        {"files": {**HOST, "state.safetensors": {"sha256": "", "bytes": 2**70}}},
        "<=",
    ),
    "negative size": (
        {"files": {**HOST, "state.safetensors": {"sha256": "", "bytes": -1}}},
        "bytes",
    ),
    "tensor missing": ({"tensors": W}, "'counts' is only in the file"),
    "tensor invented": (
        {"tensors": {**W, "counts": {"dtype": "int64", "shape": [3]}, "X": W["W"]}},
        "'X' is only in the manifest",
    ),
    "wrong dtype": (
        {"tensors": {"W": {"dtype": "float64", "shape": [3, 4]}, "counts": W["W"]}},
        "'W' is F32",
    ),
    "unknown dtype": (
        {"tensors": {"W": {"dtype": "object", "shape": [3, 4]}, "counts": W["W"]}},
        "'W' is F32",
    ),
    "huge shape": (
        {"tensors": {"W": {"dtype": "float32", "shape": [2**40, 2**20]}, "counts": W["W"]}},
        "'W' is F32",
    ),
    "negative shape": ({"tensors": {"W": {"dtype": "float32", "shape": [-1]}}}, "shape"),
    "step as text": ({"step": "20"}, r"\$\.step"),
    "negative step": ({"step": -1}, r"\$\.step"),
    "positions as list": ({"positions": []}, r"\$\.positions"),
    "float position": ({"positions": {"main": {"0": 1.5}}}, r"\$\.positions"),
    "format as text": ({"format": "x"}, r"\$\.format"),
    "unknown field": ({"run": "rm -rf /"}, "run"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_manifest_is_refused(two: Path, name: str) -> None:
    changes, words = FORGERIES[name]
    with pytest.raises(CheckpointError, match=words):
        read(forged(step_folder(two, 20), **changes))


NOT_MANIFESTS: dict[str, bytes] = {
    "a number": b"5",
    "a list": b"[]",
    "null": b"null",
    "not JSON": b"\x80\x04\x95",
    "bad text": b'{"format": "\xff"}',
    "nested": b'{"config":' * 50_000,
    "nested and closed": b'{"config":' + b"[" * 300 + b"]" * 300 + b"}",
    "too large": b" " * ((16 << 20) + 1),
}


@pytest.mark.parametrize("name", NOT_MANIFESTS)
def test_what_is_no_manifest_is_refused(two: Path, name: str) -> None:
    (step_folder(two, 20) / "manifest.json").write_bytes(NOT_MANIFESTS[name])
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read(step_folder(two, 20))


def replaced_file(folder: Path, file: str, data: bytes) -> Path:
    """Replace a file and forge the manifest to match."""
    (folder / file).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    files[file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return forged(folder, files=files)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95",
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (68).to_bytes(8, "little")
        + b'{"W":{"dtype":"F32","shape":[3,4],"data_offsets":[0,99999999999999]}}'.ljust(68),
    ],
    ids=["empty", "pickle", "huge header", "list", "offsets beyond the file"],
)
def test_what_is_no_safetensors_file_is_refused(two: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        read(replaced_file(step_folder(two, 20), "state.safetensors", data))


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"[" * 200 + b"]" * 200, b"NaN"])
def test_host_state_that_is_not_modest_json_is_refused(two: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"host\.json"):
        read(replaced_file(step_folder(two, 20), "host.json", data))


@pytest.mark.parametrize("file", FILES)
def test_links_and_pipes_are_not_read(two: Path, tmp_path: Path, file: str) -> None:
    path = step_folder(two, 20) / file
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=file):
        read(path.parent)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=f"{file}: not a plain file"):
        read(path.parent)


def test_a_newer_format_is_named_and_never_passed_over(
    two: Path, open_store: Callable[[Path], Store]
) -> None:
    forged(step_folder(two, 20), format=FORMAT + 1)
    with pytest.raises(UnknownFormat, match="newer version of stream-rnn"):
        open_store(two).newest()


# ------------------------------------------------------------------------------- what is not saved


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_state_is_refused_and_the_old_stands(store: Store, bad: float) -> None:
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
        replace(snapshot(2), host=b"{"),
        replace(snapshot(2), step=-1),
        replace(snapshot(2), step=10**18),
        replace(snapshot(2), positions={"main": {"0": 1.5}}),  # type: ignore[dict-item]
        snapshot(2, Z=torch.zeros(2, dtype=torch.complex64)),
    ],
    ids=["host", "negative step", "huge step", "position", "complex"],
)
def test_what_could_not_be_read_back_is_not_written(store: Store, unsavable: Snapshot) -> None:
    with pytest.raises(CheckpointError):
        store.save(unsavable)

    assert snapshots(store.directory) == []
    assert list(store.directory.glob(".tmp*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root, to mount a small tmpfs")
    if (done := subprocess.run(command, capture_output=True, check=False)).returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.decode()}")
    yield mounted
    subprocess.run(
        ["umount", "--lazy", mounted], check=True
    )  # lazy: a failed test leaves files open


def test_a_full_disk_leaves_the_old_snapshot_and_heals_by_itself(small_disk: Path) -> None:
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


# -------------------------------------------------------------------------------------- one writer


def test_a_second_process_is_told_the_owners_pid(store: Store) -> None:
    script = (
        "import sys; from pathlib import Path; from stream_rnn.checkpoint import *\n"
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
        timeout=60,
    )

    lines = second.stdout.splitlines()
    assert len(lines) == 2
    assert all(f"in use by process {os.getpid()};" in line for line in lines)


def test_open_waits_for_a_process_that_leaves(store: Store) -> None:
    later = threading.Timer(0.1, store.close)
    later.start()
    successor = Store(store.directory)

    successor.open(wait_s=10)

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
    two: Path, open_store: Callable[[Path], Store], content: bytes | None
) -> None:
    forged(step_folder(two, 20), epoch=41)
    (two / "epoch").unlink()
    if content is not None:
        (two / "epoch").write_bytes(content)

    assert open_store(two).epoch == 42


def test_a_writer_that_finds_a_higher_epoch_writes_nothing(store: Store) -> None:
    store.save(snapshot(1))
    (store.directory / "epoch").write_text("2\n")

    with pytest.raises(Fenced, match="epoch 2 appeared, this process is epoch 1"):
        store.save(snapshot(2))

    assert [path.name for path in snapshots(store.directory)] == ["step-000000000001"]


def test_a_writer_whose_folder_was_replaced_writes_nothing(
    store: Store, open_store: Callable[[Path], Store]
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


def test_a_store_that_is_not_open_says_so(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"call open\(\) first"):
        Store(directory).newest()


# -------------------------------------------------------------------------------------- move aside


def test_move_aside_keeps_everything(two: Path, open_store: Callable[[Path], Store]) -> None:
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


# -------------------------------------------------------------------------------------- the writer


@pytest.fixture
def writer(store: Store) -> Iterator[SnapshotWriter]:
    made = SnapshotWriter(store, before=lambda: None)
    yield made
    made.close()


def test_the_writer_saves_in_the_background(writer: SnapshotWriter, store: Store) -> None:
    assert writer.submit(snapshot(1))
    assert writer.drain(10)

    (saved,) = writer.finished()
    assert isinstance(saved, SavedInfo)
    assert (saved.step, saved.positions) == (1, snapshot(1).positions)
    assert writer.finished() == []
    assert store.newest() is not None


def test_one_snapshot_at_a_time_is_in_flight_and_nobody_waits(store: Store) -> None:
    release = threading.Event()
    writer = SnapshotWriter(store, before=lambda: assert_(release.wait(10)))

    assert writer.submit(snapshot(1))
    started = time.monotonic()
    assert not writer.submit(snapshot(2))
    assert writer.finished() == []
    assert not writer.drain(0.01)
    assert time.monotonic() - started < 5

    release.set()
    assert writer.drain(10)
    assert writer.submit(snapshot(3))
    writer.close()
    assert [result.step for result in writer.finished()] == [1, 3]


def assert_(claim: bool) -> None:
    assert claim


def test_sinks_are_flushed_before_the_state_is_written(store: Store) -> None:
    seen: list[tuple[str, int]] = []

    def flush() -> None:
        entries = len(list(store.directory.glob("step-*")) + list(store.directory.glob(".tmp*")))
        seen.append((threading.current_thread().name, entries))

    writer = SnapshotWriter(store, before=flush)
    writer.submit(snapshot(1))
    writer.close()

    assert seen == [("snapshots", 0)]


def test_no_state_is_written_when_the_sinks_cannot_be_flushed(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [OSError("sink gone"), OSError("sink gone"), None]

    def flush() -> None:
        if (error := broken.pop(0)) is not None:
            raise error

    writer = SnapshotWriter(store, before=flush)
    for step in (1, 2, 3):
        writer.submit(snapshot(step))
        writer.drain(10)
    writer.close()

    first, second, third = writer.finished()
    assert isinstance(first, Failure)
    assert (first.step, str(first.error)) == (1, "sink gone")
    assert isinstance(second, Failure)
    assert isinstance(third, SavedInfo)
    assert [path.name for path in snapshots(store.directory)] == ["step-000000000003"]
    # One line per change of state: it broke, it works again.
    assert caplog.text.count("sink gone") == 1


def test_a_failed_save_is_reported_and_the_next_one_works(
    writer: SnapshotWriter,
) -> None:
    writer.submit(snapshot(1, W=torch.full((2,), float("nan"))))
    writer.drain(10)
    writer.submit(snapshot(2))
    writer.drain(10)

    failed, saved = writer.finished()
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, CheckpointError)
    assert isinstance(saved, SavedInfo)


def test_fencing_reaches_the_loop(writer: SnapshotWriter, store: Store) -> None:
    (store.directory / "epoch").write_text("5\n")
    writer.submit(snapshot(1))
    writer.drain(10)

    (failed,) = writer.finished()
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, Fenced)


def test_the_writer_lets_the_copy_go(writer: SnapshotWriter) -> None:
    tensor = torch.ones(10)
    alive = weakref.ref(tensor)
    writer.submit(snapshot(1, W=tensor))
    del tensor
    assert writer.drain(10)
    gc.collect()

    assert alive() is None


def test_a_closed_writer_refuses(writer: SnapshotWriter) -> None:
    writer.close()
    writer.close()
    with pytest.raises(CheckpointError, match="closed"):
        writer.submit(snapshot(1))


def test_the_stages_of_a_snapshot_come_in_order(store: Store) -> None:
    stages: list[str] = []
    writer = SnapshotWriter(store, before=lambda: None, fault=stages.append)
    writer.submit(snapshot(1))
    writer.drain(10)
    writer.finished()
    writer.close()

    assert stages == ["after_clone", "before_ack"]
    assert set(stages) < set(STAGES)


# ----------------------------------------------------------------------------------------- kill -9

# One interpreter imports torch and forks a child per stage. The child's program: snapshots of steps
# 1 to 5, each acknowledged (a line in `acked`) once it is durable, killed at the third passage.
KILLED = """
import os, sys
from pathlib import Path
import torch, safetensors.torch

def child(directory):
    from stream_rnn.checkpoint import Snapshot, SnapshotWriter, Store
    store = Store(directory); store.open(); store.newest()
    writer = SnapshotWriter(store, before=lambda: None)
    for step in range(1, 6):
        W = torch.full((3, 4), float(step))
        writer.submit(Snapshot(step, {"W": W}, b"{}", {"main": {"0": step}}, "f", {}, {}))
        assert writer.drain(30)
        for saved in writer.finished():
            with open(directory / "acked", "a") as file:
                file.write(f"{saved.step}\\n")

for stage in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        os.environ["STREAM_RNN_FAULT"] = f"{stage}:3"
        child(Path(sys.argv[1]) / stage)
        os._exit(0)
    print(stage, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, folder, *STAGES],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    codes = dict(line.split() for line in done.stdout.splitlines())
    return folder, {stage: int(code) for stage, code in codes.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_at_any_stage_leaves_a_loadable_state(
    killed: tuple[Path, dict[str, int]], stage: str, open_store: Callable[[Path], Store]
) -> None:
    folder, codes = killed
    assert codes[stage] == -signal.SIGKILL

    store = open_store(folder / stage)
    loaded = store.newest()

    assert loaded is not None
    assert loaded.step == (3 if stage in ("after_rename", "before_ack") else 2)
    assert loaded.fallbacks == []
    assert torch.equal(loaded.tensors["W"], torch.full((3, 4), float(loaded.step)))
    acked = int((folder / stage / "acked").read_text().split()[-1])
    assert acked <= loaded.positions["main"]["0"]  # type: ignore[operator]
    assert list(store.directory.glob(".tmp*")) == []
    store.save(snapshot(loaded.step + 1))


@pytest.mark.parametrize("setting", ["nowhere:1", "before_ack:x", "before_ack:-1", ":"])
def test_a_fault_that_would_never_fire_is_refused(setting: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import stream_rnn.checkpoint"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "STREAM_RNN_FAULT": setting},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode != 0
    assert "STREAM_RNN_FAULT: expected STAGE:N" in done.stderr
