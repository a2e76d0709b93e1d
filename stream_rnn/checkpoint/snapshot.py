"""What a snapshot is: one folder of three files, every one verified before it is used.

step-000000001234/           state.safetensors, host.json, manifest.json
step-000000001234.1/         the same step, saved again
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.files import CheckpointError, open_regular, sync_folder, write_durably
from stream_rnn.checkpoint.manifest import (
    FORMAT,
    HOST,
    MANIFEST,
    TENSORS,
    File,
    Manifest,
    check_json,
    encode_manifest,
    parse_json,
    read_manifest,
)
from stream_rnn.checkpoint.tensor_file import encode_tensors, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

MAX_HOST_BYTES = 1 << 30

_FOLDER = re.compile(r"step-(\d{12,18})(?:\.(\d{1,6}))?")


@dataclass(frozen=True)
class Snapshot:
    """The result of applying, in order, every event up to `positions`; nothing else is trusted.

    Attributes:
        step: ticks learned; names the folder.
        tensors: flat names. A private copy: the learner must not write to them any more, and the
            copy must be complete (device synchronized) before `SnapshotWriter.submit`.
        host: JSON of every plain value that influences the future, encoded by the caller.
        positions: source name -> partition -> last applied position.
        fingerprint: of what the model was built from; for refusing another model.
        config: what the model was built from; for show.
        execution: torch version, device, dtype, kernel or twin.
        migrated_from: what another model's snapshot this one began as; None: it did not.
    """

    step: int
    tensors: Mapping[str, Tensor]
    host: bytes
    positions: dict[str, dict[str, int | str]]
    fingerprint: str
    config: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, str] = field(default_factory=dict)
    migrated_from: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded(Snapshot):
    """A snapshot as read and verified; tensors on the CPU, owned by the caller.

    Attributes:
        path: its folder.
        epoch: of the process that wrote it.
        created: UTC, ISO 8601. Informative: a wall clock may jump.
        parent: step of the snapshot before it, in the same line of learning.
        fallbacks: one line per newer snapshot that was damaged and passed over.
    """

    path: Path
    epoch: int
    created: str
    parent: int | None
    fallbacks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SavedInfo:
    """A snapshot that is durable: `positions` may be acknowledged upstream."""

    path: Path
    size_bytes: int
    seconds: float
    step: int
    positions: dict[str, dict[str, int | str]]


def snapshots(directory: Path) -> list[Path]:
    """The snapshot folders in a state folder, newest first, unverified. Needs no lock."""
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        named = _FOLDER.fullmatch(path.name)
        if named and path.is_dir() and not path.is_symlink():
            found.append((int(named[1]), int(named[2] or 0), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def step_of(path: Path) -> int:
    """The step of a folder that `snapshots` listed."""
    named = _FOLDER.fullmatch(path.name)
    assert named is not None
    return int(named[1])


def find(directory: Path, name: str) -> Path:
    """The snapshot of that folder name or step ("1200"; of several revisions the newest).

    Raises:
        CheckpointError: there is none; names those there are.
    """
    folders = snapshots(directory)
    for path in folders:
        if path.name == name or (name.isdecimal() and int(name) == step_of(path)):
            return path
    known = ", ".join(path.name for path in folders) or "none"
    raise CheckpointError(f"{directory}: no snapshot {name!r} (there are: {known})")


def read(path: Path) -> Loaded:
    """Read one snapshot folder; everything is verified before a tensor is allocated.

    Raises:
        CheckpointError: damaged, incomplete or forged; UnknownFormat: newer than this program.
    """
    manifest = read_manifest(path)
    named = _FOLDER.fullmatch(path.name)
    if named and int(named[1]) != manifest.step:
        raise CheckpointError(
            f"{path}: holds step {manifest.step}; was the folder renamed by hand?"
        )
    if set(manifest.files) != {TENSORS, HOST}:
        found = ", ".join(sorted(manifest.files))[:200]
        raise CheckpointError(f"{path / MANIFEST}: expected files {TENSORS}, {HOST}, got {found}")
    _verify_file(path / TENSORS, manifest.files[TENSORS])
    if manifest.files[HOST].bytes > MAX_HOST_BYTES:
        raise CheckpointError(f"{path / HOST}: larger than {MAX_HOST_BYTES} bytes")
    _verify_file(path / HOST, manifest.files[HOST])
    host = (path / HOST).read_bytes()
    parse_json(host, path / HOST)
    return Loaded(
        step=manifest.step,
        tensors=read_tensors(path / TENSORS, manifest.tensors),
        host=host,
        positions=manifest.positions,
        fingerprint=manifest.fingerprint,
        config=manifest.config,
        execution=manifest.execution,
        migrated_from=manifest.migrated_from,
        path=path,
        epoch=manifest.epoch,
        created=manifest.created,
        parent=manifest.parent,
    )


def _verify_file(path: Path, promised: File) -> None:
    with open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size != promised.bytes:
            raise CheckpointError(f"{path}: {size} bytes, the manifest says {promised.bytes}")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != promised.sha256:
        raise CheckpointError(f"{path}: its sha256 {found[:12]}... is not the manifest's")


def write(snapshot: Snapshot, draft: Path, epoch: int, parent: int | None) -> int:
    """Write a snapshot into the new folder `draft`, durably; return its size in bytes.

    `Store.save` renames it to its place; what is raised here it explains.

    Raises:
        CheckpointError: what could not be read back, e.g. non-finite tensors.
    """
    if len(snapshot.host) > MAX_HOST_BYTES:
        raise CheckpointError(f"host state of {len(snapshot.host)} bytes, at most {MAX_HOST_BYTES}")
    check_json(snapshot.host, draft / HOST)  # what could not be read back must not replace what can
    encoded, tensors = encode_tensors(snapshot.tensors, snapshot.step)
    draft.mkdir(mode=0o700)
    files = {TENSORS: File(write_durably(draft / TENSORS, encoded), len(encoded))}
    del encoded
    fault("after_tensors")
    files[HOST] = File(write_durably(draft / HOST, snapshot.host), len(snapshot.host))
    fault("before_manifest")
    manifest = Manifest(
        format=1 if snapshot.migrated_from is None else FORMAT,
        step=snapshot.step,
        epoch=epoch,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        parent=parent,
        fingerprint=snapshot.fingerprint,
        positions=snapshot.positions,
        execution=snapshot.execution,
        files=files,
        tensors=tensors,
        config=snapshot.config,
        migrated_from=snapshot.migrated_from,
    )
    text = encode_manifest(manifest, draft)
    write_durably(draft / MANIFEST, text)
    sync_folder(draft)
    return sum(file.bytes for file in files.values()) + len(text)
