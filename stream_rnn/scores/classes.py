"""Scores of class probabilities: accuracy, log loss, bits per symbol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from typing_extensions import override

from stream_rnn.scores.base import Row, SavedScores, Scores
from stream_rnn.scores.class_baselines import FREQUENCIES, MAJORITY, NO_CHANGE, ClassBaselines
from stream_rnn.scores.saved import restored
from stream_rnn.scores.sums import ClassSums

SMALLEST_PROBABILITY = 1e-15  # as River's LogLoss: one impossible symbol costs 34.5 nats, not inf


class _ClassTable(Struct, forbid_unknown_fields=True):
    """The model, then model and baselines over the events all of them were scored on."""

    model: ClassSums
    paired: ClassSums
    no_change: ClassSums
    majority: ClassSums
    frequencies: ClassSums


class _SavedClass(SavedScores, kw_only=True):
    n_classes: int
    total: _ClassTable
    recent: _ClassTable


class ClassScores(Scores[ClassBaselines]):
    """Scores the probabilities given to one class target; Bernoulli is `n_classes` = 2.

    No change and majority are judged by accuracy; the class frequencies so far by log loss.
    """

    def __init__(
        self,
        n_classes: int,
        horizon: int = 0,
        n_lanes: int = 1,
        fading: float = 0.999,
        warmup: int = 0,
    ) -> None:
        super().__init__(ClassBaselines(n_classes, horizon, n_lanes), fading, warmup)
        self.n_classes = n_classes
        self._total = _new_class_table()
        self._recent = _new_class_table()

    def update(self, lane: int, probabilities: Sequence[float] | None, target: int) -> float | None:
        """Judge the probabilities given to `target`, then let the baselines learn it.

        Called once per target, in order within a lane; `None` = nothing was due yet. With two
        classes a single value is the probability of class 1. Non-finite or negative probabilities
        are counted in `rejected` and not scored.

        Returns:
            The model's log loss of this event in nats; `None` if not scored.
        """
        if not 0 <= target < self.n_classes:
            raise ValueError(f"scores: expected a class below {self.n_classes}, got {target}")
        self.seen += 1
        nats = None
        if probabilities is not None:
            nats = self._score(lane, probabilities, target)
            self.rejected += nats is None
        self.baselines.learn(lane, target)
        return nats

    @override
    def live(self) -> tuple[float | None, dict[str, float | None]]:
        """Exponentially weighted mean log loss in nats: the model's, and the frequencies'."""
        table = self._recent
        frequencies = table.frequencies.metrics()["log loss"]
        return table.model.metrics()["log loss"], {FREQUENCIES: frequencies}

    def live_accuracy(self) -> tuple[float | None, dict[str, float | None]]:
        """Exponentially weighted accuracy: the model's, and that of no change and majority."""
        table = self._recent
        baselines = {NO_CHANGE: table.no_change, MAJORITY: table.majority}
        return table.model.metrics()["accuracy"], {
            name: sums.metrics()["accuracy"] for name, sums in baselines.items()
        }

    @override
    def summary(self) -> list[Row]:
        return _class_rows(self._total)

    @override
    def recent(self) -> list[Row]:
        return _class_rows(self._recent)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._plain(
            _SavedClass(
                n_classes=self.n_classes,
                total=self._total,
                recent=self._recent,
                **self._counted(),
            )
        )

    @override
    def load_state_dict(self, state: object) -> None:
        saved = restored(state, _SavedClass, "the scores")
        self._take(saved, n_classes=(saved.n_classes, self.n_classes))
        self._total, self._recent = saved.total, saved.recent

    def _score(self, lane: int, probabilities: Sequence[float], target: int) -> float | None:
        if self.n_classes == 2 and len(probabilities) == 1:
            probabilities = (1 - probabilities[0], probabilities[0])
        if len(probabilities) != self.n_classes:
            raise ValueError(
                f"scores: expected {self.n_classes} probabilities, got {len(probabilities)}"
            )
        if not all(0 <= p < math.inf for p in probabilities):  # NaN compares false
            return None
        hit = probabilities.index(max(probabilities)) == target
        nats = _surprise(probabilities[target])
        guess = self.baselines.predict(lane)
        frequency = self.baselines.frequency(lane, target)
        tables = [(self._recent, self.fading)]
        if self.seen > self.warmup:
            tables.append((self._total, 1.0))
        for table, keep in tables:
            table.model.add(hit, nats, keep)
            if guess is not None:
                table.paired.add(hit, nats, keep)
                table.no_change.add(guess.no_change == target, 0.0, keep)
                table.majority.add(guess.majority == target, 0.0, keep)
                table.frequencies.add(False, _surprise(frequency), keep)
        return nats


def _new_class_table() -> _ClassTable:
    return _ClassTable(*(ClassSums() for _ in range(5)))


def _class_rows(table: _ClassTable) -> list[Row]:
    model, paired = table.model.metrics(), table.paired.metrics()
    judged = {
        "accuracy": {NO_CHANGE: table.no_change, MAJORITY: table.majority},
        "log loss": {FREQUENCIES: table.frequencies},
        "bits/symbol": {FREQUENCIES: table.frequencies},
    }
    return [
        Row(
            metric,
            model[metric],
            {name: sums.metrics()[metric] for name, sums in baselines.items()},
            round(table.model.n),
            dict.fromkeys(baselines, paired[metric]),
            higher_is_better=metric == "accuracy",
            gain="points" if metric == "accuracy" else "percent",
        )
        for metric, baselines in judged.items()
    ]


def _surprise(probability: float) -> float:
    clamped = min(max(probability, SMALLEST_PROBABILITY), 1 - SMALLEST_PROBABILITY)
    return -math.log(clamped)
