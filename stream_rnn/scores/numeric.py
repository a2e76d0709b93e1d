"""Scores of numeric forecasts: the task's loss, MAE, RMSE and their relative forms."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from typing import Any

from typing_extensions import override

from stream_rnn.native import loading
from stream_rnn.native.columns import FEW
from stream_rnn.scores.base import ABSURD, Row, SavedScores, Scores
from stream_rnn.scores.losses import LossFn
from stream_rnn.scores.numeric_baselines import NumericBaselines
from stream_rnn.scores.saved import restored
from stream_rnn.scores.sums import NumericSums, Pair, mean

ERRORS_FOR_STD = 10  # a baseline states a standard deviation after that many errors of its own
SMALLEST_STD = 1e-6


class _SavedNumeric(SavedScores, kw_only=True):
    names: tuple[str, ...]
    loss: str
    model: list[NumericSums]
    recent: list[NumericSums]
    pairs: dict[str, list[Pair]]


class NumericScores(Scores[NumericBaselines]):
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
        baselines = NumericBaselines(len(names), horizon, season, n_lanes)
        super().__init__(baselines, fading, warmup)
        self.names = tuple(names)
        self.loss = loss
        self._model = [NumericSums() for _ in self.names]
        self._recent = [NumericSums() for _ in self.names]
        self._pairs = {
            baseline: [Pair(NumericSums(), NumericSums(), NumericSums()) for _ in self.names]
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
        if not _all_below(ABSURD, target):
            self.rejected += 1
            return None
        mean_loss = None
        if prediction is not None:
            mean_loss = self._score(lane, prediction, target)
            self.rejected += mean_loss is None
        self.baselines.learn(lane, target)
        return mean_loss

    def update_many(
        self,
        lanes: Sequence[int],
        predictions: Sequence[Sequence[float] | None],
        targets: Sequence[Sequence[float]],
    ) -> list[float | None]:
        """`update` of each, in order and bit for bit."""
        library = loading.find()
        if library is not None and len(targets) >= FEW:
            # numpy takes 0.1 s to import: a report does without it
            from stream_rnn.scores.run import judge

            sums = (self._model, self._recent, self._pairs)
            losses = judge(library.columns, self, sums, lanes, predictions, targets)
            if losses is not None:
                return losses
        return [
            self.update(lane, prediction, target)
            for lane, prediction, target in zip(lanes, predictions, targets, strict=True)
        ]

    @override
    def live(self) -> tuple[float | None, dict[str, float | None]]:
        baselines = {
            name: mean(pair.recent.metrics()["loss"] for pair in pairs)
            for name, pairs in self._pairs.items()
        }
        return mean(sums.metrics()["loss"] for sums in self._recent), baselines

    @override
    def shown(self) -> tuple[str, float | None, dict[str, float | None]]:
        """Of several targets the NRMSE: a mean of their losses would be one of different units."""
        if len(self.names) == 1:
            return super().shown()
        baselines = {
            name: _average([pair.recent for pair in pairs], "NRMSE")
            for name, pairs in self._pairs.items()
        }
        return "NRMSE", _average(self._recent, "NRMSE"), baselines

    @override
    def summary(self) -> list[Row]:
        """Cumulative rows after the warm-up: averages over the targets, then target by target.

        A target for which a metric is not defined, as the NRMSE of one that never changed, is left
        out of the average.
        """
        return self._rows(
            self._model,
            {name: [pair.model for pair in pairs] for name, pairs in self._pairs.items()},
            {name: [pair.baseline for pair in pairs] for name, pairs in self._pairs.items()},
        )

    @override
    def recent(self) -> list[Row]:
        return self._rows(
            self._recent,
            dict.fromkeys(self._pairs, self._recent),
            {name: [pair.recent for pair in pairs] for name, pairs in self._pairs.items()},
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._plain(
            _SavedNumeric(
                names=self.names,
                loss=repr(self.loss),
                model=self._model,
                recent=self._recent,
                pairs=self._pairs,
                **self._counted(),
            )
        )

    @override
    def load_state_dict(self, state: object) -> None:
        saved = restored(state, _SavedNumeric, "the scores")
        columns: list[Sized] = [saved.model, saved.recent, *saved.pairs.values()]
        if any(len(column) != len(saved.names) for column in columns):
            raise ValueError(f"state of the scores: expected sums of {len(saved.names)} targets")
        self._take(
            saved,
            targets=(saved.names, self.names),
            loss=(saved.loss, repr(self.loss)),
            baselines=(set(saved.pairs), set(self._pairs)),
        )
        self._model, self._recent = saved.model, saved.recent
        self._pairs = {name: saved.pairs[name] for name in self._pairs}

    def _score(
        self, lane: int, prediction: Sequence[float], target: Sequence[float]
    ) -> float | None:
        width, has_std = len(target), self.loss.needs_std
        expected = 2 * width if has_std else width
        if len(prediction) != expected:
            raise ValueError(f"scores: expected {expected} predicted values, got {len(prediction)}")
        stds = prediction[width:] if has_std else [1.0] * width
        losses = list(map(self.loss, prediction, stds, target))
        if not (_all_below(ABSURD, prediction) and _all_below(ABSURD * ABSURD, losses)):
            return None
        counted = self.seen > self.warmup
        for j, loss in enumerate(losses):
            self._recent[j].add(prediction[j], target[j], loss, self.fading)
            if counted:
                self._model[j].add(prediction[j], target[j], loss)
        for name, guess in self.baselines.predict(lane).items():
            self._score_pair(self._pairs[name], guess, prediction, target, losses, counted)
        return sum(losses) / width

    def _score_pair(
        self,
        pairs: list[Pair],
        guess: Sequence[float],
        prediction: Sequence[float],
        target: Sequence[float],
        losses: list[float],
        counted: bool,
    ) -> None:
        has_std = self.loss.needs_std
        for j, pair in enumerate(pairs):
            std = 1.0
            enough = True
            if has_std:
                error = guess[j] - target[j]
                # The newest of these errors are up to L-1 events younger than the forecast: an
                # advantage for the baseline, never for the model.
                enough = pair.errors >= ERRORS_FOR_STD
                std = math.sqrt(pair.squared_errors / pair.errors) if enough else 1.0
                pair.errors += 1
                pair.squared_errors += error * error
            if not enough:
                continue
            loss = self.loss(guess[j], std if std > SMALLEST_STD else SMALLEST_STD, target[j])
            pair.recent.add(guess[j], target[j], loss, self.fading)
            if counted:
                pair.model.add(prediction[j], target[j], losses[j])
                pair.baseline.add(guess[j], target[j], loss)

    def _rows(
        self,
        model: list[NumericSums],
        paired: dict[str, list[NumericSums]],
        baselines: dict[str, list[NumericSums]],
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


def _all_below(limit: float, values: Sequence[float]) -> bool:
    """Whether none is as large as `limit`, or no number. A loop: this is asked of every event."""
    for value in values:  # noqa: SIM110
        if not abs(value) < limit:  # NaN compares false
            return False
    return True


def _average(sums: list[NumericSums], metric: str) -> float | None:
    """Over those for which it is defined."""
    values = (one.metrics()[metric] for one in sums)
    return mean(value for value in values if value is not None)
