"""The forecast: numeric fields of an event that is still to come."""

from __future__ import annotations

from collections import deque

import numpy as np
from typing_extensions import override

from stream_rnn.columns import Array, behind, filled
from stream_rnn.features.encoder import Features
from stream_rnn.features.run import FeatureRun
from stream_rnn.features.saved import items, row
from stream_rnn.features.scaler import NEW_LANE
from stream_rnn.native.columns import CHANGE, LEVEL, Columns
from stream_rnn.spi import Record, worded
from stream_rnn.tasks.numeric import LossName, Numeric
from stream_rnn.tasks.steps import Step, Steps
from stream_rnn.tasks.taught import Taught


class Forecast(Numeric):
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
        weight: field with the weight of the loss this event settles, 0..1; where missing, 1.
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
        weight: str | None = None,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        if not 1 <= horizon <= 100_000:
            raise ValueError(
                f"horizon must be in 1..100000, got {horizon}; a target that stands in the event "
                'itself is predicted by kind = "regression"'
            )
        super().__init__(features, target, horizon, loss, tau, season, lanes, warmup, weight)
        self.inputs = features.width
        self.difference = difference
        width = len(self.targets)
        self._past = self.remember(
            "past",
            list,
            lambda past: deque(
                (row(each, "past targets", width) for each in items(past, "past targets")),
                maxlen=horizon,
            ),
            deque.copy,
        )

    @override
    def check(self, record: Record) -> None:
        self._known(record, NEW_LANE)
        super().check(record)

    def _known(self, record: Record, lane: int) -> list[float]:
        values = self._read(record)
        for name, value in zip(self.targets, values, strict=True):
            # `missing` fills in what the network sees, never what it is taught and judged by
            self.features.check(name, value, lane)
        return values

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        values, weight = self._known(record, lane), self._weight_of(record)
        x, scalers = self.features.encode(record, lane), self._scales.of(lane)
        # this target was predicted earlier, so the scale may know it by now
        if not self.difference:
            self._learn_scales(values, scalers)
            scales = self._scales_now(scalers)
            level = self._standardize(values, scales)
            return [Step(x, level, values, scales, weight=weight)]
        past = self._past.get(lane)
        if past is None:
            past = self._past[lane] = deque(maxlen=self.horizon)
        change = None
        if len(past) == self.horizon:
            change = [now - then for now, then in zip(values, past[0], strict=True)]
            self._learn_scales(change, scalers)
        past.append(values)
        scales = self._scales_now(scalers)
        y = None if change is None else self._standardize(change, scales)
        from_now = tuple([(m + v, s) for v, (m, s) in zip(values, scales, strict=True)])
        return [Step(x, y, values, from_now, weight=weight)]

    @override
    def _run(self, run: FeatureRun, weight_T: Array | None, library: Columns) -> Steps:
        fields = [run.require(name) for name in self.targets]
        n = run.scale(run.limit, strict=self.targets) if run.limit else 0
        if not n:
            return Steps.of([], self.inputs)
        x_TI, lanes = run.commit(n), run.lanes[:n]
        value_TQ = np.stack([field.value_T[:n] for field in fields], axis=1)
        targets: list[list[float]] = value_TQ.tolist()
        kind, learned_TQ, known_T = LEVEL, value_TQ, np.ones(n, dtype=np.bool_)
        if self.difference:
            for lane in run.lanes_of(n):
                if lane not in self._past:
                    self._past[lane] = deque(maxlen=self.horizon)
            pasts = [self._past[lane] for lane in run.lanes_of(n)]
            where = run.where
            (then,) = behind(pasts, where and where[:n], targets, (self.horizon,))
            then_TQ, known_T = filled(then, len(fields))
            kind, learned_TQ = CHANGE, value_TQ - then_TQ
        taught = Taught(library, self._scales, kind, self.features.clip, lanes, learned_TQ, known_T)
        taught.commit()
        mean_TQ = taught.mean_TQ + value_TQ if self.difference else taught.mean_TQ
        return Steps(
            *(x_TI, taught.y_TQ, taught.taught_T, targets, mean_TQ, taught.std_TQ),
            weight_T=None if weight_T is None else weight_T[:n],
        )

    @override
    def _learned(self, target: str) -> str:
        return f"change of {target}" if self.difference else f"coming {target}"

    @override
    def persist(self) -> dict[int, int]:
        if self.difference:
            return {}
        numeric = self.features.numeric
        return {i: numeric.index(t) for i, t in enumerate(self.targets) if t in numeric}

    @override
    def describe(self) -> str:
        names = ", ".join(self.targets)
        events = worded(self.horizon, "event")
        return f"forecast {names} {self.horizon} {events} ahead, {self._loss} loss"
