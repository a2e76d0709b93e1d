"""Files of the state folder: safe from a power cut once written, distrusted when read."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CheckpointError(Exception):
    """A snapshot cannot be written, found or trusted: names the place, what came, the remedy."""


class StateLocked(CheckpointError):
    """Another process works on the folder."""


class Fenced(CheckpointError):
    """The folder belongs to a newer process now: stop, write nothing more."""


class PerhapsIntact(CheckpointError):
    """A snapshot of which nothing says that it is damaged: never passed over for an older one."""


class UnknownFormat(PerhapsIntact):
    """Written by a newer version of this program."""


class Forbidden(PerhapsIntact):
    """Another user's."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system refuses into a CheckpointError with the remedy.

    It names `path` where the system names none.
    """
    try:
        yield
    except PermissionError as error:
        raise Forbidden(
            f"{error.filename or path}: this user may not read or write it; be the daemon's user "
            "or root, or hand it over (chown)"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path}: {error.strerror or error}; check the path and the disk"
        ) from error


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open for reading what is a plain file: no link out of the folder, no pipe that never ends."""
    with explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CheckpointError(f"{path}: not a plain file")
            yield descriptor
        finally:
            os.close(descriptor)


def write_durably(path: Path, data: bytes) -> str:
    """Write a new file, fsync included; return its sha256."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a rename or a new file is one only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, following no link."""
    with explained(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
