"""What is to be learned from a record: inputs, target, and what a prediction means.

A task turns a record into steps for the learner, and the learner's numbers back into the units of
the stream. It owns the prequential scores. All state is plain Python and part of every snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from stream_rnn import prequential
from stream_rnn.features import BadEvent, Features, Scaler, category, number
from stream_rnn.spi import Record

Scale = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one lane.

    Attributes:
        x: I inputs.
        y: what the learner is taught (standardized values or a class number); None: no target.
        target: the same in the stream's units, for scoring.
        scales: (mean, std) of each target as known BEFORE anything the prediction must not know.
        known: classes, of those learned as they come, that the prediction may know of.
    """

    x: list[float]
    y: list[float] | None
    target: list[float] | int | None
    scales: tuple[Scale, ...] = ()
    known: int = 0


@dataclass(frozen=True, slots=True)
class Objective:
    """What the head must be built for.

    Attributes:
        kind: "squared", "quantile", "gaussian", "cross_entropy" or "bernoulli".
        size: targets, or classes for "cross_entropy".
        tau: of "quantile"; 0.5 is L1.
    """

    kind: str
    size: int
    tau: float = 0.5


class Task(ABC):
    """Base of all tasks.

    Attributes:
        horizon: k, events ahead; 0: the target stands in the event itself.
        inputs: I.
        objective: what the head learns.
        scores: prequential scores beside baselines.
        baseline: the baseline shown first.
    """

    baseline: ClassVar[str] = "persistence"
    horizon: int
    inputs: int
    objective: Objective
    scores: prequential.NumericScores | prequential.ClassScores

    @abstractmethod
    def steps(self, record: Record, lane: int) -> list[Step]:
        """The steps of one event; raises BadEvent before anything is learned from it."""

    @abstractmethod
    def natural(self, outputs: Sequence[float], step: Step) -> list[float]:
        """The head's activated outputs in the stream's units."""

    @abstractmethod
    def publish(self, natural: Sequence[float], step: Step) -> Any:
        """The prediction made at `step` as it stands in the JSON line."""

    @abstractmethod
    def publish_target(self, target: list[float] | int) -> Any:
        """A target as it stands in the JSON line."""

    @abstractmethod
    def score(
        self, lane: int, prediction: Sequence[float] | None, target: list[float] | int
    ) -> float | None:
        """Score the prediction that fell due; the baselines learn the target. Returns the loss."""

    @abstractmethod
    def describe(self) -> str:
        """One line for the banner."""

    def persist(self) -> dict[int, int]:
        """Output -> input it starts as a copy of (a forecast that begins as persistence)."""
        return {}

    def reset_lane(self, lane: int) -> None:
        """Another key takes the lane."""
        self.scores.reset_lane(lane)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return {"scores": self.scores.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.scores.load_state_dict(state["scores"])


LossName = Literal["l1", "squared", "quantile", "gaussian"]


class _Numeric(Task):
    """What forecast and regression share: standardized targets and numeric scores."""

    def __init__(
        self,
        features: Features,
        target: str | list[str],
        horizon: int,
        loss: LossName,
        tau: float,
        season: int | None,
        lanes: int,
        warmup: int,
    ) -> None:
        self.features = features
        self.targets = (target,) if isinstance(target, str) else tuple(target)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target: expected one field, or several different, got {target!r}")
        features.expect(*self.targets)
        self._single = isinstance(target, str)
        self._loss = loss
        self.horizon = horizon
        self._scalers: dict[int, list[Scaler]] = {}
        objectives = {"l1": "quantile", "quantile": "quantile"}
        self.objective = Objective(objectives.get(loss, loss), len(self.targets), tau)
        scorers: dict[str, prequential.LossFn] = {
            "l1": prequential.Absolute(),
            "squared": prequential.Squared(),
            "gaussian": prequential.Gaussian(),
            "quantile": prequential.Quantile(tau),
        }
        self.scores: prequential.NumericScores = prequential.NumericScores(
            self.targets,
            scorers[loss],
            horizon=horizon,
            season=season,
            n_lanes=lanes,
            warmup=warmup,
        )

    def _scalers_of(self, lane: int) -> list[Scaler]:
        lane = lane if self.features.scaling == "lane" else 0
        if lane not in self._scalers:
            self._scalers[lane] = [Scaler(self.features.memory) for _ in self.targets]
        return self._scalers[lane]

    def _read(self, record: Record) -> list[float]:
        return [number(record, name) for name in self.targets]

    def _scales(self, lane: int) -> tuple[Scale, ...]:
        return tuple((s.mean, s.std) for s in self._scalers_of(lane))

    def _learn_scales(self, values: Sequence[float], lane: int) -> None:
        for value, scaler in zip(values, self._scalers_of(lane), strict=True):
            scaler.learn(value)

    def _standardize(self, values: Sequence[float], scales: Sequence[Scale]) -> list[float]:
        clip = self.features.clip
        return [
            min(max((v - mean) / std, -clip), clip)
            for v, (mean, std) in zip(values, scales, strict=True)
        ]

    @override
    def natural(self, outputs: Sequence[float], step: Step) -> list[float]:
        n = len(self.targets)
        means = [o * s + m for o, (m, s) in zip(outputs[:n], step.scales, strict=True)]
        stds = [o * s for o, (_, s) in zip(outputs[n:], step.scales, strict=False)]
        return means + stds

    @override
    def publish(self, natural: Sequence[float], step: Step) -> Any:
        n = len(self.targets)
        if self._loss == "gaussian":
            values: list[Any] = [{"mean": natural[i], "std": natural[n + i]} for i in range(n)]
        else:
            values = list(natural)
        return values[0] if self._single else dict(zip(self.targets, values, strict=True))

    @override
    def publish_target(self, target: list[float] | int) -> Any:
        assert isinstance(target, list)
        return target[0] if self._single else dict(zip(self.targets, target, strict=True))

    @override
    def score(
        self, lane: int, prediction: Sequence[float] | None, target: list[float] | int
    ) -> float | None:
        assert isinstance(target, list)
        return self.scores.update(lane, prediction, target)

    @override
    def reset_lane(self, lane: int) -> None:
        super().reset_lane(lane)
        self.features.reset_lane(lane)
        if self.features.scaling == "lane":
            self._scalers.pop(lane, None)

    @override
    def state_dict(self) -> dict[str, Any]:
        scales = {str(k): [s.state_dict() for s in v] for k, v in self._scalers.items()}
        return super().state_dict() | {"features": self.features.state_dict(), "scales": scales}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.features.load_state_dict(state["features"])
        self._scalers = {}
        for lane, scalers in state["scales"].items():
            for mine, numbers in zip(self._scalers_of(int(lane)), scalers, strict=True):
                mine.load_state_dict(numbers)


class Forecast(_Numeric):
    """Predict numeric fields of the event `horizon` events from now (of the same lane).

    Args:
        features: what the network sees; a target that is not among `numeric` is added by the app.
        target: a field, or several.
        horizon: events ahead.
        loss: "l1" (forecasts the median; robust), "squared" (the mean), "quantile" (with `tau`),
            "gaussian" (mean and standard deviation).
        tau: of "quantile".
        season: events of one season, for the seasonal baseline.
        difference: whether the network learns the change from now to then (it starts as
            persistence, and levels may wander) or the value itself.
        lanes: streams.
        warmup: targets that the cumulative scores leave out.
    """

    def __init__(
        self,
        features: Features,
        target: str | list[str],
        horizon: int = 1,
        loss: LossName = "l1",
        tau: float = 0.5,
        season: int | None = None,
        difference: bool = True,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        if not 1 <= horizon <= 100_000:
            raise ValueError(
                f"horizon must be in 1..100000, got {horizon}; a target that stands in the event "
                'itself is predicted by kind = "regression"'
            )
        super().__init__(features, target, horizon, loss, tau, season, lanes, warmup)
        self.inputs = features.width
        self.difference = difference
        self._past: dict[int, deque[list[float]]] = {}

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        values = self._read(record)
        x = self.features.encode(record, lane)
        # this target was predicted earlier, so the scale may know it by now
        if not self.difference:
            self._learn_scales(values, lane)
            scales = self._scales(lane)
            return [Step(x, self._standardize(values, scales), values, scales)]
        past = self._past.setdefault(lane, deque(maxlen=self.horizon))
        change = None
        if len(past) == self.horizon:
            change = [now - then for now, then in zip(values, past[0], strict=True)]
            self._learn_scales(change, lane)
        past.append(values)
        scales = self._scales(lane)
        y = None if change is None else self._standardize(change, scales)
        from_now = tuple((m + v, s) for v, (m, s) in zip(values, scales, strict=True))
        return [Step(x, y, values, from_now)]

    @override
    def persist(self) -> dict[int, int]:
        if self.difference:
            return {}
        numeric = self.features.numeric
        return {i: numeric.index(t) for i, t in enumerate(self.targets) if t in numeric}

    @override
    def reset_lane(self, lane: int) -> None:
        super().reset_lane(lane)
        self._past.pop(lane, None)

    @override
    def state_dict(self) -> dict[str, Any]:
        past = {str(lane): list(values) for lane, values in self._past.items()}
        return super().state_dict() | {"past": past}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._past = {
            int(lane): deque(values, maxlen=self.horizon) for lane, values in state["past"].items()
        }

    @override
    def describe(self) -> str:
        names = ", ".join(self.targets)
        plural = "" if self.horizon == 1 else "s"
        return f"forecast {names} {self.horizon} event{plural} ahead, {self._loss} loss"


class Regression(_Numeric):
    """Predict numeric fields of the event itself from its other fields.

    An event without a target is predicted and not learned from. The network also sees the previous
    target of its lane (never its own).

    Args:
        features: what the network sees; must not contain a target.
        target: a field, or several.
        loss: as for a forecast.
        tau: of "quantile".
        season: events of one season, for the seasonal baseline.
        previous_target: whether the previous target is an input.
        lanes: streams.
        warmup: targets that the cumulative scores leave out.
    """

    def __init__(
        self,
        features: Features,
        target: str | list[str],
        loss: LossName = "l1",
        tau: float = 0.5,
        season: int | None = None,
        previous_target: bool = True,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        super().__init__(features, target, 0, loss, tau, season, lanes, warmup)
        require_no_leak(features, self.targets)
        self._previous: dict[int, list[float]] = {}
        self._use_previous = previous_target
        self.inputs = features.width + (len(self.targets) if previous_target else 0)

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        known = any(record.get(name) is not None for name in self.targets)
        values = self._read(record) if known else None
        for name, value, scaler in zip(
            self.targets, values or (), self._scalers_of(lane), strict=False
        ):
            scaler.check(name, value)
        x = self.features.encode(record, lane)
        scales = self._scales(lane)  # as before this target
        if self._use_previous:
            previous = self._previous.get(lane)
            x += [0.0] * len(scales) if previous is None else self._standardize(previous, scales)
        y = None
        if values is not None:
            if self._scalers_of(lane)[0].n > 0:
                y = self._standardize(values, scales)
            self._learn_scales(values, lane)
            self._previous[lane] = values
        return [Step(x, y, values, scales)]

    @override
    def persist(self) -> dict[int, int]:
        if not self._use_previous:
            return {}
        return {i: self.features.width + i for i in range(len(self.targets))}

    @override
    def describe(self) -> str:
        return f"regression of {', '.join(self.targets)}, {self._loss} loss"

    @override
    def reset_lane(self, lane: int) -> None:
        super().reset_lane(lane)
        self._previous.pop(lane, None)

    @override
    def state_dict(self) -> dict[str, Any]:
        previous = {str(lane): values for lane, values in self._previous.items()}
        return super().state_dict() | {"previous": previous}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._previous = {int(lane): list(v) for lane, v in state["previous"].items()}


class _Symbols(Task):
    """What classification and next-symbol prediction share: a vocabulary and class scores."""

    baseline = "frequencies"

    def __init__(
        self,
        features: Features,
        vocabulary: list[str] | None,
        room: int,
        horizon: int,
        lanes: int,
        warmup: int,
    ) -> None:
        self.features = features
        self.horizon = horizon
        self._fixed = vocabulary is not None
        self.symbols = list(dict.fromkeys(vocabulary or ()))
        self.room = len(self.symbols) if self._fixed else room
        if self.room < 2:
            raise ValueError(f"at least 2 classes are needed, got {self.room}")
        if self.room == 2:
            self.objective = Objective("bernoulli", 1)
        else:
            self.objective = Objective("cross_entropy", self.room)
        self.scores: prequential.ClassScores = prequential.ClassScores(
            self.room, horizon=horizon, n_lanes=lanes, warmup=warmup
        )

    def _index(self, symbol: str, field: str) -> int:
        """Its number without learning it; `len(symbols)` for a new one there is room for."""
        if symbol in self.symbols:
            return self.symbols.index(symbol)
        if self._fixed or len(self.symbols) >= self.room:
            some = ", ".join(self.symbols[:8])
            raise BadEvent(
                "unknown_class",
                f"field {field!r}: unknown class {symbol[:60]!r}; known are {some}"
                + ("" if len(self.symbols) <= 8 else ", ..."),
            )
        return len(self.symbols)

    def _admit(self, index: int, symbol: str) -> None:
        if index == len(self.symbols):
            self.symbols.append(symbol)

    def _one_hot(self, index: int | None) -> list[float]:
        row = [0.0] * self.room
        if index is not None:
            row[index] = 1.0
        return row

    @override
    def natural(self, outputs: Sequence[float], step: Step) -> list[float]:
        if self.objective.kind == "bernoulli":
            return [1 - outputs[0], outputs[0]]
        return list(outputs)

    @override
    def publish(self, natural: Sequence[float], step: Step) -> Any:
        order = sorted(range(step.known), key=lambda i: -natural[i])[:5]
        return {
            "class": self.symbols[order[0]] if order else None,
            "probability": {self.symbols[i]: natural[i] for i in order},
        }

    @override
    def publish_target(self, target: list[float] | int) -> Any:
        assert isinstance(target, int)
        return self.symbols[target]

    @override
    def score(
        self, lane: int, prediction: Sequence[float] | None, target: list[float] | int
    ) -> float | None:
        assert isinstance(target, int)
        return self.scores.update(lane, prediction, target)

    @override
    def reset_lane(self, lane: int) -> None:
        super().reset_lane(lane)
        self.features.reset_lane(lane)

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "features": self.features.state_dict(),
            "symbols": self.symbols,
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.features.load_state_dict(state["features"])
        symbols = [str(symbol) for symbol in state["symbols"]]
        if len(symbols) > self.room or (self._fixed and symbols != self.symbols):
            raise ValueError(f"classes: the snapshot has {symbols[:8]}, not {self.symbols[:8]}")
        self.symbols = symbols


class Classification(_Symbols):
    """Predict the class in the event itself from its other fields.

    An event without a target is predicted and not learned from.

    Args:
        features: what the network sees; must not contain the target.
        target: the field with the class.
        classes: all classes; an unknown one is dead-lettered. None: learned as they come.
        max_classes: room for classes learned as they come.
        previous_target: whether the previous class of the lane is an input.
        lanes: streams.
        warmup: targets that the cumulative scores leave out.
    """

    def __init__(
        self,
        features: Features,
        target: str,
        classes: list[str | int | bool] | None = None,
        max_classes: int = 16,
        previous_target: bool = True,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        vocabulary = None if classes is None else [str(c) for c in classes]
        super().__init__(features, vocabulary, max_classes, 0, lanes, warmup)
        require_no_leak(features, (target,))
        features.expect(target)
        self.target = target
        self._use_previous = previous_target
        self._previous: dict[int, int] = {}
        self.inputs = features.width + (self.room if previous_target else 0)

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        index = symbol = None
        if record.get(self.target) is not None:
            symbol = category(record, self.target)
            index = self._index(symbol, self.target)
        x = self.features.encode(record, lane)
        known = len(self.symbols)  # without this event's own
        if self._use_previous:
            x += self._one_hot(self._previous.get(lane))
        if index is None or symbol is None:
            return [Step(x, None, None, known=known)]
        self._admit(index, symbol)
        self._previous[lane] = index
        return [Step(x, [float(index)], index, known=known)]

    @override
    def describe(self) -> str:
        classes = ", ".join(self.symbols[:5]) if self._fixed else f"up to {self.room}, as they come"
        return f"classification of {self.target} ({classes})"

    @override
    def reset_lane(self, lane: int) -> None:
        super().reset_lane(lane)
        self._previous.pop(lane, None)

    @override
    def state_dict(self) -> dict[str, Any]:
        previous = {str(lane): index for lane, index in self._previous.items()}
        return super().state_dict() | {"previous": previous}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._previous = {int(lane): int(i) for lane, i in state["previous"].items()}


class NextSymbol(_Symbols):
    r"""Predict the next symbol of a sequence: one token per event, or every byte of a text field.

    A text is learned byte by byte, one update per byte; its prediction is that of the byte after
    its last one.

    Args:
        features: further inputs; none by default.
        field: the token, or the text.
        unit: "token" or "byte".
        end: appended to every text before it is cut into bytes, e.g. "\n".
        max_bytes: a longer text is dead-lettered: an event is learned as a whole, and meanwhile the
            daemon can neither stop nor take a snapshot.
        vocabulary: all tokens; None: learned as they come.
        max_symbols: room for tokens learned as they come.
        lanes: streams.
        warmup: targets that the cumulative scores leave out.
    """

    def __init__(
        self,
        features: Features,
        field: str = "text",
        unit: Literal["token", "byte"] = "token",
        end: str = "",
        vocabulary: list[str] | None = None,
        max_symbols: int = 256,
        max_bytes: int = 65_536,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        if unit == "byte":
            vocabulary = [chr(i) for i in range(256)]
        super().__init__(features, vocabulary, max_symbols, 1, lanes, warmup)
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        features.expect(field)
        self.field = field
        self.unit = unit
        self.max_bytes = max_bytes
        self.end = end
        self.inputs = self.room + features.width

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        if self.unit == "token":
            token = category(record, self.field)
            indices = [self._index(token, self.field)]
        else:
            text = record.get(self.field)
            if not isinstance(text, str):
                issue, kind = "missing" if text is None else "wrong_type", type(text).__name__
                raise BadEvent(issue, f"field {self.field!r}: expected text, got {kind}")
            indices = list((text + self.end).encode("utf-8", "surrogatepass"))
            if not indices:
                raise BadEvent("missing", f"field {self.field!r} is empty")
            if len(indices) > self.max_bytes:
                what = f"{len(indices)} bytes of text, at most {self.max_bytes} are learned at once"
                raise BadEvent("wrong_type", f"field {self.field!r}: {what}")
        rest = self.features.encode(record, lane)
        if self.unit == "token":
            self._admit(indices[0], token)
        known = len(self.symbols)
        return [Step(self._one_hot(i) + rest, [float(i)], i, known=known) for i in indices]

    @override
    def describe(self) -> str:
        return f"next {self.unit} of {self.field} ({self.room} symbols)"


def require_no_leak(features: Features, targets: Sequence[str]) -> None:
    """Raise ValueError if a target of the event itself is among its inputs."""
    inputs = {*features.numeric, *features.vocabularies}
    leaking = [name for name in targets if name in inputs]
    if leaking:
        raise ValueError(
            f"the target {leaking[0]!r} is among the features of its own prediction; remove it "
            "from [features] (the previous target is an input already)"
        )


TASKS: dict[str, type[Task]] = {
    "forecast": Forecast,
    "regression": Regression,
    "classification": Classification,
    "next_symbol": NextSymbol,
}
