"""One field of many records at once; refuses what `values.number` and `values.category` refuse."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from stream_rnn.columns import Array
from stream_rnn.features.cycles import Calendar
from stream_rnn.features.values import ABSURD, MAX_CHARS, BadEvent, category, number
from stream_rnn.native.columns import ISSUES
from stream_rnn.spi import Record

NUMBERS = {float, int, bool}


class Numbers(NamedTuple):
    """A numeric field.

    Attributes:
        value_T: 0 where it is none.
        issue_T: why it is none, as its place in `ISSUES`, 0 where it is one; None: they all are.
    """

    value_T: Array
    issue_T: Array | None

    @property
    def sound(self) -> int:
        """How many there are before the first that is none."""
        if self.issue_T is None or not self.issue_T.any():
            return len(self.value_T)
        return int((self.issue_T != 0).argmax())


def numbers(records: Sequence[Record], name: str) -> Numbers:
    """The field of each record, as `number` reads it."""
    value_T = _all_numbers(records, name)
    if value_T is not None:
        return Numbers(value_T, None)
    value_T = np.zeros(len(records))
    issue_T = np.zeros(len(records), dtype=np.uint8)
    for t, record in enumerate(records):
        try:
            value_T[t] = number(record, name)
        except BadEvent as error:
            issue_T[t] = ISSUES.index(error.issue)
    return Numbers(value_T, issue_T)


def _all_numbers(records: Sequence[Record], name: str) -> Array | None:
    """The field of each record if there is nothing unusual anywhere."""
    try:
        column = list(map(itemgetter(name), records))
        if not NUMBERS.issuperset(map(type, column)):
            return None
        value_T = np.array(column, dtype=np.float64)
    except (KeyError, OverflowError):  # missing; an integer too large for a float
        return None
    return value_T if bool((np.abs(value_T) <= ABSURD).all()) else None  # NaN is not


def categories(records: Sequence[Record], name: str) -> list[str | BadEvent]:
    """The field of each record as `category` reads it, or what it raises."""
    try:
        column: list[Any] = list(map(itemgetter(name), records))
    except KeyError:
        column = []
    if column and set(map(type, column)) == {str} and max(map(len, column)) <= MAX_CHARS:
        return column
    return [_category(record, name) for record in records]


def _category(record: Record, name: str) -> str | BadEvent:
    try:
        return category(record, name)
    except BadEvent as error:
        return error


def times(records: Sequence[Record], calendar: Calendar) -> Array:
    """The seconds of `calendar` for the first records, as many as have a time."""
    value_T = _all_numbers(records, calendar.field)
    if value_T is not None:
        return calendar.of_numbers(value_T)
    seconds: list[float] = []
    for record in records:
        try:
            seconds.append(calendar.seconds(record))
        except BadEvent:
            break
    return np.array(seconds, dtype=np.float64)
