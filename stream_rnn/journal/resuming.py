"""Where reading a journal begins, and when it must not: gaps, damage, another run's journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stream_rnn.journal.records import PARTITION, Damage, Positions
from stream_rnn.journal.segments import Inventory, damages
from stream_rnn.spi import Position, SettingError, worded

OnGap = Literal["refuse", "earliest", "latest"]
OnDamage = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Start:
    """Where reading begins.

    Attributes:
        after: sequence of the last event applied.
        gap: events passed over, as `on_gap` says.
        anew: where the source stands if the journal's own numbering begins here; None: it goes on.
    """

    after: int
    gap: int = 0
    anew: Positions | None = None


def start(
    directory: Path, found: Inventory, resume: Position | None, on_gap: OnGap, rewinds: bool
) -> Start:
    """Where to go on after `resume`.

    Args:
        directory: of the journal.
        found: what is in it.
        resume: the newest position applied, or None.
        on_gap: what to do about events that are not there any more.
        rewinds: whether the source behind the journal could deliver everything once more.

    Raises:
        SettingError: events are missing, or the journal belongs to another run.
    """
    place = f"dir = {str(directory)!r}"
    if resume and PARTITION not in resume:
        return _before_the_journal(place, found, dict(resume))
    wanted = (resume or {}).get(PARTITION, 0)
    if not isinstance(wanted, int):
        raise SettingError(f"{place}: a position is a number, the snapshot has {wanted!r}")
    if wanted > found.newest:
        if on_gap == "latest" and not rewinds:
            return Start(wanted, anew=found.positions)
        raise SettingError(
            f"{place}: the journal ends with event {found.newest}, the snapshot has learned event "
            f"{wanted}: the journal was deleted, or restored from an older backup; put it back"
            + ("" if rewinds else ', set on_gap = "latest" to go on with what comes now')
            + ", or start over with --fresh (the old state is kept)"
        )
    gap = found.oldest - 1 - wanted
    if gap <= 0:
        return Start(wanted)
    if on_gap == "refuse":
        since = f"the snapshot ends with event {wanted}" if wanted else "there is no snapshot"
        raise SettingError(
            f"{place}: {since}, the journal begins with event {found.oldest}: {gap} "
            f"{worded(gap, 'event is', 'events are')} "
            'gone; restore a snapshot that is newer, or set on_gap = "earliest" to go on with '
            'the oldest event kept, "latest" with what comes now'
        )
    after = found.oldest - 1 if on_gap == "earliest" else found.newest
    return Start(after, gap=after - wanted)


def _before_the_journal(place: str, found: Inventory, resume: Positions) -> Start:
    """The snapshot was taken without a journal: it goes on where that one began, or not at all."""
    if found.newest == 0:
        return Start(0, anew=resume)
    if found.oldest == 1 and found.segments[0].positions == resume:
        return Start(0)
    raise SettingError(
        f"{place}: holds events {found.oldest} to {found.newest}, and the snapshot was taken "
        f"without this journal (its source stood at {resume}); give the journal a new folder, or "
        "start over with --fresh (the old state is kept)"
    )


def damage(found: Inventory, after: int) -> list[Damage]:
    """What cannot be read behind event `after`, or at the end, where the source's place is told."""
    return list(damages(found.segments, after, found.newest)) or found.damages


def refusal(damaged: Sequence[Damage]) -> SettingError:
    """What to tell of damage."""
    lost = sum(each.lost for each in damaged)
    others = len(damaged) - 1
    more = f" (and {others} more {worded(others, 'place')})" if others else ""
    return SettingError(
        f"{damaged[0]}{more}; events that cannot be read: {lost}; restore the file from a backup, "
        'or set on_damage = "skip" to go on without them'
    )
