"""Records -> rows of numbers: numeric fields standardized online, categories, calendar, lags.

All state is plain Python and part of every snapshot; one event leaves the same state whatever came
in one poll with it.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stream_rnn.features.cycles import Calendar
from stream_rnn.features.per_lane import PerLane
from stream_rnn.features.saved import count, finite, texts
from stream_rnn.features.scaler import NEW_LANE, Scaler, Scales
from stream_rnn.features.values import BadEvent, category, number
from stream_rnn.spi import Record

GAP_SCALE = 10.0  # ln(1 + 22,000) = 10: gaps that matter stay in the range of the other inputs

ISSUES = {"missing", "wrong_type", "non_finite", "absurd", "unknown_class", "bad_key"}
ISSUES |= {"extra", "clipped", "unknown_category"}
"""What is counted: a closed set, as each is a metric's label."""


class Features:
    """What the network sees of an event.

    Args:
        numeric: fields to standardize online.
        categorical: field -> its categories (an unknown one is all zeros, and counted), or a list
            of fields whose categories are learned as they come, up to `max_categories`.
        calendar: cyclic time features.
        lags: numeric field -> how many events back, e.g. `{ load = [1, 24] }`.
        missing: what to do when a field is missing or not a finite number: "reject" the event (dead
            letter), use the field's "previous" value, or its "mean"; a missing category is then all
            zeros. Always counted. Fields that nothing reads are ignored and counted as extra.
        clip: standardized values are held within +- this.
        memory: events over which scales fade.
        scaling: "shared" by all lanes, or one scale per "lane".
        max_categories: room for categories learned as they come.
        gap: one more input that tells how many events were shed ([overload]) since the last one
            that was taken in: 0 for none, ln(1 + n) / 10 for n, so 1.15 for 100,000.
    """

    def __init__(
        self,
        numeric: list[str] | None = None,
        categorical: dict[str, list[str]] | list[str] | None = None,
        calendar: Calendar | None = None,
        lags: dict[str, list[int]] | None = None,
        missing: Literal["reject", "previous", "mean"] = "reject",
        clip: float = 10.0,
        memory: int = 10_000,
        scaling: Literal["shared", "lane"] = "shared",
        max_categories: int = 32,
        gap: bool = False,
    ) -> None:
        self.numeric = tuple(dict.fromkeys(numeric or ()))
        fixed = categorical if isinstance(categorical, dict) else {}
        open_fields = () if isinstance(categorical, dict) else tuple(categorical or ())
        self.vocabularies = {name: list(dict.fromkeys(values)) for name, values in fixed.items()}
        self.vocabularies |= {name: [] for name in open_fields}
        self._open = frozenset(open_fields)
        self.calendar = calendar
        self.lags = {name: tuple(sorted(set(back))) for name, back in (lags or {}).items()}
        for name, back in self.lags.items():
            if name not in self.numeric:
                raise ValueError(f"lags: {name!r} is not among numeric = {list(self.numeric)}")
            if not back or back[0] < 1 or back[-1] > 100_000:
                raise ValueError(f"lags.{name}: expected numbers in 1..100000, got {list(back)}")
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        if memory < 2:
            raise ValueError(f"memory must be at least 2, got {memory}")
        if not 1 <= max_categories <= 100_000:
            raise ValueError(f"max_categories must be in 1..100000, got {max_categories}")
        self.missing = missing
        self.clip = clip
        self.memory = memory
        self.scaling = scaling
        self.max_categories = max_categories
        self.gap = gap
        self._shed = 0  # events, since the last one that was taken in; 0 unless `gap`
        self.issues: dict[str, int] = {}
        self.scales = Scales(self.numeric, memory, by_lane=scaling == "lane")
        self.remembers = bool(self.lags) or missing == "previous"
        self.history: PerLane[dict[str, deque[float]]] = PerLane(
            saved=lambda fields: {name: list(past) for name, past in fields.items()},
            restored=lambda fields: {name: self.past(name, past) for name, past in fields.items()},
            copied=lambda fields: {name: past.copy() for name, past in fields.items()},
        )
        self.expected = {*self.numeric, *self.vocabularies}
        if calendar is not None:
            self.expected.add(calendar.field)

    def expect(self, *names: str | None) -> None:
        """Fields that something else reads (a target, a key): they are not counted as extra."""
        self.expected |= {name for name in names if name is not None}

    @property
    def width(self) -> int:
        """I, numbers per event."""
        room = sum(self.room(name) for name in self.vocabularies)
        lags = sum(len(back) for back in self.lags.values())
        calendar = self.calendar.width if self.calendar else 0
        return len(self.numeric) + room + lags + calendar + self.gap

    def names(self) -> list[str]:
        """One name per number, for the banner and for the persistence prior."""
        names = list(self.numeric)
        for field, values in self.vocabularies.items():
            if field in self._open:
                names += [f"{field}#{i}" for i in range(self.max_categories)]
            else:
                names += [f"{field}={value}" for value in values]
        names += [f"{field}[-{back}]" for field, all_back in self.lags.items() for back in all_back]
        if self.calendar:
            names += self.calendar.names()
        return [*names, "gap"] if self.gap else names

    def encode(self, record: Record, lane: int) -> list[float]:
        """One row of `width` numbers; learns the scales, or raises BadEvent and learns nothing."""
        scalers = self.scales.of(lane)
        values = [self._number(record, name, scalers[name], lane) for name in self.numeric]
        chosen = {name: self._choose(record, name) for name in self.vocabularies}
        time = self._time(record)
        # nothing below can fail: from here on the event counts
        if not record.keys() <= self.expected:
            self.count("extra")
        row: list[float] = []
        for scaler, (value, is_measured) in zip(scalers.values(), values, strict=True):
            if is_measured:  # a filled-in one would narrow the scale while a sensor is away
                scaler.learn(value)
            scaled = scaler.scale(value)
            if abs(scaled) > self.clip:
                self.count("clipped")
                scaled = math.copysign(self.clip, scaled)
            row.append(scaled)
        standardized = dict(zip(self.numeric, row, strict=True)) if self.remembers else {}
        for name, choice in chosen.items():
            row += self._one_hot(name, choice)
        return row + self._lagged(standardized, lane) + time + self.take_gap()

    def pass_over(self, n: int) -> None:
        """Events were shed: the next one that is taken in tells how many."""
        if self.gap:
            self._shed += n

    def take_gap(self) -> list[float]:
        if not self.gap:
            return []
        shed, self._shed = self._shed, 0
        return [math.log1p(shed) / GAP_SCALE]

    def require(self, record: Record) -> None:
        """Raise BadEvent if `encode` would in a lane that starts anew. Changes nothing."""
        issues = dict(self.issues)
        try:
            for name, scaler in self.scales.of(NEW_LANE).items():
                self._number(record, name, scaler, NEW_LANE)
            for name in self.vocabularies:
                self._choose(record, name)
            self._time(record)
        finally:
            self.issues = issues

    def copied(self, lane: int | None = None) -> Features:
        """One that encodes as this one does now, and shares nothing with it that changes.

        Args:
            lane: know the past of this lane only; None: of all.
        """
        twin = copy.copy(self)
        twin.issues = dict(self.issues)
        twin.vocabularies = {name: list(values) for name, values in self.vocabularies.items()}
        twin.scales = self.scales.copied(lane)
        twin.history = self.history.copied(lane)
        return twin

    def check(self, name: str, value: float, lane: int) -> None:
        """Raise BadEvent for a value out of all proportion to its field's."""
        if name in self.numeric:
            self.scales.of(lane)[name].check(name, value)

    def reset_lane(self, lane: int) -> None:
        """Another key takes the lane."""
        self.end_episode(lane)
        self.scales.reset_lane(lane)

    def end_episode(self, lane: int) -> None:
        """The lane's next event has no past; the scales of its key stay."""
        self.history.pop(lane, None)

    def _number(self, record: Record, name: str, scaler: Scaler, lane: int) -> tuple[float, bool]:
        """The field's value, and whether it was measured (or filled in)."""
        try:
            value = number(record, name)
            scaler.check(name, value)
        except BadEvent as error:
            if self.missing == "reject" or scaler.n == 0:
                raise
            self.count(error.issue)
            past = self.history.get(lane, {}).get(name)
            if self.missing == "previous" and past:
                return scaler.unscale(past[-1]), False
            return scaler.mean, False
        return value, True

    def _time(self, record: Record) -> list[float]:
        return [] if self.calendar is None else self.calendar.encode(record)

    def _choose(self, record: Record, name: str) -> str | None:
        try:
            return category(record, name)
        except BadEvent as error:
            if self.missing == "reject":
                raise
            self.count(error.issue)
            return None

    def room(self, name: str) -> int:
        return self.max_categories if name in self._open else len(self.vocabularies[name])

    def _one_hot(self, name: str, choice: str | None) -> list[float]:
        known, room = self.vocabularies[name], self.room(name)
        row = [0.0] * room
        if choice is None:
            return row
        if choice not in known and len(known) < room:  # a fixed one has no room left
            known.append(choice)
        if choice in known:
            row[known.index(choice)] = 1.0
        else:
            self.count("unknown_category")
        return row

    def _lagged(self, standardized: Mapping[str, float], lane: int) -> list[float]:
        """Earlier values of the lane (0, the mean, where there are none), then remember these."""
        if not self.remembers:
            return []
        history = self.history.setdefault(lane, {})
        out: list[float] = []
        for name, back in self.lags.items():
            past = history.get(name, ())
            out += [past[-b] if len(past) >= b else 0.0 for b in back]
        for name, value in standardized.items():
            if name in self.lags or self.missing == "previous":
                history.setdefault(name, self.past(name)).append(value)
        return out

    def past(self, name: str, values: Sequence[float] = ()) -> deque[float]:
        if values:
            values = [finite(value, f"the history of {name}") for value in values]
        return deque(values, maxlen=self.lags[name][-1] if name in self.lags else 1)

    def count(self, issue: str) -> None:
        """One more field that was not as configured; by the engine if the event is refused."""
        self.issues[issue] = self.issues.get(issue, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return {
            "scalers": self.scales.state_dict(),
            "vocabularies": {name: self.vocabularies[name] for name in sorted(self._open)},
            "history": self.history.state_dict(),
            "issues": dict(sorted(self.issues.items())),  # the same bytes however runs were cut
            # only where it is asked for, so that other models' states stay as they were
            **({"shed": self._shed} if self.gap else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.scales.load_state_dict(state["scalers"])
        known = state["vocabularies"]
        if set(known) != self._open:
            raise ValueError(
                f"state of the categories: of {sorted(known)}, not {sorted(self._open)}"
            )
        self.vocabularies |= {
            name: texts(values, f"the categories of {name}", self.max_categories)
            for name, values in known.items()
        }
        self.history.load_state_dict(state["history"])
        self.issues = {name: count(n, "the issues") for name, n in state["issues"].items()}
        if not self.issues.keys() <= ISSUES:  # a metric's label
            raise ValueError(f"state of the issues: unknown {sorted(self.issues)[:5]}")
        self._shed = count(state["shed"], "the events shed") if self.gap else 0
