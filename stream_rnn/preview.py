"""Would this configuration use what the source holds? A look at a few events, learning nothing."""

from __future__ import annotations

from collections.abc import Sequence

from stream_rnn.console import printable
from stream_rnn.engine.engine import Engine
from stream_rnn.features.values import BadEvent
from stream_rnn.spi import DecodeError, EndOfStream, Event, Finding, Guarantee, Record, Source

EVENTS = 100
PATIENCE_S = 1.0


def preview(source: Source, engine: Engine, targets: Sequence[str]) -> list[Finding]:
    """What to tell of the next events of an open source; nothing if all of them can be used.

    Args:
        source: open. One that cannot be read twice is left alone.
        engine: decodes events and says which it would refuse; not changed.
        targets: fields without which nothing would be learned.

    Raises:
        NotConnected, SettingError: as the source's `poll`.
    """
    if source.guarantee is not Guarantee.REPLAYABLE or not source.can_preview:
        return []
    try:
        events = source.poll(EVENTS, PATIENCE_S).events
    except EndOfStream:
        return [Finding(True, "the source has no event (more)")]
    if not events:
        return []
    refused: list[str] = []
    records: list[Record] = []
    for event in events:
        try:
            records.append(_usable(engine, event))
        except (DecodeError, BadEvent) as error:
            refused.append(str(error))
    what = "event" if len(events) == 1 else f"{len(events)} events"
    if not records:
        text = f"the next {what}: none can be used; {printable(refused[0])}"
        return [Finding(False, text)]
    findings = []
    if refused:
        text = f"of the next {what} {len(refused)} would be refused; {printable(refused[0])}"
        findings.append(Finding(True, text))
    for name in targets:
        if all(record.get(name) is None for record in records):
            text = f"the next {what}: none holds the target {name!r}, so nothing would be learned"
            findings.append(Finding(False, text))
    if objection := engine.task.objection(records):
        findings.append(Finding(False, f"the next {what}: {objection}"))
    return findings


def _usable(engine: Engine, event: Event) -> Record:
    record = engine.codec.decode(event.data)
    engine.lanes.key_of(event, record)
    engine.lanes.ends(record)
    engine.task.check(record)
    return record
