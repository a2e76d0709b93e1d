"""What forecast and regression share: standardized targets, their losses and numeric scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from typing_extensions import override

from stream_rnn.columns import Array
from stream_rnn.features.encoder import Features
from stream_rnn.features.run import FeatureRun
from stream_rnn.features.scaler import Scaler, Scales
from stream_rnn.features.values import BadEvent, number
from stream_rnn.native import loading
from stream_rnn.native.columns import FEW, Columns
from stream_rnn.scores import Absolute, Gaussian, LossFn, NumericScores, Quantile, Squared
from stream_rnn.spi import Record
from stream_rnn.tasks.base import Objective, Task, require_no_target
from stream_rnn.tasks.steps import Scale, Step, Steps

LossName = Literal["l1", "squared", "quantile", "gaussian"]

LONGEST_SEASON = 1_000_000
"""Events: the seasonal baseline remembers as many targets of each lane."""


class Numeric(Task):
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
        weight: str | None,
    ) -> None:
        super().__init__(features, weight)
        self.targets = (target,) if isinstance(target, str) else tuple(target)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"target: expected one field, or several different, got {target!r}")
        if season is not None and season > LONGEST_SEASON:
            raise ValueError(f"season must be at most {LONGEST_SEASON}, got {season}")
        require_no_target(weight, self.targets)
        features.expect(*self.targets)
        self._single = isinstance(target, str)
        self._loss = loss
        self.horizon = horizon
        self._scales = Scales(self.targets, features.memory, by_lane=features.scaling == "lane")
        objectives = {"l1": "quantile", "quantile": "quantile"}
        self.objective = Objective(objectives.get(loss, loss), len(self.targets), tau)
        scorers: dict[str, LossFn] = {
            "l1": Absolute(),
            "squared": Squared(),
            "gaussian": Gaussian(),
            "quantile": Quantile(tau),
        }
        self.scores: NumericScores = NumericScores(
            self.targets,
            scorers[loss],
            horizon=horizon,
            season=season,
            n_lanes=lanes,
            warmup=warmup,
        )

    def _read(self, record: Record) -> list[float]:
        return [number(record, name) for name in self.targets]

    @override
    def steps_many(self, records: Sequence[Record], lanes: Sequence[int]) -> Steps:
        library = loading.find()
        if library is None or len(records) < FEW:
            return super().steps_many(records, lanes)
        run = FeatureRun(self.features, records, lanes, library.columns)
        return self._run(run, self._weights(run), library.columns)

    @abstractmethod
    def _run(self, run: FeatureRun, weight_T: Array | None, library: Columns) -> Steps:
        """The steps of a run, natively."""

    def _weights(self, run: FeatureRun) -> Array | None:
        """The weight of each event's loss; None: 1. The run stops before one without."""
        if self.weight is None:
            return None
        weights: list[float] = []
        for record in run.records:
            try:
                weights.append(self._weight_of(record))
            except BadEvent:
                run.stop_before(len(weights))
                break
        return np.array(weights)

    def _scales_now(self, scalers: Mapping[str, Scaler]) -> tuple[Scale, ...]:
        return tuple([(scaler.mean, scaler.std) for scaler in scalers.values()])

    def _learn_scales(self, values: Sequence[float], scalers: Mapping[str, Scaler]) -> None:
        for value, scaler in zip(values, scalers.values(), strict=True):
            scaler.learn(value)

    def _standardize(self, values: Sequence[float], scales: Sequence[Scale]) -> list[float]:
        clip = self.features.clip
        return [
            min(max((v - mean) / std, -clip), clip)
            for v, (mean, std) in zip(values, scales, strict=True)
        ]

    @override
    def natural(self, outputs: Sequence[float], step: Step) -> list[float]:
        n, scales = len(self.targets), step.scales
        natural = [outputs[i] * std + mean for i, (mean, std) in enumerate(scales)]
        if len(outputs) > n:
            natural += [o * std for o, (_, std) in zip(outputs[n:], scales, strict=True)]
        return natural

    @override
    def natural_many(self, outputs_TP: Array, steps: Steps) -> list[list[float]]:
        n, outputs_TP = len(self.targets), outputs_TP.astype(np.float64)
        natural_TP = outputs_TP[:, :n] * steps.std_TQ + steps.mean_TQ
        if outputs_TP.shape[1] > n:
            natural_TP = np.hstack((natural_TP, outputs_TP[:, n:] * steps.std_TQ))
        natural: list[list[float]] = natural_TP.tolist()
        return natural

    @override
    def output_names(self) -> list[str]:
        names = [self._learned(target) for target in self.targets]
        return names + [f"log std of {name}" for name in names if self._loss == "gaussian"]

    def _learned(self, target: str) -> str:
        """What the network learns of a target."""
        return target

    @property
    @override
    def natural_width(self) -> int:
        return len(self.output_names())

    @override
    def publish(self, natural: Sequence[float], step: Step) -> Any:
        n = len(self.targets)
        if self._loss == "gaussian":
            values: list[Any] = [{"mean": natural[i], "std": natural[n + i]} for i in range(n)]
        else:
            values = list(natural)
        return values[0] if self._single else dict(zip(self.targets, values, strict=True))

    @override
    def publish_many(self, natural: Sequence[Sequence[float]], steps: Steps) -> list[Any]:
        if self._single and self._loss != "gaussian":
            return [row[0] for row in natural]
        return super().publish_many(natural, steps)

    @override
    def publish_target(self, target: list[float] | int) -> Any:
        assert isinstance(target, list)
        return target[0] if self._single else dict(zip(self.targets, target, strict=True))

    @override
    def publish_targets(self, targets: Sequence[Any]) -> list[Any]:
        return (
            [target[0] for target in targets] if self._single else super().publish_targets(targets)
        )

    @override
    def score(
        self, lane: int, prediction: Sequence[float] | None, target: list[float] | int
    ) -> float | None:
        assert isinstance(target, list)
        return self.scores.update(lane, prediction, target)

    @override
    def score_many(
        self,
        lanes: Sequence[int],
        predictions: Sequence[Sequence[float] | None],
        targets: Sequence[Any],
    ) -> list[float | None]:
        return self.scores.update_many(lanes, predictions, targets)

    @override
    def reset_lane(self, lane: int) -> None:
        super().reset_lane(lane)
        self._scales.reset_lane(lane)

    @override
    def known(self) -> dict[str, Any]:
        scales = {lane: list(each.values()) for lane, each in self._scales.state_dict().items()}
        return super().known() | {"scales": scales}

    @override
    def load_known(self, state: Mapping[str, Any]) -> None:
        super().load_known(state)
        scales = state["scales"].items()
        self._scales.load_state_dict(
            {lane: dict(zip(self.targets, each, strict=True)) for lane, each in scales}
        )
