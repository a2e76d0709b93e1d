"""Features found out by looking at the first event, where the configuration names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream_rnn.config import ConfigError
from stream_rnn.spi import (
    Codec,
    DecodeError,
    EndOfStream,
    Guarantee,
    NotConnected,
    Record,
    SettingError,
    Source,
    is_finite_number,
)

MAX_CHARS = 32
"""A longer text is prose or an identifier rather than a category."""


def discover(
    source: Source, codec: Codec, exclude: Sequence[str | None], max_events: int = 100
) -> dict[str, Any]:
    """Look at the first usable event of a replayable source: numbers and short texts are inputs."""
    if source.guarantee is not Guarantee.REPLAYABLE or not source.can_preview:
        raise ConfigError(
            "[features] is missing: name the inputs, e.g. numeric = [...]; they can only be found "
            "out by themselves for a source that can be read twice"
        )
    with source:
        try:
            source.open(None)
            events = source.poll(max_events, 1.0).events
        except (NotConnected, EndOfStream) as error:
            text = f"[features] is missing, and no event could be read: {error}"
            raise ConfigError(text) from None
        except SettingError as error:
            raise ConfigError(f"[source] {error}") from None
    for event in events:
        try:
            record = codec.decode(event.data)
        except DecodeError:
            continue
        return _fields_of(record, exclude)
    what = "event does not decode" if len(events) == 1 else f"{len(events)} events do not decode"
    raise ConfigError(f"[features] is missing, and the first {what}")


def _fields_of(record: Record, exclude: Sequence[str | None]) -> dict[str, Any]:
    numeric, categorical = [], []
    for name, value in record.items():
        if name in exclude:
            continue
        if is_finite_number(value) or isinstance(value, bool):
            numeric.append(name)
        elif isinstance(value, str) and len(value) <= MAX_CHARS:
            categorical.append(name)
    return {"numeric": numeric, "categorical": categorical}
