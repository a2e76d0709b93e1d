"""Snapshots of everything that influences the future, atomic on disk and verified before use.

    DIR/lock                     flock of the one process that may write; holds its pid
    DIR/epoch                    counts the openings; a writer that finds a higher one stops
    DIR/step-000000001234/       one snapshot: state.safetensors, host.json, manifest.json

The order of the writes IS the promise: sink flush and dead-letter fsync, then the files, the
manifest, the rename, then the source's ack. Importing it costs no torch: that comes with the first
snapshot.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import msgspec

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.files import (
    CheckpointError,
    PerhapsIntact,
    explained,
    remove,
    sync_folder,
)
from stream_rnn.checkpoint.manifest import read_manifest
from stream_rnn.checkpoint.owner import check_owned, read_epoch, take_lock, write_epoch
from stream_rnn.checkpoint.snapshot import (
    Loaded,
    SavedInfo,
    Snapshot,
    read,
    snapshots,
    step_of,
    write,
)

_log = logging.getLogger(__name__)


def last_epoch(directory: Path) -> int:
    """The highest epoch that left a trace; a lost epoch file must not let it fall back."""
    epochs = [read_epoch(directory) or 0]
    for path in snapshots(directory):
        try:
            epochs.append(read_manifest(path).epoch)
        except CheckpointError:
            continue  # `Store.newest` reports it
    return max(epochs)


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
        with explained(self.directory):
            if not self.directory.is_dir():
                self.directory.mkdir(mode=0o700, parents=True)
                sync_folder(self.directory.parent)
            self._lock = take_lock(self.directory, wait_s)
            try:
                self.epoch = last_epoch(self.directory) + 1
                write_epoch(self.directory, self.epoch)
            except BaseException:
                self.close()
                raise

    def newest(self) -> Loaded | None:
        """Return the newest snapshot that verifies; `None` in a folder without snapshots.

        Damaged ones before it are logged, listed in `Loaded.fallbacks` and renamed to
        `damaged-step-...` so that they are never counted as kept. Leftovers of a killed writer are
        removed.

        Raises:
            CheckpointError: there are snapshots and none verifies (never start afresh silently).
            PerhapsIntact: the newest was written by a newer version, or is another user's.
        """
        self._require_open()
        for leftover in self.directory.glob(".tmp-*"):
            _log.info("%s: leftover of an interrupted write removed", leftover)
            remove(leftover)
        damaged: list[tuple[Path, str]] = []
        for path in snapshots(self.directory):
            try:
                loaded = read(path)
            except PerhapsIntact:
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
                f"{self.directory}: no snapshot can be trusted ({lines}); "
                "restore the folder from a backup, or start with --fresh, which moves it aside"
            )
        return None

    def _set_aside(self, path: Path) -> None:
        target = path.with_name(f"damaged-{path.name}")
        with explained(path):
            if target.exists():
                remove(target)
            path.rename(target)
            for old in sorted(self.directory.glob("damaged-step-*"))[: -self.keep]:
                remove(old)

    def save(self, snapshot: Snapshot) -> SavedInfo:
        """Write a snapshot; when it returns, a power cut cannot take it back. Tens of ms: fsync.

        Saving a step again replaces it atomically.

        Raises:
            Fenced: another process owns the folder by now.
            CheckpointError: non-finite tensors, disk full, ...; what was there before stands.
        """
        self._require_open()
        started = time.monotonic()
        fault("before_write")
        self._check_owned()
        final = self._name(snapshot.step)
        draft = self.directory / f".tmp-{snapshot.step}-{os.getpid()}"
        try:
            if draft.exists():
                shutil.rmtree(draft)
            size_bytes = write(snapshot, draft, self.epoch, self._parent)
            fault("before_rename")
            self._check_owned()
            draft.rename(final)
            fault("after_rename")
            sync_folder(self.directory)
        except (OSError, msgspec.MsgspecError, RuntimeError, TypeError, ValueError) as error:
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
        if there and step_of(there[0]) > step:
            raise CheckpointError(
                f"{there[0]}: is newer than step {step}, which would be ignored at a restart; "
                "resume from it, or start with --fresh"
            )
        name = f"step-{step:012d}"
        if not there or step_of(there[0]) < step:
            return self.directory / name
        _, _, revision = there[0].name.partition(".")
        return self.directory / f"{name}.{int(revision or 0) + 1}"

    def _prune(self) -> None:
        kept: set[int] = set()
        for path in snapshots(self.directory):
            step = step_of(path)
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

    def _check_owned(self) -> None:
        assert self._lock is not None
        check_owned(self.directory, self._lock, self.epoch)

    def _require_open(self) -> None:
        if self._lock is None:
            raise CheckpointError(f"{self.directory}: the store is not open; call open() first")

    def close(self) -> None:
        """Let the folder go. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
