"""Records -> rows of numbers: numeric fields standardized online, categories, calendar, lags.

All state is plain Python and part of every snapshot; one event leaves the same state whatever came
in one poll with it.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stream_rnn.spi import Record

Cycle = Literal["hour", "day", "week", "month", "year"]
CYCLE_S: dict[str, float] = {
    "hour": 3600.0,
    "day": 86400.0,
    "week": 7 * 86400.0,
    "month": 2629746.0,
    "year": 31556952.0,
}
MONDAY = dt.datetime(1970, 1, 5)  # noqa: DTZ001 - wall-clock arithmetic, weeks start on Monday

ABSURD = 1e24  # no measurement is that large; its square has no float32
ABSURD_JUMP = 1e9  # ... nor that many times the largest value seen
WARM = 30  # values after which a scale is trusted
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
    if value is None:
        known = ", ".join(sorted(str(key)[:40] for key in record)[:12])
        raise BadEvent("missing", f"field {name!r} is missing; the event has: {known or 'nothing'}")
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float):
        raise BadEvent("wrong_type", f"field {name!r}: expected a number, got {_shown(value)}")
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
        raise BadEvent("wrong_type", f"field {name!r}: expected a category, got {_shown(value)}")
    text = str(value)
    if len(text) > max_chars:
        what = f"a category of {len(text)} characters, at most {max_chars} are allowed"
        raise BadEvent("wrong_type", f"field {name!r}: {what}")
    return text


def _shown(value: object) -> str:
    """Bounded: the text goes into a dead letter, and repr() of deep nesting raises."""
    kind = type(value).__name__
    if isinstance(value, str):
        return f"{kind} {value if len(value) <= 60 else value[:57] + '...'!r}"
    return f"{kind} of {len(value)}" if isinstance(value, list | dict | bytes) else kind


class Scaler:
    """Running mean and standard deviation, exact at first, then fading over `memory` values.

    Robust: once warm, a value counts at most ten standard deviations from the mean, so that one
    outlier cannot flatten a feature for weeks, while a lasting shift is followed within some dozen
    values.
    """

    __slots__ = ("largest", "mean", "memory", "n", "var")

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.n = 0
        self.mean = 0.0
        self.var = 0.0
        self.largest = 0.0

    @property
    def std(self) -> float:
        """Standard deviation; 1 while nothing varies."""
        return math.sqrt(self.var) if self.var > 0 else 1.0

    def check(self, name: str, value: float) -> None:
        """Raise BadEvent for a value out of all proportion to everything seen."""
        if self.n >= WARM and self.largest > 0 and abs(value) > ABSURD_JUMP * self.largest:
            raise BadEvent(
                "absurd", f"field {name!r} is {value:g}; the largest so far was {self.largest:g}"
            )

    def learn(self, value: float) -> None:
        """Take one value."""
        self.largest = max(self.largest, abs(value))
        if self.n >= WARM and self.var > 0:
            reach = 10 * math.sqrt(self.var)
            value = min(max(value, self.mean - reach), self.mean + reach)
        self.n += 1
        weight = 1 / min(self.n, self.memory)
        delta = value - self.mean
        self.mean += weight * delta
        self.var = (1 - weight) * (self.var + weight * delta * delta)

    def scale(self, value: float) -> float:
        """In standard deviations from the mean."""
        return (value - self.mean) / self.std

    def unscale(self, value: float) -> float:
        """The inverse of `scale`."""
        return value * self.std + self.mean

    def state_dict(self) -> list[float]:
        """Plain numbers."""
        return [self.n, self.mean, self.var, self.largest]

    def load_state_dict(self, state: list[float]) -> None:
        """Take what `state_dict` gave."""
        n, self.mean, self.var, self.largest = state
        self.n = int(n)


@dataclass(frozen=True)
class Calendar:
    """Cyclic time features: sine and cosine of each cycle's phase and its harmonics.

    Args:
        field: epoch seconds (or milliseconds), or an ISO 8601 text; wall-clock time as written.
        cycles: of "hour", "day", "week", "month", "year".
        harmonics: 1 = the cycle itself; 2 adds its half, and so on.
    """

    field: str
    cycles: tuple[Cycle, ...] = ("day", "week")
    harmonics: int = 1

    def __post_init__(self) -> None:
        if not self.cycles:
            raise ValueError(f"cycles: name at least one of {', '.join(CYCLE_S)}")
        if not 1 <= self.harmonics <= 64:
            raise ValueError(f"harmonics must be in 1..64, got {self.harmonics}")

    @property
    def width(self) -> int:
        """Numbers per event."""
        return 2 * len(self.cycles) * self.harmonics

    def encode(self, record: Record) -> list[float]:
        """Raises BadEvent if the field is missing or no time."""
        seconds = self._seconds(record)
        out: list[float] = []
        for cycle in self.cycles:
            turn = 2 * math.pi * (seconds / CYCLE_S[cycle])
            for h in range(1, self.harmonics + 1):
                out += (math.sin(h * turn), math.cos(h * turn))
        return out

    def _seconds(self, record: Record) -> float:
        value = record.get(self.field)
        if isinstance(value, str):
            try:
                time = dt.datetime.fromisoformat(value)
            except ValueError:
                text = f"field {self.field!r}: no time: {_shown(value)}"
                raise BadEvent("wrong_type", text) from None
            return (time.replace(tzinfo=None) - MONDAY).total_seconds()
        seconds = number(record, self.field)
        if abs(seconds) > 1e11:
            seconds /= 1000
        return seconds - 4 * 86400.0


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
        self.issues: dict[str, int] = {}
        self._scalers: dict[int, dict[str, Scaler]] = {}
        self._history: dict[int, dict[str, deque[float]]] = {}
        self._expected = {*self.numeric, *self.vocabularies}
        if calendar is not None:
            self._expected.add(calendar.field)

    def expect(self, *names: str | None) -> None:
        """Fields that something else reads (a target, a key): they are not counted as extra."""
        self._expected |= {name for name in names if name is not None}

    @property
    def width(self) -> int:
        """I, numbers per event."""
        room = sum(
            self.max_categories if name in self._open else len(values)
            for name, values in self.vocabularies.items()
        )
        lags = sum(len(back) for back in self.lags.values())
        return len(self.numeric) + room + lags + (self.calendar.width if self.calendar else 0)

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
            names += [
                f"{wave}({h}*{cycle})"
                for cycle in self.calendar.cycles
                for h in range(1, self.calendar.harmonics + 1)
                for wave in ("sin", "cos")
            ]
        return names

    def encode(self, record: Record, lane: int) -> list[float]:
        """One row of `width` numbers; learns the scales, or raises BadEvent and learns nothing."""
        values = {name: self._number(record, name, lane) for name in self.numeric}
        chosen = {name: self._choose(record, name) for name in self.vocabularies}
        time = self._time(record)
        # nothing below can fail: from here on the event counts
        if not record.keys() <= self._expected:
            self._count("extra")
        row: list[float] = []
        scalers = self._of_lane(lane)
        for name, (value, is_measured) in values.items():
            scaler = scalers[name]
            if is_measured:  # a filled-in one would narrow the scale while a sensor is away
                scaler.learn(value)
            scaled = scaler.scale(value)
            if abs(scaled) > self.clip:
                self._count("clipped")
                scaled = math.copysign(self.clip, scaled)
            row.append(scaled)
        standardized = dict(zip(self.numeric, row, strict=True))
        for name, choice in chosen.items():
            row += self._one_hot(name, choice)
        row += self._lagged(standardized, lane)
        return row + time

    def reset_lane(self, lane: int) -> None:
        """Another key takes the lane."""
        self._history.pop(lane, None)
        if self.scaling == "lane":
            self._scalers.pop(lane, None)

    def _number(self, record: Record, name: str, lane: int) -> tuple[float, bool]:
        """The field's value, and whether it was measured (or filled in)."""
        scaler = self._of_lane(lane)[name]
        try:
            value = number(record, name)
            scaler.check(name, value)
        except BadEvent as error:
            self._count(error.issue)
            if self.missing == "reject" or scaler.n == 0:
                raise
            past = self._history.get(lane, {}).get(name)
            if self.missing == "previous" and past:
                return scaler.unscale(past[-1]), False
            return scaler.mean, False
        return value, True

    def _time(self, record: Record) -> list[float]:
        if self.calendar is None:
            return []
        try:
            return self.calendar.encode(record)
        except BadEvent as error:
            self._count(error.issue)
            raise

    def _choose(self, record: Record, name: str) -> str | None:
        try:
            return category(record, name)
        except BadEvent as error:
            self._count(error.issue)
            if self.missing == "reject":
                raise
            return None

    def _one_hot(self, name: str, choice: str | None) -> list[float]:
        known = self.vocabularies[name]
        room = self.max_categories if name in self._open else len(known)
        row = [0.0] * room
        if choice is None:
            return row
        if choice not in known and name in self._open and len(known) < room:
            known.append(choice)
        if choice in known:
            row[known.index(choice)] = 1.0
        else:
            self._count("unknown_category")
        return row

    def _lagged(self, standardized: Mapping[str, float], lane: int) -> list[float]:
        """Earlier values of the lane (0, the mean, where there are none), then remember these."""
        history = self._history.setdefault(lane, {})
        out: list[float] = []
        for name, back in self.lags.items():
            past = history.get(name, ())
            out += [past[-b] if len(past) >= b else 0.0 for b in back]
        keep_last = self.missing == "previous"
        for name, value in standardized.items():
            depth = self.lags[name][-1] if name in self.lags else 1 if keep_last else 0
            if depth:
                history.setdefault(name, deque(maxlen=depth)).append(value)
        return out

    def _of_lane(self, lane: int) -> dict[str, Scaler]:
        lane = lane if self.scaling == "lane" else 0
        if lane not in self._scalers:
            self._scalers[lane] = {name: Scaler(self.memory) for name in self.numeric}
        return self._scalers[lane]

    def _count(self, issue: str) -> None:
        self.issues[issue] = self.issues.get(issue, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return {
            "scalers": {
                str(lane): {name: s.state_dict() for name, s in scalers.items()}
                for lane, scalers in self._scalers.items()
            },
            "vocabularies": {name: self.vocabularies[name] for name in sorted(self._open)},
            "history": {
                str(lane): {name: list(past) for name, past in fields.items()}
                for lane, fields in self._history.items()
            },
            "issues": self.issues,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._scalers = {}
        for lane, fields in state["scalers"].items():
            scalers = self._of_lane(int(lane))
            for name, numbers in fields.items():
                scalers[name].load_state_dict(numbers)
        self.vocabularies |= {name: list(values) for name, values in state["vocabularies"].items()}
        self._history = {}
        for lane, fields in state["history"].items():
            lane_history = self._history.setdefault(int(lane), {})
            for name, past in fields.items():
                depth = self.lags[name][-1] if name in self.lags else 1
                lane_history[name] = deque(past, maxlen=depth)
        self.issues = dict(state["issues"])
