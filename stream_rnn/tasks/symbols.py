"""What classification and next-symbol prediction share: a vocabulary and class scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from typing_extensions import override

from stream_rnn.features.encoder import Features
from stream_rnn.features.saved import texts
from stream_rnn.features.values import BadEvent
from stream_rnn.scores import ClassScores
from stream_rnn.tasks.base import Objective, Task
from stream_rnn.tasks.steps import Step


class Symbols(Task):
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
        weight: str | None = None,
    ) -> None:
        super().__init__(features, weight)
        self.horizon = horizon
        self._fixed = vocabulary is not None
        self.symbols = list(dict.fromkeys(vocabulary or ()))
        self.room = len(self.symbols) if self._fixed else room
        if self.room > 100_000:
            raise ValueError(f"at most 100000 classes are possible, got {self.room}")
        if self.room < 2:
            raise ValueError(f"at least 2 classes are needed, got {self.room}")
        if self.room == 2:
            self.objective = Objective("bernoulli", 1)
        else:
            self.objective = Objective("cross_entropy", self.room)
        self.scores: ClassScores = ClassScores(
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

    def _labels(self, field: str) -> list[str]:
        """One for each class there is room for; those learned as they come go by their number."""
        if self._fixed:
            return [f"{field}={symbol}" for symbol in self.symbols]
        return [f"{field}#{i}" for i in range(self.room)]

    @override
    def output_names(self) -> list[str]:
        labels = self._labels("class")
        if self.objective.kind == "bernoulli":
            return [f"{labels[1]} rather than {labels[0]}"]
        return labels

    @property
    @override
    def natural_width(self) -> int:
        return self.room

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
    def reading(self, lane: int | None = None) -> Self:
        twin = super().reading(lane)
        twin.symbols = list(self.symbols)
        return twin

    @override
    def known(self) -> dict[str, Any]:
        return super().known() | {"symbols": self.symbols}

    @override
    def load_known(self, state: Mapping[str, Any]) -> None:
        super().load_known(state)
        symbols = texts(state["symbols"], "the classes", self.room)
        if len(symbols) > self.room or (self._fixed and symbols != self.symbols):
            raise ValueError(f"classes: the snapshot has {symbols[:8]}, not {self.symbols[:8]}")
        self.symbols = symbols
