"""Prequential scores: every forecast is judged when its target arrives, beside simple baselines.

Model and baseline are compared on the same events: each baseline keeps paired sums of its own, over
the events for which both it and the model had a forecast. Plain sums instead of River's metrics
(equal to them, by test): they are cheap, checkpoint as JSON, and continue bit-identically.

Longer than most: numeric and class scores are two halves of the one protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import msgspec
from msgspec import Struct

from stream_rnn.baselines import (
    FREQUENCIES,
    MAJORITY,
    NO_CHANGE,
    ClassBaselines,
    Count,
    Finite,
    NumericBaselines,
    require_at_least,
    require_same,
    restored,
)
from stream_rnn.spi import SettingError

ABSURD = 1e100  # beyond it squares and sums of squares would leave the range of a double
SMALLEST_PROBABILITY = 1e-15  # as River's LogLoss: one impossible symbol costs 34.5 nats, not inf
ERRORS_FOR_STD = 10  # a baseline states a standard deviation after that many errors of its own
SMALLEST_STD = 1e-6


class LossFn(Protocol):
    """The task's loss of one target; `std` is 1.0 unless the loss asks for it."""

    name: ClassVar[str]
    needs_std: ClassVar[bool]

    def __call__(self, point: float, std: float, target: float) -> float:
        """The loss of saying `point` (give or take `std`) when `target` came."""


@dataclass(frozen=True, slots=True)
class Squared:
    """(point - target)^2, without a factor 1/2: its mean is RMSE squared."""

    name: ClassVar[str] = "squared"
    needs_std: ClassVar[bool] = False

    def __call__(self, point: float, std: float, target: float) -> float:
        return (point - target) * (point - target)


@dataclass(frozen=True, slots=True)
class Absolute:
    """|point - target|."""

    name: ClassVar[str] = "absolute"
    needs_std: ClassVar[bool] = False

    def __call__(self, point: float, std: float, target: float) -> float:
        return abs(point - target)


@dataclass(frozen=True, slots=True)
class Quantile:
    """Pinball loss of the quantile `tau`: tau * e above the forecast, (tau - 1) * e below it."""

    tau: float
    name: ClassVar[str] = "quantile"
    needs_std: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.tau < 1:
            raise SettingError(f"quantile loss: tau must be between 0 and 1, got {self.tau}")

    def __call__(self, point: float, std: float, target: float) -> float:
        error = target - point
        return max(self.tau * error, (self.tau - 1) * error)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Negative log likelihood in nats; forecasts are all means, then all standard deviations."""

    name: ClassVar[str] = "gaussian"
    needs_std: ClassVar[bool] = True

    def __call__(self, point: float, std: float, target: float) -> float:
        if std <= 0:
            return math.inf
        z = (target - point) / std
        return 0.5 * (z * z + math.log(2 * math.pi)) + math.log(std)


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of a table. `None` = not defined (yet), e.g. a relative error of zero targets.

    Attributes:
        name: the metric, with the target's name behind it where there are several.
        model: over all `n` events the model was scored on.
        baselines: over the events that this baseline and the model both were scored on.
        paired: the model over the very same events, per baseline; what comparisons use.
        n: events behind `model`.
        higher_is_better: as for accuracy.
        gain: how an improvement is told: relative, in percentage points, or as a difference (nats).
    """

    name: str
    model: float | None
    baselines: dict[str, float | None]
    n: int
    paired: dict[str, float | None] = field(default_factory=dict)
    higher_is_better: bool = False
    gain: Literal["percent", "points", "difference"] = "percent"


class Sums(Struct, forbid_unknown_fields=True):
    """What the numeric metrics of one target are made of; `keep` < 1 forgets exponentially."""

    n: Finite = 0.0
    loss: Finite = 0.0
    absolute: Finite = 0.0
    squared: Finite = 0.0
    size: Finite = 0.0  # sum |target|
    mean: Finite = 0.0  # of the target, by Welford's recurrence
    spread: Finite = 0.0  # sum of squares about the mean

    def add(self, point: float, target: float, loss: float, keep: float = 1.0) -> None:
        error = point - target
        self.n = self.n * keep + 1
        self.loss = self.loss * keep + loss
        self.absolute = self.absolute * keep + abs(error)
        self.squared = self.squared * keep + error * error
        self.size = self.size * keep + abs(target)
        step = target - self.mean
        self.mean += step / self.n
        self.spread = self.spread * keep + step * (target - self.mean)

    def metrics(self) -> dict[str, float | None]:
        """Mean loss, MAE, RMSE, MAPE = sum|e| / sum|y|, NRMSE = RMSE / std(y)."""
        if not self.n:
            return dict.fromkeys(("loss", "MAE", "RMSE", "MAPE", "NRMSE"))
        rmse = math.sqrt(self.squared / self.n)
        std = math.sqrt(max(self.spread, 0.0) / self.n)
        return {
            "loss": self.loss / self.n,
            "MAE": self.absolute / self.n,
            "RMSE": rmse,
            "MAPE": self.absolute / self.size if self.size else None,
            "NRMSE": rmse / std if std else None,
        }


class _Pair(Struct, forbid_unknown_fields=True):
    """One target, one baseline: both over the same events, and the baseline exponentially."""

    model: Sums
    baseline: Sums
    recent: Sums
    errors: Count = 0  # since the first event, warm-up included: the baseline's own std
    squared_errors: Finite = 0.0


class _SavedNumeric(Struct, forbid_unknown_fields=True):
    names: tuple[str, ...]
    loss: str
    warmup: int
    seen: Count
    rejected: Count
    model: list[Sums]
    recent: list[Sums]
    pairs: dict[str, list[_Pair]]
    baselines: dict[str, Any]


class NumericScores:
    """Scores forecasts of one or several named numeric targets.

    Args:
        names: the targets' names, as fields are called.
        loss: the task's loss.
        horizon: k; the baselines know targets L = max(k, 1) events old and older.
        season: length of the seasonal baseline's season in events; `None` = without it.
        n_lanes: independent streams at most.
        fading: weight of the past per scored event in `live` and `recent`.
        warmup: the cumulative scores leave the first so many targets out, counted over all lanes.
    """

    def __init__(
        self,
        names: Sequence[str],
        loss: LossFn,
        horizon: int = 0,
        season: int | None = None,
        n_lanes: int = 1,
        fading: float = 0.999,
        warmup: int = 0,
    ) -> None:
        require_at_least("scores", 0, warmup=warmup)
        _require_fading(fading)
        self.names = tuple(names)
        self.loss = loss
        self.fading = fading
        self.warmup = warmup
        self.seen = 0  # targets
        self.rejected = 0  # not scored: target, forecast or loss not finite, or absurd
        self.baselines = NumericBaselines(len(self.names), horizon, season, n_lanes)
        self._model = [Sums() for _ in self.names]
        self._recent = [Sums() for _ in self.names]
        self._pairs = {
            baseline: [_Pair(Sums(), Sums(), Sums()) for _ in self.names]
            for baseline in self.baselines.names
        }

    def update(
        self, lane: int, prediction: Sequence[float] | None, target: Sequence[float]
    ) -> float | None:
        """Judge the forecast that fell due with `target`, then let the baselines learn it.

        Called once per target, in order within a lane. `None` as the prediction means nothing was
        due yet; the baselines learn all the same. A non-finite or absurd target is counted in
        `rejected` and learned by nobody; such a forecast is counted and not scored.

        Returns:
            The model's loss of this event, averaged over the targets; `None` if not scored.
        """
        width = len(self.names)
        if len(target) != width:
            raise ValueError(f"scores: expected {width} targets {self.names}, got {len(target)}")
        self.seen += 1
        if not all(abs(value) < ABSURD for value in target):  # NaN compares false
            self.rejected += 1
            return None
        mean_loss = None
        if prediction is not None:
            mean_loss = self._score(lane, prediction, target)
            self.rejected += mean_loss is None
        self.baselines.learn(lane, target)
        return mean_loss

    def reset_lane(self, lane: int) -> None:
        """Forget the baselines of `lane`; the scores stay."""
        self.baselines.reset_lane(lane)

    def live(self) -> tuple[float | None, dict[str, float | None]]:
        """Exponentially weighted mean loss: the model's, and each baseline's."""
        baselines = {
            name: _mean([pair.recent.metrics()["loss"] for pair in pairs])
            for name, pairs in self._pairs.items()
        }
        return _mean([sums.metrics()["loss"] for sums in self._recent]), baselines

    def summary(self) -> list[Row]:
        """Cumulative rows after the warm-up: averages over the targets, then target by target."""
        return self._rows(
            self._model,
            {name: [pair.model for pair in pairs] for name, pairs in self._pairs.items()},
            {name: [pair.baseline for pair in pairs] for name, pairs in self._pairs.items()},
        )

    def recent(self) -> list[Row]:
        """The same rows, exponentially weighted; `n` is the weight of the events remembered."""
        return self._rows(
            self._recent,
            dict.fromkeys(self._pairs, self._recent),
            {name: [pair.recent for pair in pairs] for name, pairs in self._pairs.items()},
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything counted, as JSON-able values."""
        return _plain(
            _SavedNumeric(
                self.names,
                repr(self.loss),
                self.warmup,
                self.seen,
                self.rejected,
                self._model,
                self._recent,
                self._pairs,
                self.baselines.state_dict(),
            )
        )

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""
        place = "the scores"
        saved = restored(state, _SavedNumeric, place)
        require_same(
            place,
            targets=(saved.names, self.names),
            loss=(saved.loss, repr(self.loss)),
            warmup=(saved.warmup, self.warmup),
            baselines=(set(saved.pairs), set(self._pairs)),
        )
        columns: list[Sized] = [saved.model, saved.recent, *saved.pairs.values()]
        if any(len(column) != len(self.names) for column in columns):
            raise ValueError(f"state of {place}: expected sums of {len(self.names)} targets")
        self.baselines.load_state_dict(saved.baselines)
        self.seen, self.rejected = saved.seen, saved.rejected
        self._model, self._recent = saved.model, saved.recent
        self._pairs = {name: saved.pairs[name] for name in self._pairs}

    def _score(
        self, lane: int, prediction: Sequence[float], target: Sequence[float]
    ) -> float | None:
        width = len(target)
        expected = 2 * width if self.loss.needs_std else width
        if len(prediction) != expected:
            raise ValueError(f"scores: expected {expected} predicted values, got {len(prediction)}")
        stds = prediction[width:] if self.loss.needs_std else [1.0] * width
        losses = list(map(self.loss, prediction, stds, target))
        finite = all(abs(value) < ABSURD for value in prediction)
        if not finite or not all(abs(loss) < ABSURD * ABSURD for loss in losses):
            return None
        counted = self.seen > self.warmup
        for j, (point, y, loss) in enumerate(zip(prediction, target, losses, strict=False)):
            self._recent[j].add(point, y, loss, self.fading)
            if counted:
                self._model[j].add(point, y, loss)
        for name, guess in self.baselines.predict(lane).items():
            self._score_pair(self._pairs[name], guess, prediction, target, losses, counted)
        return sum(losses) / width

    def _score_pair(
        self,
        pairs: list[_Pair],
        guess: Sequence[float],
        prediction: Sequence[float],
        target: Sequence[float],
        losses: list[float],
        counted: bool,
    ) -> None:
        for j, pair in enumerate(pairs):
            error = guess[j] - target[j]
            std = 1.0
            enough = True
            if self.loss.needs_std:
                # The newest of these errors are up to L-1 events younger than the forecast: an
                # advantage for the baseline, never for the model.
                enough = pair.errors >= ERRORS_FOR_STD
                std = math.sqrt(pair.squared_errors / pair.errors) if enough else 1.0
                pair.errors += 1
                pair.squared_errors += error * error
            if not enough:
                continue
            loss = self.loss(guess[j], max(std, SMALLEST_STD), target[j])
            pair.recent.add(guess[j], target[j], loss, self.fading)
            if counted:
                pair.model.add(prediction[j], target[j], losses[j])
                pair.baseline.add(guess[j], target[j], loss)

    def _rows(
        self,
        model: list[Sums],
        paired: dict[str, list[Sums]],
        baselines: dict[str, list[Sums]],
    ) -> list[Row]:
        groups: list[tuple[str, slice]] = [("", slice(None))]
        if len(self.names) > 1:
            groups += [(f" {name}", slice(j, j + 1)) for j, name in enumerate(self.names)]
        return [
            Row(
                (f"{self.loss.name} loss" if metric == "loss" else metric) + suffix,
                _average(model[part], metric),
                {name: _average(sums[part], metric) for name, sums in baselines.items()},
                round(model[part][0].n),
                {name: _average(sums[part], metric) for name, sums in paired.items()},
                gain="difference" if metric == "loss" and self.loss.needs_std else "percent",
            )
            for suffix, part in groups
            for metric in model[0].metrics()
        ]


class ClassSums(Struct, forbid_unknown_fields=True):
    """Events, hits, and nats of surprise."""

    n: Finite = 0.0
    hits: Finite = 0.0
    nats: Finite = 0.0

    def add(self, hit: bool, nats: float, keep: float = 1.0) -> None:
        self.n = self.n * keep + 1
        self.hits = self.hits * keep + hit
        self.nats = self.nats * keep + nats

    def metrics(self) -> dict[str, float | None]:
        """Accuracy, mean log loss in nats, and the same in bits per symbol."""
        if not self.n:
            return dict.fromkeys(("accuracy", "log loss", "bits/symbol"))
        nats = self.nats / self.n
        return {
            "accuracy": self.hits / self.n,
            "log loss": nats,
            "bits/symbol": nats / math.log(2),
        }


class _ClassTable(Struct, forbid_unknown_fields=True):
    """The model, then model and baselines over the events all of them were scored on."""

    model: ClassSums
    paired: ClassSums
    no_change: ClassSums
    majority: ClassSums
    frequencies: ClassSums


class _SavedClass(Struct, forbid_unknown_fields=True):
    n_classes: int
    warmup: int
    seen: Count
    rejected: Count
    total: _ClassTable
    recent: _ClassTable
    baselines: dict[str, Any]


class ClassScores:
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
        require_at_least("scores", 0, warmup=warmup)
        _require_fading(fading)
        self.n_classes = n_classes
        self.fading = fading
        self.warmup = warmup
        self.seen = 0
        self.rejected = 0
        self.baselines = ClassBaselines(n_classes, horizon, n_lanes)
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

    def reset_lane(self, lane: int) -> None:
        """Forget the baselines of `lane`; the scores stay."""
        self.baselines.reset_lane(lane)

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

    def summary(self) -> list[Row]:
        """Cumulative rows, after the warm-up."""
        return _class_rows(self._total)

    def recent(self) -> list[Row]:
        """The same rows, exponentially weighted; `n` is the weight of the events remembered."""
        return _class_rows(self._recent)

    def state_dict(self) -> dict[str, Any]:
        """Everything counted, as JSON-able values."""
        return _plain(
            _SavedClass(
                self.n_classes,
                self.warmup,
                self.seen,
                self.rejected,
                self._total,
                self._recent,
                self.baselines.state_dict(),
            )
        )

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""
        place = "the scores"
        saved = restored(state, _SavedClass, place)
        require_same(
            place,
            n_classes=(saved.n_classes, self.n_classes),
            warmup=(saved.warmup, self.warmup),
        )
        self.baselines.load_state_dict(saved.baselines)
        self.seen, self.rejected = saved.seen, saved.rejected
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


class Drift:
    """ADWIN on the prequential loss: counts when the loss rose for good, not when it fell.

    Args:
        dump: a River object -> plain values; `None` = `stream_rnn.river_state.dump`.
        load: fills a River object from those; `None` = `stream_rnn.river_state.load`.
        cooldown: an alarm within that many events of the last one counted is merged into it: ADWIN
            fires several times for one change.
        delta: ADWIN's significance.
    """

    def __init__(
        self,
        dump: Callable[[Any], dict[str, Any]] | None = None,
        load: Callable[[Any, dict[str, Any]], None] | None = None,
        cooldown: int = 1000,
        delta: float = 0.002,
    ) -> None:
        # River takes 0.6 s to import: `--help` and a run without drift detection do without it.
        from river.drift import ADWIN

        require_at_least("drift", 0, cooldown=cooldown)
        if not 0 < delta < 1:
            raise SettingError(f"drift: delta must be between 0 and 1, got {delta}")
        if dump is None or load is None:
            from stream_rnn import river_state

            dump, load = dump or river_state.dump, load or river_state.load
        self._dump, self._load = dump, load
        self._new: Callable[[], Any] = partial(ADWIN, delta=delta)
        self._adwin: Any = self._new()
        self.cooldown = cooldown
        self.delta = delta
        self.alarms = 0  # monotone
        self._quiet = 0  # events left of the cool-down

    def update(self, loss: float) -> bool:
        """Take one event's loss; True when this event raises a new alarm."""
        if not abs(loss) < ABSURD:
            raise ValueError(f"drift: expected a finite loss, got {loss}; pass scored events only")
        self._quiet = max(self._quiet - 1, 0)
        before = self._adwin.estimation
        self._adwin.update(loss)
        if not self._adwin.drift_detected or self._adwin.estimation <= before or self._quiet:
            return False
        self.alarms += 1
        self._quiet = self.cooldown
        return True

    def state_dict(self) -> dict[str, Any]:
        """Detector and counters, as JSON-able values."""
        adwin = self._dump(self._adwin)
        return {"delta": self.delta, "alarms": self.alarms, "quiet": self._quiet, "adwin": adwin}

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError or the error of `load`, and nothing changed."""
        place = "the drift detector"
        saved = restored(state, _SavedDrift, place)
        require_same(place, delta=(saved.delta, self.delta))
        adwin = self._new()
        self._load(adwin, saved.adwin)
        self._adwin = adwin
        self.alarms, self._quiet = saved.alarms, min(saved.quiet, self.cooldown)


class _SavedDrift(Struct, forbid_unknown_fields=True):
    delta: float
    alarms: Count
    quiet: Count
    adwin: dict[str, Any]


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


def _average(sums: list[Sums], metric: str) -> float | None:
    return _mean([one.metrics()[metric] for one in sums])


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _require_fading(fading: float) -> None:
    if not 0 < fading < 1:
        raise SettingError(f"scores: fading must be between 0 and 1, got {fading}")


def _plain(saved: Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(saved, str_keys=True)
    return plain
