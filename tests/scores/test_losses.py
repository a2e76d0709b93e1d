from __future__ import annotations

import math

import pytest

from stream_rnn.scores import Absolute, Gaussian, LossFn, Quantile, Squared


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Squared(), 4.0),
        (Absolute(), 2.0),
        (Quantile(0.9), 1.8),  # two too low: 0.9 * 2
        # 1/2 (2/0.5)^2 + log 0.5 + log(2 pi)/2
        (Gaussian(), 8.0 + math.log(0.5) + 0.5 * math.log(2 * math.pi)),
    ],
    ids=repr,
)
def test_each_loss_has_its_value_worked_by_hand(loss: LossFn, expected: float) -> None:
    assert loss(1.0, 0.5, 3.0) == pytest.approx(expected, rel=1e-15)


def test_a_quantile_forecast_too_high_costs_the_other_share() -> None:
    assert Quantile(0.9)(3.0, 1.0, 1.0) == pytest.approx(0.2)
