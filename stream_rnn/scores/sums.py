"""The sums that metrics are made of, plain or forgetting exponentially."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from stream_rnn.scores.saved import Count, Finite, Weight


class NumericSums(Struct, forbid_unknown_fields=True):
    """What the numeric metrics of one target are made of; `keep` < 1 forgets exponentially."""

    n: Weight = 0.0
    loss: Finite = 0.0
    absolute: Finite = 0.0
    squared: Weight = 0.0
    size: Weight = 0.0  # sum |target|
    mean: Finite = 0.0  # of the target, by Welford's recurrence
    spread: Finite = 0.0  # sum of squares about the mean

    def add(self, point: float, target: float, loss: float, keep: float = 1.0) -> None:
        error = point - target
        self.n = n = self.n * keep + 1
        self.loss = self.loss * keep + loss
        self.absolute = self.absolute * keep + abs(error)
        self.squared = self.squared * keep + error * error
        self.size = self.size * keep + abs(target)
        step = target - self.mean
        self.mean = mean = self.mean + step / n
        self.spread = self.spread * keep + step * (target - mean)

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


class Pair(Struct, forbid_unknown_fields=True):
    """One target, one baseline: both over the same events, and the baseline exponentially."""

    model: NumericSums
    baseline: NumericSums
    recent: NumericSums
    errors: Count = 0  # since the first event, warm-up included: the baseline's own std
    squared_errors: Weight = 0.0


class ClassSums(Struct, forbid_unknown_fields=True):
    """Events, hits, and nats of surprise."""

    n: Weight = 0.0
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


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of values that are all known, else `None`."""
    given = list(values)
    known = [value for value in given if value is not None]
    return sum(known) / len(known) if known and len(known) == len(given) else None
