"""Whose the state folder is: a lock for one process, an epoch that fences off an older one."""

from __future__ import annotations

import fcntl
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from stream_rnn.checkpoint.files import (
    CheckpointError,
    Fenced,
    StateLocked,
    explained,
    open_regular,
    sync_folder,
    write_durably,
)

UNKNOWN = "unknown"


def take_lock(directory: Path, wait_s: float) -> int:
    """Lock the folder for this process; closing the descriptor returned lets it go.

    Raises:
        StateLocked: another process holds it still after `wait_s`.
    """
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
                owner = _written(descriptor)
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


def last_owner(directory: Path) -> str:
    """The process that locked the folder last, read without touching the lock."""
    try:
        with open_regular(directory / "lock") as descriptor:
            return _written(descriptor)
    except CheckpointError:
        return UNKNOWN


def _written(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).strip()
    return text.decode() if text.isdigit() else UNKNOWN


def read_epoch(directory: Path) -> int | None:
    """The epoch in the folder; `None` where the file is missing or damaged."""
    try:
        with open_regular(directory / "epoch") as descriptor:
            text = os.read(descriptor, 32).strip()
    except CheckpointError:
        return None
    return int(text) if text.isdigit() and len(text) < 20 else None


def write_epoch(directory: Path, epoch: int) -> None:
    """Start an epoch, durably; whoever works under a lower one finds out before it writes."""
    draft = directory / f".tmp-epoch-{os.getpid()}"
    draft.unlink(missing_ok=True)
    write_durably(draft, f"{epoch}\n".encode())
    draft.rename(directory / "epoch")
    sync_folder(directory)


def check_owned(directory: Path, lock: int, epoch: int) -> None:
    """Raise Fenced unless the folder is the one locked and the epoch is the one started."""
    held = os.fstat(lock)
    try:
        there = (directory / "lock").stat()
    except OSError:
        there = None
    if there is None or (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
        raise Fenced(f"{directory}: was moved or replaced while in use; restart the process")
    found = read_epoch(directory)
    if found != epoch:
        raise Fenced(
            f"{directory}: epoch {found} appeared, this process is epoch {epoch}; a "
            "newer process owns the state: this one must stop"
        )


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
    with explained(directory):
        lock = take_lock(directory, wait_s=0.0)
        try:
            target = unused(directory.with_name(f"{directory.name}.{stamp}"))
            try:
                directory.rename(target)
            except OSError:
                target = unused(directory / stamp)
                target.mkdir(mode=0o700)
                for entry in directory.iterdir():
                    if entry.name not in ("lock", "epoch") and not entry.name.startswith("old-"):
                        entry.rename(target / entry.name)
                sync_folder(target)
            sync_folder(target.parent)
        finally:
            os.close(lock)
    return target


def unused(path: Path) -> Path:
    """`path`, or the first of `path-2`, `path-3`... that is not there."""
    candidate, n = path, 1
    while candidate.exists():
        n += 1
        candidate = path.with_name(f"{path.name}-{n}")
    return candidate
