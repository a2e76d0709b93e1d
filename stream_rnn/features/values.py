"""Reading one field of a record safely: a number, a category, or why the event is bad."""

from __future__ import annotations

import math

from stream_rnn.spi import Record

ABSURD = 1e24  # no measurement is that large; its square has no float32
MAX_CHARS = 256  # of a category or a key: longer ones are somebody's payload


class BadEvent(Exception):
    """The event cannot be used: counted, dead-lettered, skipped.

    Attributes:
        issue: from a closed set (a metric label): missing, wrong_type, non_finite, absurd,
            unknown_class, bad_key.
    """

    def __init__(self, issue: str, message: str) -> None:
        super().__init__(message)
        self.issue = issue


def number(record: Record, name: str) -> float:
    """The finite number in field `name`; raises BadEvent saying what is there instead."""
    value = record.get(name)
    if type(value) is float and -ABSURD <= value <= ABSURD:  # nearly all of them
        return value
    if value is None:
        if name in record:
            raise BadEvent("missing", f"field {name!r} is missing: it is null")
        known = ", ".join(sorted(str(key)[:40] for key in record)[:12])
        raise BadEvent("missing", f"field {name!r} is missing; the event has: {known or 'nothing'}")
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float):
        raise BadEvent("wrong_type", f"field {name!r}: expected a number, got {shown(value)}")
    try:
        value = float(value)
    except OverflowError:
        raise BadEvent("absurd", f"field {name!r}: an integer too large for a float") from None
    if not math.isfinite(value):
        raise BadEvent("non_finite", f"field {name!r} is {value}")
    if abs(value) > ABSURD:
        raise BadEvent("absurd", f"field {name!r} is {value:g}, beyond {ABSURD:g}")
    return value


def category(record: Record, name: str, max_chars: int = MAX_CHARS) -> str:
    """The category in field `name` as text; raises BadEvent."""
    value = record.get(name)
    if value is None:
        raise BadEvent("missing", f"field {name!r} is missing")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | bool | float):
        raise BadEvent("wrong_type", f"field {name!r}: expected a category, got {shown(value)}")
    text = str(value)
    if len(text) > max_chars:
        what = f"a category of {len(text)} characters, at most {max_chars} are allowed"
        raise BadEvent("wrong_type", f"field {name!r}: {what}")
    return text


def shown(value: object) -> str:
    """A value in a message, bounded: it goes into a dead letter, and deep nesting has no repr()."""
    kind = type(value).__name__
    if isinstance(value, str):
        return f"{kind} {value if len(value) <= 60 else value[:57] + '...'!r}"
    return f"{kind} of {len(value)}" if isinstance(value, list | dict | bytes) else kind
