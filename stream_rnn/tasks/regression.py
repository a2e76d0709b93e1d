"""The regression: numeric fields of an event from its other fields."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from stream_rnn.columns import Array
from stream_rnn.features.encoder import Features
from stream_rnn.features.run import FeatureRun
from stream_rnn.features.saved import row
from stream_rnn.features.scaler import NEW_LANE
from stream_rnn.native.columns import OWN, Columns
from stream_rnn.spi import Record
from stream_rnn.tasks.base import require_no_leak
from stream_rnn.tasks.numeric import LossName, Numeric
from stream_rnn.tasks.steps import Step, Steps
from stream_rnn.tasks.taught import Taught


class Regression(Numeric):
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
        weight: field with the weight of the event's loss, 0..1; where missing, 1.
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
        weight: str | None = None,
        *,
        lanes: int = 1,
        warmup: int = 0,
    ) -> None:
        super().__init__(features, target, 0, loss, tau, season, lanes, warmup, weight)
        require_no_leak(features, self.targets)
        self._previous = self.remember(
            "previous", list[float], lambda values: row(values, "a target", len(self.targets))
        )
        self._use_previous = previous_target
        self.inputs = features.width + (len(self.targets) if previous_target else 0)

    @override
    def check(self, record: Record) -> None:
        self._known(record, NEW_LANE)
        super().check(record)

    def _known(self, record: Record, lane: int) -> list[float] | None:
        """The targets, or None if the event has none."""
        if list(map(record.get, self.targets)).count(None) == len(self.targets):
            return None
        values = self._read(record)
        scalers = self._scales.of(lane)
        for name, value in zip(self.targets, values, strict=True):
            scalers[name].check(name, value)
        return values

    @override
    def steps(self, record: Record, lane: int) -> list[Step]:
        values, weight = self._known(record, lane), self._weight_of(record)
        scalers = self._scales.of(lane)
        x = self.features.encode(record, lane)
        scales = self._scales_now(scalers)  # as before this target
        if self._use_previous:
            previous = self._previous.get(lane)
            x += [0.0] * len(scales) if previous is None else self._standardize(previous, scales)
        y = None
        if values is not None:
            if scalers[self.targets[0]].n > 0:
                y = self._standardize(values, scales)
            self._learn_scales(values, scalers)
            self._previous[lane] = values
        return [Step(x, y, values, scales, weight=weight)]

    @override
    def _run(self, run: FeatureRun, weight_T: Array | None, library: Columns) -> Steps:
        fields = [run.numbers(name) for name in self.targets]
        known_T = np.ones(len(run.records), dtype=np.bool_)
        issues = [field.issue_T for field in fields if field.issue_T is not None]
        for t in np.flatnonzero(np.any(issues, axis=0)).tolist():
            record = run.records[t]
            known_T[t] = any(record.get(name) is not None for name in self.targets)
            if known_T[t]:
                run.stop_before(t)
                break
        value_TQ = np.stack([field.value_T for field in fields], axis=1)
        end, n, room = run.limit, -1, len(fields) if self._use_previous else 0
        while end:  # until both sides take the same events
            taught = Taught(
                *(library, self._scales, OWN, self.features.clip, run.lanes[:end]),
                *(value_TQ, known_T, self._previous),
            )
            n = run.scale(taught.n, room=room) if taught.n else 0
            if n == taught.n:
                break
            end = n
        if not end or not n:
            return Steps.of([], self.inputs)
        x_TI = run.commit(n)
        taught.commit()
        if room:
            x_TI[:, -room:] = taught.previous_TQ[:n]
        rows: list[list[float]] = value_TQ[:n].tolist()
        is_known: list[bool] = known_T[:n].tolist()
        targets: list[list[float] | int | None] = [
            row if known else None for row, known in zip(rows, is_known, strict=True)
        ]
        for lane, target in zip(run.lanes, targets, strict=False):
            if isinstance(target, list):
                self._previous[lane] = target
        return Steps(
            *(x_TI, taught.y_TQ[:n], taught.taught_T[:n], targets),
            *(taught.mean_TQ[:n], taught.std_TQ[:n]),
            weight_T=None if weight_T is None else weight_T[:n],
        )

    @override
    def input_names(self) -> list[str]:
        previous = [f"previous {name}" for name in self.targets if self._use_previous]
        return super().input_names() + previous

    @override
    def persist(self) -> dict[int, int]:
        if not self._use_previous:
            return {}
        return {i: self.features.width + i for i in range(len(self.targets))}

    @override
    def describe(self) -> str:
        return f"regression of {', '.join(self.targets)}, {self._loss} loss"
