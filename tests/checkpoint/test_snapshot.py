from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_rnn.checkpoint.files import CheckpointError, Forbidden, UnknownFormat
from stream_rnn.checkpoint.manifest import FORMAT
from stream_rnn.checkpoint.snapshot import Snapshot, read, snapshots
from stream_rnn.checkpoint.store import Store
from stream_rnn.config import ConfigError
from stream_rnn.resuming import newest_readable

FILES = ["state.safetensors", "host.json", "manifest.json"]


def test_everything_comes_back(store: Store, snapshot: Callable[..., Snapshot]) -> None:
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
    store: Store, dtype: torch.dtype, shape: tuple[int, ...], snapshot: Callable[..., Snapshot]
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


def test_views_of_one_buffer_are_saved_each_by_itself(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    flat = torch.arange(12.0)
    views = {"a": flat[:6], "b": flat[3:9].view(2, 3), "c": flat.view(3, 4).T, "same": flat[:6]}

    saved = store.save(snapshot(1, **views))

    back = read(saved.path).tensors
    assert all(torch.equal(back[name], view) for name, view in views.items())


def test_saving_is_invisible_to_the_tensors(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    original = snapshot(1)
    before = {name: (t.clone(), t.data_ptr()) for name, t in original.tensors.items()}

    store.save(original)

    for name, tensor in original.tensors.items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.data_ptr() == before[name][1]


def test_what_is_loaded_does_not_hang_on_the_file(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    saved = store.save(snapshot(7))
    loaded = read(saved.path)
    path = saved.path / "state.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))

    assert torch.equal(loaded.tensors["W"], torch.full((3, 4), 7.0))


def test_an_empty_folder_has_no_snapshot(store: Store) -> None:
    assert store.newest() is None


def test_the_manifest_is_readable_by_people(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    saved = store.save(snapshot(3))
    text = (saved.path / "manifest.json").read_text()

    assert '\n  "step": 3,\n' in text
    assert json.loads(text)["format"] == 1  # 2 only for what was migrated


def test_a_configuration_with_dates_and_paths_is_saved(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    odd = {
        "since": date(2024, 5, 1),
        "path": Path("/data"),
        "x": float("nan"),
    }

    saved = store.save(replace(snapshot(1), config=odd))

    assert read(saved.path).config == {"since": "2024-05-01", "path": "/data", "x": None}


def test_files_are_private(store: Store, snapshot: Callable[..., Snapshot]) -> None:
    saved = store.save(snapshot(1))

    modes = [path.stat().st_mode & 0o077 for path in (store.directory, saved.path)]
    modes += [path.stat().st_mode & 0o077 for path in saved.path.iterdir()]
    assert modes == [0] * 5


def test_the_forger_of_these_tests_makes_valid_manifests(
    two: Path, forged: Callable[..., Path], step_folder: Callable[[Path, int], Path]
) -> None:
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
def test_a_forged_manifest_is_refused(
    two: Path, name: str, forged: Callable[..., Path], step_folder: Callable[[Path, int], Path]
) -> None:
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
def test_what_is_no_manifest_is_refused(
    two: Path, name: str, step_folder: Callable[[Path, int], Path]
) -> None:
    (step_folder(two, 20) / "manifest.json").write_bytes(NOT_MANIFESTS[name])
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read(step_folder(two, 20))


@pytest.fixture
def replaced_file(forged: Callable[..., Path]) -> Callable[..., Path]:
    """Replaces a file and forges the manifest to match."""

    def put(folder: Path, file: str, data: bytes) -> Path:
        (folder / file).write_bytes(data)
        files = json.loads((folder / "manifest.json").read_bytes())["files"]
        files[file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        return forged(folder, files=files)

    return put


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
def test_what_is_no_safetensors_file_is_refused(
    two: Path,
    data: bytes,
    replaced_file: Callable[..., Path],
    step_folder: Callable[[Path, int], Path],
) -> None:
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        read(replaced_file(step_folder(two, 20), "state.safetensors", data))


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"[" * 200 + b"]" * 200, b"NaN"])
def test_host_state_that_is_not_modest_json_is_refused(
    two: Path,
    data: bytes,
    replaced_file: Callable[..., Path],
    step_folder: Callable[[Path, int], Path],
) -> None:
    with pytest.raises(CheckpointError, match=r"host\.json"):
        read(replaced_file(step_folder(two, 20), "host.json", data))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b"[" * 101 + b"]" * 101, b"NaN", b'"\xff"', b'{"a":1}{"a":1}'],
)
def test_host_state_that_could_not_be_read_back_is_not_written(
    store: Store, snapshot: Callable[..., Snapshot], data: bytes
) -> None:
    with pytest.raises(CheckpointError, match=r"host\.json"):
        store.save(replace(snapshot(1), host=data))
    assert store.newest() is None


@pytest.mark.parametrize(
    "state",
    [
        json.loads("[" * 100 + "]" * 100),
        {"a [key]": "[" * 200},
        ['"' * 3 + "[" * 200, "\\", "{" * 200],
        {"\\": "[" * 101, '\\"': "{" * 101},
    ],
)
def test_what_can_be_read_back_is_written_whatever_its_texts_look_like(
    store: Store, snapshot: Callable[..., Snapshot], state: object
) -> None:
    store.save(replace(snapshot(1), host=json.dumps(state).encode()))
    loaded = store.newest()
    assert loaded is not None
    assert json.loads(loaded.host) == state


@pytest.mark.parametrize("file", FILES)
def test_links_and_pipes_are_not_read(
    two: Path, tmp_path: Path, file: str, step_folder: Callable[[Path, int], Path]
) -> None:
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
    two: Path,
    open_store: Callable[[Path], Store],
    forged: Callable[..., Path],
    step_folder: Callable[[Path, int], Path],
) -> None:
    forged(step_folder(two, 20), format=FORMAT + 1)
    with pytest.raises(UnknownFormat, match="newer version of stream-rnn"):
        open_store(two).newest()


def test_another_user_s_snapshot_is_refused_and_not_taken_for_damage(
    two: Path,
    open_store: Callable[[Path], Store],
    step_folder: Callable[[Path, int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest, opened = step_folder(two, 20), os.open

    def denied(path: Any, *arguments: Any, **more: Any) -> int:  # root may read what is 0000
        if Path(path).is_relative_to(newest):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(
        Forbidden, match=r"manifest\.json: this user may not read or write it; .*chown"
    ):
        open_store(two).newest()
    assert newest.is_dir()
    with pytest.raises(ConfigError, match="this user may not read or write it"):
        newest_readable(snapshots(two))
