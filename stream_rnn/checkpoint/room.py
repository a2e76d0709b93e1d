"""How much room there is for snapshots: what the file system of a folder says, at any thread."""

from __future__ import annotations

import os
from pathlib import Path


def free_bytes(directory: Path) -> float | None:
    """What an ordinary user may still write there; None if the folder is gone or does not answer.

    A full quota is not seen: no portable call tells it.
    """
    try:
        told = os.statvfs(directory)
    except OSError:
        return None
    return float(told.f_bavail * told.f_frsize)


def size_bytes(directory: Path) -> float | None:
    """Of the whole file system; None as for `free_bytes`."""
    try:
        told = os.statvfs(directory)
    except OSError:
        return None
    return float(told.f_blocks * told.f_frsize)
