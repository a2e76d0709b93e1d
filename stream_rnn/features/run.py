"""The features of a run of events at once, bit for bit what `Features.encode` makes of each.

The recurrences run in the native library, over numbers packed from the scales, which stay the truth
at rest: nothing of `Features` changes before `commit`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stream_rnn.columns import Array, at, behind, places, used
from stream_rnn.features.cycles import CYCLE_S, Calendar
from stream_rnn.features.fields import Numbers, categories, numbers, times
from stream_rnn.features.values import BadEvent
from stream_rnn.native.columns import FILLS, ISSUES, Columns, Encoding
from stream_rnn.spi import Record

if TYPE_CHECKING:
    from stream_rnn.features.encoder import Features


class FeatureRun:
    """Events on their way through `features`: made, then `scale`, then `commit`.

    Args:
        features: what they are for.
        records: the events, in order.
        lanes: of each.
        library: computes.

    Attributes:
        limit: how many events before the first of which something is wrong, or is not usable,
            that can be told without knowing the scales.
    """

    def __init__(
        self,
        features: Features,
        records: Sequence[Record],
        lanes: Sequence[int],
        library: Columns,
    ) -> None:
        self.features = features
        self.records = records
        self.lanes = lanes
        self._library = library
        self.limit = len(records)
        self._numbers: dict[str, Numbers] = {}
        self._value_FT = np.empty((len(features.numeric), len(records)))
        issues: list[Array | None] = []
        for f, name in enumerate(features.numeric):
            field = self.require(name) if features.missing == "reject" else self.numbers(name)
            self._value_FT[f] = field.value_T
            issues.append(field.issue_T)
        self._issue_FT: Array | None = None
        if any(issue_T is not None for issue_T in issues):
            nothing = np.zeros(len(records), dtype=np.uint8)
            self._issue_FT = np.array([nothing if i is None else i for i in issues])
        self._chosen = {name: self._choices(name) for name in features.vocabularies}
        calendar = features.calendar
        self._seconds_T = np.empty(0) if calendar is None else times(records, calendar)
        if calendar is not None:
            self.stop_before(len(self._seconds_T))

    def numbers(self, name: str) -> Numbers:
        """A numeric field of all the events."""
        field = self._numbers.get(name)
        if field is None:
            field = self._numbers[name] = numbers(self.records, name)
        return field

    def require(self, name: str) -> Numbers:
        """Likewise, where an event without it is refused."""
        field = self.numbers(name)
        self.stop_before(field.sound)
        return field

    def stop_before(self, t: int) -> None:
        """The event at place t is not for this run."""
        self.limit = min(self.limit, t)

    def _choices(self, name: str) -> list[str | BadEvent]:
        found = categories(self.records, name)
        if self.features.missing == "reject":
            bad = (t for t, each in enumerate(found) if isinstance(each, BadEvent))
            self.stop_before(next(bad, len(found)))
        return found

    @property
    def where(self) -> list[int] | None:
        """Which of the run's lanes each event has; None: all the first."""
        return None if self._lane_T is None else self._lane_T.tolist()

    def lanes_of(self, n: int) -> list[int]:
        """The different lanes of the first n events, in the order they come."""
        return self._lanes[: used(self._lane_T, n)]

    def scale(self, end: int, strict: Collection[str] = (), room: int = 0) -> int:
        """Standardize the numeric fields of the events before `end`; may be asked anew.

        Args:
            end: at most `limit`.
            strict: fields in which a value out of all proportion refuses the event in any case.
            room: columns left free at the end of each row.

        Returns:
            How many events were taken; the one after them is refused.
        """
        features, lanes = self.features, self.lanes[:end]
        F, C = len(features.numeric), len(features.vocabularies)
        self._slot_T, self._slots = features.scales.places(lanes)
        self._lane_T, self._lanes = places(lanes)
        self._table = features.scales.packed(self._slots)
        self.x_TI = np.zeros((end, features.width + room))
        self._count, self._first = np.zeros((2, len(ISSUES)), dtype=np.int64)
        last_LF = self._last() if features.missing == "previous" else None
        is_strict = np.array([name in strict for name in features.numeric], dtype=np.uint8)
        # in the order in which one event is looked at: numbers, categories, extra fields, clips
        self._places = 2 * (F + C) + 1
        return self._library.encode(
            Encoding(
                *(end, F, len(self.records), self.x_TI.shape[1]),
                features.scales.scaling(features.clip),
                *(FILLS[features.missing], self._places, F + C + 1),
                *(at(self._table), at(self._slot_T), at(self._lane_T), at(is_strict)),
                *(at(self._value_FT), at(self._issue_FT), at(last_LF)),
                *(at(self.x_TI), at(self._count), at(self._first)),
            )
        )

    def _last(self) -> Array:
        """The newest standardized value of each lane and field, NaN where there is none."""
        rows = []
        for lane in self._lanes:
            history = self.features.history.get(lane, {})
            pasts = [history.get(name) for name in self.features.numeric]
            rows.append([past[-1] if past else np.nan for past in pasts])
        return np.array(rows)

    def commit(self, n: int) -> Array:
        """Rows of the first n events, which `scale` took last; they count from here on."""
        features, x_TI = self.features, self.x_TI[:n]
        features.scales.take(self._slots[: used(self._slot_T, n)], self._table)
        found = [
            (int(self._first[i]), ISSUES[i], int(self._count[i]))
            for i in np.flatnonzero(self._count).tolist()
        ]
        F, C = len(features.numeric), len(features.vocabularies)
        usual = list(map(features.expected.issuperset, self.records[:n]))
        if not all(usual):
            place = usual.index(False) * self._places + F + C
            found.append((place, "extra", usual.count(False)))
        column = F
        for c, (name, chosen) in enumerate(self._chosen.items()):
            found += self._one_hot(name, chosen[:n], x_TI, column, c)
            column += features.room(name)
        for _, issue, count in sorted(found):
            features.issues[issue] = features.issues.get(issue, 0) + count
        column = self._remember(x_TI, column)
        if features.calendar is not None:
            self._waves(features.calendar, x_TI[:, column:])
            column += features.calendar.width
        for value in features.take_gap():
            x_TI[0, column] = value
        return x_TI

    def _waves(self, calendar: Calendar, x_TI: Array) -> None:
        """Write the calendar's columns, the first ones here."""
        lengths = np.array([CYCLE_S[cycle] for cycle in calendar.cycles])
        self._library.waves(
            *(self._seconds_T.ctypes.data, len(x_TI), lengths.ctypes.data, len(lengths)),
            harmonics=calendar.harmonics,
            out=x_TI.ctypes.data,
            width=x_TI.strides[0] // x_TI.itemsize,
        )

    def _one_hot(
        self, name: str, chosen: Sequence[str | BadEvent], x_TI: Array, column: int, c: int
    ) -> list[tuple[int, str, int]]:
        """Write the columns, admit new categories; what is to be counted, as in `commit`."""
        features = self.features
        known, room = features.vocabularies[name], features.room(name)
        index = {value: i for i, value in enumerate(known)}
        issues: dict[str, list[int]] = {}
        F, C = len(features.numeric), len(features.vocabularies)
        for t, choice in enumerate(chosen):
            if isinstance(choice, BadEvent):
                issues.setdefault(choice.issue, []).append(t * self._places + F + c)
                continue
            i = index.get(choice)
            if i is None:
                if len(known) >= room:
                    place = t * self._places + F + C + 1 + F + c
                    issues.setdefault("unknown_category", []).append(place)
                    continue
                i = index[choice] = len(known)
                known.append(choice)
            x_TI[t, column + i] = 1.0
        return [(first[0], issue, len(first)) for issue, first in issues.items()]

    def _remember(self, x_TI: Array, column: int) -> int:
        """Write the lags, and remember the run's values; the column after them."""
        features = self.features
        if not features.remembers:
            return column
        histories = [features.history.setdefault(lane, {}) for lane in self.lanes_of(len(x_TI))]
        where = self.where
        starts = {}
        for name, back in features.lags.items():
            starts[name] = column
            column += len(back)
        for f, name in enumerate(features.numeric):
            if name not in features.lags and features.missing != "previous":
                continue
            pasts: list[deque[float]] = []
            for history in histories:
                if name not in history:
                    history[name] = features.past(name)
                pasts.append(history[name])
            lagged = behind(
                pasts,
                where and where[: len(x_TI)],
                x_TI[:, f].tolist(),
                features.lags.get(name, ()),
            )
            for i, values in enumerate(lagged):
                x_TI[:, starts[name] + i] = [0.0 if v is None else v for v in values]
        return column
