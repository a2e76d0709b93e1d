"""The tasks' losses of one forecast and one target, as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from stream_rnn.spi import SettingError


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
