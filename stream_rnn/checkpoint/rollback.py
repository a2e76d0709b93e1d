"""Going back: newer snapshots are moved aside, so that the next start continues from an older one.

Nothing is deleted, and every step of it is one rename: interrupted anywhere, the folder is sound
and the command can be given again.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stream_rnn.checkpoint.files import CheckpointError, explained, sync_folder
from stream_rnn.checkpoint.owner import take_lock, unused, write_epoch
from stream_rnn.checkpoint.snapshot import Loaded, find, read, snapshots
from stream_rnn.checkpoint.store import last_epoch


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        target: the snapshot that is the newest now, verified.
        before: positions of the newest sound one it replaced; None if none of those was sound.
        moved: names of the snapshots moved aside, newest first.
        aside: the folder they are in now; None if the target was the newest already.
        epoch: the folder's, raised: a process that still believed to own it finds out.
    """

    target: Loaded
    before: dict[str, dict[str, int | str]] | None
    moved: list[str]
    aside: Path | None
    epoch: int


def roll_back(directory: Path, to: str) -> RolledBack:
    """Make the snapshot `to` (a folder's name, or a step) the newest one of a state folder.

    Raises:
        StateLocked: a daemon works on the folder.
        CheckpointError: there is no such snapshot, or it is damaged; nothing was moved.
    """
    with explained(directory):
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such folder; give the folder of [state] dir")
        lock = take_lock(directory, wait_s=0.0)
        try:
            target = read(find(directory, to))
            newer = _before(snapshots(directory), target.path)
            before = _newest_positions(newer)
            epoch = last_epoch(directory) + 1  # of the newer ones too
            aside = _move(directory, newer) if newer else None
            write_epoch(directory, epoch)
        finally:
            os.close(lock)
    return RolledBack(target, before, [path.name for path in newer], aside, epoch)


def _before(folders: list[Path], target: Path) -> list[Path]:
    return folders[: [path.name for path in folders].index(target.name)]


def _newest_positions(folders: list[Path]) -> dict[str, dict[str, int | str]] | None:
    for folder in folders:
        try:
            return read(folder).positions
        except CheckpointError:
            continue  # a damaged one is a reason to go back
    return None


def _move(directory: Path, folders: list[Path]) -> Path:
    aside = unused(directory / f"rolled-back-{datetime.now(UTC):%Y%m%dT%H%M%S}")
    aside.mkdir(mode=0o700)
    for folder in folders:  # the newest first: what is left is a sound line at any moment
        folder.rename(aside / folder.name)
    sync_folder(aside)
    sync_folder(directory)
    return aside


def link_aside(directory: Path, fingerprint: str) -> Path:
    """Keep the snapshots there are, of the model `fingerprint`, out of reach of pruning.

    Links, not copies, where the file system has them. Done again it changes nothing.
    """
    model = "".join(c for c in fingerprint if c.isascii() and c.isalnum())[:12]  # may be forged
    aside = directory / f"before-migration-{model}"
    with explained(aside):
        for folder in snapshots(directory):
            kept = aside / folder.name
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file in folder.iterdir():
                if not (kept / file.name).exists():
                    _link(file, kept / file.name)
            sync_folder(kept)
        sync_folder(aside)
        sync_folder(directory)
    return aside


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError:  # no links on this file system
        shutil.copyfile(file, target)
