"""Snapshots of everything that influences the future, atomic on disk and verified before use.

    DIR/lock                     flock of the one process that may write; holds its pid
    DIR/epoch                    counts the openings; a writer that finds a higher one stops
    DIR/step-000000001234/       one snapshot: state.safetensors, host.json, manifest.json

The order of the writes IS the promise: sink flush and dead-letter fsync, then the files, the
manifest, the rename, then the source's ack. Format, store and writer are read together for that
reason, hence one long file. Importing it costs no torch: that comes with the first snapshot.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

FORMAT = 1
MAX_MANIFEST_BYTES = 16 << 20  # a tensor's line takes 100 bytes; read whole, before any checksum
MAX_HOST_BYTES = 1 << 30
MAX_JSON_DEPTH = 100

TENSORS, HOST, MANIFEST = "state.safetensors", "host.json", "manifest.json"
_FOLDER = re.compile(r"step-(\d{12,18})(?:\.(\d{1,6}))?")
_DTYPES = {  # torch's name -> safetensors' name
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"},
}

STAGES = (
    "after_clone",
    "before_write",
    "after_tensors",
    "before_manifest",
    "before_rename",
    "after_rename",
    "before_ack",
)


class CheckpointError(Exception):
    """A snapshot cannot be written, found or trusted: names the place, what came, the remedy."""


class StateLocked(CheckpointError):
    """Another process works on the folder."""


class Fenced(CheckpointError):
    """The folder belongs to a newer process now: stop, write nothing more."""


class UnknownFormat(CheckpointError):
    """Written by a newer version of this program: intact, so never passed over for an older one."""


def _armed(setting: str) -> dict[str, int]:
    if not setting:
        return {}
    stage, _, passage = setting.partition(":")
    if stage not in STAGES or not (passage or "1").isdigit():
        raise ValueError(
            f"STREAM_RNN_FAULT: expected STAGE:N with one of {STAGES}, got {setting!r}"
        )
    return {stage: int(passage or "1")}


_faults = _armed(os.environ.get("STREAM_RNN_FAULT", ""))


def fault(stage: str) -> None:
    """Test seam: `STREAM_RNN_FAULT=stage:n` kills -9 this process at the n-th passage of a stage.

    Without the variable at import it is one dict lookup.
    """
    if stage in _faults:
        _faults[stage] -= 1
        if _faults[stage] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


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
    """

    step: int
    tensors: Mapping[str, Tensor]
    host: bytes
    positions: dict[str, dict[str, int | str]]
    fingerprint: str
    config: dict[str, Any] = field(default_factory=dict)
    execution: dict[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Failure:
    """A snapshot that was not written; the older ones stand and learning goes on."""

    error: Exception
    step: int


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    sha256: str
    bytes: _Count


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[_Count]


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    step: _Count
    epoch: _Count
    created: str
    parent: _Count | None
    fingerprint: str
    positions: dict[str, dict[str, int | str]]
    execution: dict[str, str]
    files: dict[str, _File]
    tensors: dict[str, _Tensor]
    config: dict[str, Any]


# ---------------------------------------------------------------------------- one snapshot folder


def read(path: Path) -> Loaded:
    """Read one snapshot folder; everything is verified before a tensor is allocated.

    Raises:
        CheckpointError: damaged, incomplete or forged; UnknownFormat: newer than this program.
    """
    manifest = _read_manifest(path)
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
    _parse(host, path / HOST)
    return Loaded(
        step=manifest.step,
        tensors=_read_tensors(path / TENSORS, manifest.tensors),
        host=host,
        positions=manifest.positions,
        fingerprint=manifest.fingerprint,
        config=manifest.config,
        execution=manifest.execution,
        path=path,
        epoch=manifest.epoch,
        created=manifest.created,
        parent=manifest.parent,
    )


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / MANIFEST
    with _open_regular(path) as descriptor:
        if os.fstat(descriptor).st_size > MAX_MANIFEST_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, not a manifest")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = _parse(file.read(MAX_MANIFEST_BYTES), path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    version = content.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UnknownFormat(
            f"{path}: format {version}, this program reads up to {FORMAT}; use the newer "
            "version of stream-rnn that wrote it"
        )
    guard = content.pop("sha256", None)
    if guard != _guard(content):
        raise CheckpointError(f"{path}: its checksum does not match its content")
    try:
        return msgspec.convert(content, _Manifest)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _guard(content: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def _parse(data: bytes, path: Path) -> object:
    try:
        value: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: JSON nested deeper than {MAX_JSON_DEPTH}") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_JSON_DEPTH):
        containers = (v.values() if isinstance(v, dict) else v for v in level)
        level = [c for v in containers for c in v if isinstance(c, dict | list)]
        if not level:
            return value
    raise CheckpointError(f"{path}: JSON nested deeper than {MAX_JSON_DEPTH}")


@contextmanager
def _open_regular(path: Path) -> Iterator[int]:
    """Open for reading what is a plain file: no link out of the folder, no pipe that never ends."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CheckpointError(f"{path}: not a plain file")
        yield descriptor
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _verify_file(path: Path, promised: _File) -> None:
    with _open_regular(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if size != promised.bytes:
            raise CheckpointError(f"{path}: {size} bytes, the manifest says {promised.bytes}")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != promised.sha256:
        raise CheckpointError(f"{path}: its sha256 {found[:12]}... is not the manifest's")


def _read_tensors(path: Path, promised: dict[str, _Tensor]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for name in sorted(names ^ set(promised)):
                owner = "file" if name in names else "manifest"
                raise CheckpointError(f"{path}: tensor {name[:80]!r} is only in the {owner}")
            for name, tensor in promised.items():
                header = file.get_slice(name)
                found = header.get_dtype(), header.get_shape()
                if found != (_DTYPES.get(tensor.dtype), tensor.shape):
                    raise CheckpointError(
                        f"{path}: tensor {name[:80]!r} is {found[0]} {found[1]}, the manifest says "
                        f"{tensor.dtype} {tensor.shape}"
                    )
            # Cloned: what safetensors returns may be mapped memory of a file that gets pruned.
            return {name: file.get_tensor(name).clone() for name in promised}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error


def _encode_tensors(snapshot: Snapshot) -> tuple[bytes, dict[str, _Tensor]]:
    import torch
    from safetensors.torch import save

    host_copies: dict[str, Tensor] = {}
    described: dict[str, _Tensor] = {}
    storages: set[int] = set()
    for name, tensor in snapshot.tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise CheckpointError(f"tensor {name!r}: dtype {dtype} cannot be saved")
        copy = tensor.detach().to("cpu").contiguous()
        if copy.is_floating_point() and not bool(torch.isfinite(copy).all()):
            raise CheckpointError(
                f"tensor {name!r} of step {snapshot.step} holds non-finite values; the snapshots "
                "before it are kept, start from one of them"
            )
        # Views of one storage (a flat buffer cut up) are saved each by itself.
        storage = copy.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != copy.nbytes:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        host_copies[name] = copy
        described[name] = _Tensor(dtype, list(copy.shape))
    return save(host_copies), described


def _write_durably(path: Path, data: bytes) -> _File:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return _File(hashlib.sha256(data).hexdigest(), len(data))


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def snapshots(directory: Path) -> list[Path]:
    """The snapshot folders in a state folder, newest first, unverified. Needs no lock."""
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        named = _FOLDER.fullmatch(path.name)
        if named and path.is_dir() and not path.is_symlink():
            found.append((int(named[1]), int(named[2] or 0), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def _step_of(path: Path) -> int:
    named = _FOLDER.fullmatch(path.name)
    assert named is not None
    return int(named[1])


# -------------------------------------------------------------------------------- the state folder


class Store:
    """The state folder of one process: `open`, `newest`, `save`..., `close`.

    `save` may run on another thread than the rest, one call at a time.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = directory
        self.keep = keep
        self.epoch = 0
        self._lock: int | None = None
        self._parent: int | None = None

    def open(self, wait_s: float = 0.0) -> None:
        """Create the folder, become its only writer, start a new epoch.

        Args:
            wait_s: how long to wait for a process that is about to leave, e.g. at a restart.

        Raises:
            StateLocked: another process holds it; names its pid.
            CheckpointError: the folder cannot be made or written.
        """
        assert self._lock is None, "open() comes once"
        with _explained(self.directory):
            if not self.directory.is_dir():
                self.directory.mkdir(mode=0o700, parents=True)
                _sync_folder(self.directory.parent)
            self._lock = _take_lock(self.directory, wait_s)
            try:
                self.epoch = self._last_epoch() + 1
                self._write_epoch()
            except BaseException:
                self.close()
                raise

    def _write_epoch(self) -> None:
        draft = self.directory / f".tmp-epoch-{os.getpid()}"
        draft.unlink(missing_ok=True)
        _write_durably(draft, f"{self.epoch}\n".encode())
        draft.rename(self.directory / "epoch")
        _sync_folder(self.directory)

    def _read_epoch(self) -> int | None:
        try:
            with _open_regular(self.directory / "epoch") as descriptor:
                text = os.read(descriptor, 32).strip()
        except CheckpointError:
            return None
        return int(text) if text.isdigit() and len(text) < 20 else None

    def _last_epoch(self) -> int:
        """The highest epoch that left a trace; a lost epoch file must not let it fall back."""
        epochs = [self._read_epoch() or 0]
        for path in snapshots(self.directory):
            try:
                epochs.append(_read_manifest(path).epoch)
            except CheckpointError:
                continue  # `newest` reports it
        return max(epochs)

    def newest(self) -> Loaded | None:
        """Return the newest snapshot that verifies; `None` in a folder without snapshots.

        Damaged ones before it are logged, listed in `Loaded.fallbacks` and renamed to
        `damaged-step-...` so that they are never counted as kept. Leftovers of a killed writer are
        removed.

        Raises:
            CheckpointError: there are snapshots and none verifies (never start afresh silently).
            UnknownFormat: the newest was written by a newer version.
        """
        self._require_open()
        for leftover in self.directory.glob(".tmp-*"):
            _log.info("%s: leftover of an interrupted write removed", leftover)
            _remove(leftover)
        damaged: list[tuple[Path, str]] = []
        for path in snapshots(self.directory):
            try:
                loaded = read(path)
            except UnknownFormat:
                raise
            except CheckpointError as error:
                _log.warning("snapshot damaged, trying the one before it: %s", error)
                damaged.append((path, str(error)))
                continue
            for bad, _ in damaged:
                self._set_aside(bad)
            loaded.fallbacks.extend(line for _, line in damaged)
            self._parent = loaded.step
            return loaded
        if damaged:
            lines = "; ".join(line for _, line in damaged)
            raise CheckpointError(
                f"{self.directory}: none of {len(damaged)} snapshots can be trusted ({lines}); "
                "restore the folder from a backup, or start with --fresh, which moves it aside"
            )
        return None

    def _set_aside(self, path: Path) -> None:
        target = path.with_name(f"damaged-{path.name}")
        with _explained(path):
            if target.exists():
                _remove(target)
            path.rename(target)
            for old in sorted(self.directory.glob("damaged-step-*"))[: -self.keep]:
                _remove(old)

    def save(self, snapshot: Snapshot) -> SavedInfo:
        """Write a snapshot; when it returns, a power cut cannot take it back. Tens of ms: fsync.

        Saving a step again replaces it atomically.

        Raises:
            Fenced: another process owns the folder by now.
            CheckpointError: non-finite tensors, disk full, ...; what was there before stands.
        """
        from safetensors import SafetensorError

        self._require_open()
        started = time.monotonic()
        fault("before_write")
        self._check_still_ours()
        final = self._name(snapshot.step)
        draft = self.directory / f".tmp-{snapshot.step}-{os.getpid()}"
        try:
            if draft.exists():
                shutil.rmtree(draft)
            size_bytes = self._write(snapshot, draft)
            fault("before_rename")
            self._check_still_ours()
            draft.rename(final)
            fault("after_rename")
            _sync_folder(self.directory)
        except (
            OSError,
            SafetensorError,
            msgspec.MsgspecError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise CheckpointError(
                f"{self.directory}: step {snapshot.step} not saved: {error}; the snapshots before "
                "it stand: free space or permissions, the next one is tried by itself"
            ) from error
        finally:
            if draft.exists():  # after a failure of any kind: a torso would fill the disk
                shutil.rmtree(draft, ignore_errors=True)
        self._parent = snapshot.step
        self._prune()
        seconds = time.monotonic() - started
        return SavedInfo(final, size_bytes, seconds, snapshot.step, snapshot.positions)

    def _name(self, step: int) -> Path:
        """The folder for `step`; a revision of it if it is there: a rename cannot replace it."""
        if not 0 <= step < 10**18:
            raise CheckpointError(f"{self.directory}: step must be in [0, 10**18), got {step}")
        there = snapshots(self.directory)
        if there and _step_of(there[0]) > step:
            raise CheckpointError(
                f"{there[0]}: is newer than step {step}, which would be ignored at a restart; "
                "resume from it, or start with --fresh"
            )
        name = f"step-{step:012d}"
        if not there or _step_of(there[0]) < step:
            return self.directory / name
        _, _, revision = there[0].name.partition(".")
        return self.directory / f"{name}.{int(revision or 0) + 1}"

    def _write(self, snapshot: Snapshot, draft: Path) -> int:
        if len(snapshot.host) > MAX_HOST_BYTES:
            raise CheckpointError(
                f"host state of {len(snapshot.host)} bytes, at most {MAX_HOST_BYTES}"
            )
        _parse(snapshot.host, draft / HOST)  # what could not be read back must not replace what can
        encoded, tensors = _encode_tensors(snapshot)
        draft.mkdir(mode=0o700)
        files = {TENSORS: _write_durably(draft / TENSORS, encoded)}
        del encoded
        fault("after_tensors")
        files[HOST] = _write_durably(draft / HOST, snapshot.host)
        fault("before_manifest")
        manifest = _Manifest(
            format=FORMAT,
            step=snapshot.step,
            epoch=self.epoch,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            parent=self._parent,
            fingerprint=snapshot.fingerprint,
            positions=snapshot.positions,
            execution=snapshot.execution,
            files=files,
            tensors=tensors,
            config=snapshot.config,
        )
        # Through JSON and back, so that the guard covers what a reader will see (nan becomes null).
        content = msgspec.json.decode(msgspec.json.encode(manifest, enc_hook=str))
        msgspec.convert(content, _Manifest)
        guarded = msgspec.json.encode({**content, "sha256": _guard(content)})
        if len(guarded) > MAX_MANIFEST_BYTES // 4:  # a quarter, for the indentation
            raise CheckpointError(
                f"{draft / MANIFEST}: {len(guarded)} bytes of manifest are too many"
            )
        text = msgspec.json.format(guarded, indent=2)
        _write_durably(draft / MANIFEST, text)
        _sync_folder(draft)
        return sum(file.bytes for file in files.values()) + len(text)

    def _check_still_ours(self) -> None:
        assert self._lock is not None
        held = os.fstat(self._lock)
        try:
            there = (self.directory / "lock").stat()
        except OSError:
            there = None
        if there is None or (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
            raise Fenced(
                f"{self.directory}: was moved or replaced while in use; restart the process"
            )
        epoch = self._read_epoch()
        if epoch != self.epoch:
            raise Fenced(
                f"{self.directory}: epoch {epoch} appeared, this process is epoch {self.epoch}; a "
                "newer process owns the state: this one must stop"
            )

    def _prune(self) -> None:
        kept: set[int] = set()
        for path in snapshots(self.directory):
            step = _step_of(path)
            if step not in kept and len(kept) < self.keep:
                kept.add(step)  # the highest revision of a step comes first
                continue
            # Renamed first: half removed under its own name it would look like damage.
            doomed = path.with_name(f".tmp-old-{path.name}")
            try:
                path.rename(doomed)
                shutil.rmtree(doomed)
            except OSError as error:  # the new snapshot is durable all the same
                _log.warning("%s: old snapshot not removed: %s", path, error)

    def _require_open(self) -> None:
        if self._lock is None:
            raise CheckpointError(f"{self.directory}: the store is not open; call open() first")

    def close(self) -> None:
        """Let the folder go. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _remove(path: Path) -> None:
    with _explained(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _take_lock(directory: Path, wait_s: float) -> int:
    deadline = time.monotonic() + wait_s
    while True:
        path = directory / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A folder moved aside in between took the file along that was just locked.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise StateLocked(
                    f"{directory}: in use by process {owner}; stop it, or give this one its own "
                    "[state] directory"
                ) from None
            time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def move_aside(directory: Path) -> Path | None:
    """For --fresh: rename the state folder to DIR.old-YYYYmmddTHHMMSS (UTC); nothing is deleted.

    A folder that cannot be renamed (a mount point) keeps its place and its content moves to
    DIR/old-YYYYmmddTHHMMSS. Returns where the old state is now; `None` if there was no folder.

    Raises:
        StateLocked: a process works on it.
    """
    if not directory.is_dir():
        return None
    stamp = f"old-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    with _explained(directory):
        lock = _take_lock(directory, wait_s=0.0)
        try:
            target = _unused(directory.with_name(f"{directory.name}.{stamp}"))
            try:
                directory.rename(target)
            except OSError:
                target = _unused(directory / stamp)
                target.mkdir(mode=0o700)
                for entry in directory.iterdir():
                    if entry.name not in ("lock", "epoch") and not entry.name.startswith("old-"):
                        entry.rename(target / entry.name)
                _sync_folder(target)
            _sync_folder(target.parent)
        finally:
            os.close(lock)
    return target


def _unused(path: Path) -> Path:
    candidate, n = path, 1
    while candidate.exists():
        n += 1
        candidate = path.with_name(f"{path.name}-{n}")
    return candidate


# ----------------------------------------------------------------------------- the writer's thread


class SnapshotWriter:
    """Saves on one background thread, so that the learner's thread never waits for a disk.

    `submit`, `finished`, `drain` and `close` belong to the loop's thread. The writer's starts with
    the first snapshot and dies with the process.

    Args:
        store: open.
        before: flushes sinks and the dead-letter file; on the writer's thread, before each save.
        fault: test seam, called with the name of a stage.
    """

    def __init__(
        self,
        store: Store,
        before: Callable[[], None],
        fault: Callable[[str], None] = fault,
    ) -> None:
        self._store = store
        self._before = before
        self._fault = fault
        self._changed = threading.Condition()
        self._job: Snapshot | None = None  # from submit until its result is in
        self._results: deque[SavedInfo | Failure] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._last_error = ""

    def submit(self, snapshot: Snapshot) -> bool:
        """Hand over a snapshot. False while one is in flight: try again at the next tick."""
        with self._changed:
            if self._closing:
                raise CheckpointError("the snapshot writer is closed")
            if self._job is not None:
                return False
            self._fault("after_clone")
            self._job = snapshot
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def finished(self) -> list[SavedInfo | Failure]:
        """What happened since the last call, oldest first; the caller acks saved positions now.

        A `Failure` whose error is `Fenced` means that this process must stop.
        """
        with self._changed:
            results = list(self._results)
            self._results.clear()
        if any(isinstance(result, SavedInfo) for result in results):
            self._fault("before_ack")
        return results

    def drain(self, timeout_s: float) -> bool:
        """Wait for the snapshot in flight; True once there is none. `finished` tells its result."""
        with self._changed:
            return self._changed.wait_for(lambda: self._job is None, timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Finish the snapshot in flight and end the thread. May be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.warning(
                    "a snapshot is still being written after %.0f s; left behind", timeout_s
                )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._closing)
                job = self._job
            if job is None:
                return
            result = self._save(job)
            del job  # a copy of the whole state
            with self._changed:
                self._results.append(result)
                self._job = None
                self._changed.notify_all()

    def _save(self, snapshot: Snapshot) -> SavedInfo | Failure:
        try:
            self._before()
            saved = self._store.save(snapshot)
        except Exception as error:  # reported to the loop's thread, which decides; learning goes on
            if str(error) != self._last_error:
                _log.error("snapshot of step %d failed: %s", snapshot.step, error)
                self._last_error = str(error)
            return Failure(error, snapshot.step)
        if self._last_error:
            _log.info("%s: snapshots work again", saved.path)
            self._last_error = ""
        return saved
