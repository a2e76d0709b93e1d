"""A state folder to try things on, with snapshots in it, and a forger of manifests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from stream_rnn.checkpoint.snapshot import Snapshot
from stream_rnn.checkpoint.store import Store


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


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:012d}"


def forged(folder: Path, **changes: Any) -> Path:
    """Rewrite the manifest as an attacker would: with a matching checksum."""
    content = json.loads((folder / "manifest.json").read_bytes())
    content.pop("sha256")
    content.update(changes)
    guard = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**content, "sha256": guard}))
    return folder


@pytest.fixture(scope="session", name="snapshot")
def snapshot_fixture() -> Callable[..., Snapshot]:
    return snapshot


@pytest.fixture(scope="session", name="step_folder")
def step_folder_fixture() -> Callable[[Path, int], Path]:
    return step_folder


@pytest.fixture(scope="session", name="forged")
def forged_fixture() -> Callable[..., Path]:
    return forged


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    opened = Store(directory)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, snapshot: Callable[..., Snapshot]) -> Path:
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
    # lazy: a failed test leaves files open
    subprocess.run(["umount", "--lazy", mounted], check=True)
