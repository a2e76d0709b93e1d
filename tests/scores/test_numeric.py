from __future__ import annotations

import json
import math
import random
import re
from typing import Any

import pytest

from stream_rnn.scores import Absolute, Gaussian, LossFn, NumericScores, Quantile, Row, Squared
from stream_rnn.spi import SettingError

LOSSES: list[LossFn] = [Squared(), Absolute(), Quantile(0.9), Gaussian()]


def through_json(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


def row(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def random_walk(n: int, seed: int = 0) -> list[tuple[list[float], list[float]]]:
    """Forecasts (mean, std) and targets."""
    rng = random.Random(seed)
    y, pairs = 0.0, []
    for _ in range(n):
        forecast = 0.9 * y
        y = forecast + rng.gauss(0, 1)
        pairs.append(([forecast, 0.5 + rng.random()], [y]))
    return pairs


def scored(loss: LossFn, n: int, **settings: Any) -> NumericScores:
    scores = NumericScores(["y"], loss, season=5, **settings)
    for prediction, target in random_walk(n):
        scores.update(0, prediction if loss.needs_std else prediction[:1], target)
    return scores


@pytest.mark.parametrize("metric", ["MAE", "RMSE"])
def test_the_numeric_metrics_equal_rivers(metric: str) -> None:
    from river import metrics

    judge = getattr(metrics, metric)()
    for prediction, target in random_walk(500):
        judge.update(target[0], prediction[0])
    # The same sums in River's order of rounding: 1e-12 allows for a few hundred roundings.
    assert row(scored(Squared(), 500).summary(), metric).model == pytest.approx(
        judge.get(), rel=1e-12
    )


def test_relative_metrics_equal_their_definitions() -> None:
    pairs = random_walk(300)
    ys = [target[0] for _, target in pairs]
    errors = [prediction[0] - target[0] for prediction, target in pairs]
    mean = sum(ys) / len(ys)
    std = math.sqrt(sum((y - mean) ** 2 for y in ys) / len(ys))
    rmse = math.sqrt(sum(e * e for e in errors) / len(ys))
    rows = scored(Absolute(), 300).summary()
    assert row(rows, "MAPE").model == pytest.approx(sum(map(abs, errors)) / sum(map(abs, ys)))
    assert row(rows, "NRMSE").model == pytest.approx(rmse / std)


def test_update_returns_the_loss_of_the_event() -> None:
    scores = NumericScores(["a", "b"], Squared())
    assert scores.update(0, None, [0.0, 0.0]) is None
    assert scores.update(0, [1.0, 3.0], [0.0, 0.0]) == 5.0


def test_model_and_baseline_are_compared_on_the_same_events() -> None:
    scores = NumericScores(["y"], Absolute(), season=3)
    for t, y in enumerate([1.0, 2.0, 4.0, 1.0, 2.0, 8.0]):
        scores.update(0, [y + t], [y])  # the model is off by 0, 1, 2, 3, 4, 5
    mae = row(scores.summary(), "MAE")
    assert mae.model == 15 / 6
    assert mae.n == 6
    assert mae.paired["persistence"] == 15 / 5  # without the first event
    assert mae.baselines["persistence"] == (1 + 2 + 3 + 1 + 6) / 5
    assert mae.paired["seasonal"] == 12 / 3  # the last three
    assert mae.baselines["seasonal"] == 4 / 3
    loss = row(scores.summary(), "absolute loss")
    assert (loss.model, loss.paired, loss.baselines) == (mae.model, mae.paired, mae.baselines)


def test_baselines_learn_while_no_forecast_is_due() -> None:
    scores = NumericScores(["y"], Absolute())
    scores.update(0, None, [5.0])
    scores.update(0, [7.0], [7.0])
    mae = row(scores.summary(), "MAE")
    assert (mae.n, mae.model, mae.baselines["persistence"]) == (1, 0.0, 2.0)


def test_warmup_leaves_the_first_targets_out_of_the_cumulative_scores_only() -> None:
    scores = NumericScores(["y"], Absolute(), warmup=2)
    for y, forecast in [(0.0, 100.0), (0.0, 100.0), (1.0, 2.0)]:
        scores.update(0, [forecast], [y])
    mae = row(scores.summary(), "MAE")
    assert (mae.n, mae.model, mae.baselines["persistence"]) == (1, 1.0, 1.0)
    live, _ = scores.live()
    assert live is not None
    assert live > 60


def test_the_live_loss_is_the_exponentially_weighted_mean() -> None:
    scores = NumericScores(["y"], Absolute(), fading=0.5)
    for error in (8.0, 4.0, 2.0):
        scores.update(0, [error], [0.0])
    live, baselines = scores.live()
    assert live == (0.25 * 8 + 0.5 * 4 + 2) / 1.75
    assert baselines == {"persistence": 0.0, "mean": 0.0}


def test_the_live_loss_of_no_event_is_unknown() -> None:
    assert NumericScores(["y"], Squared()).live() == (None, {"persistence": None, "mean": None})


def test_recent_rows_forget_the_past() -> None:
    scores = NumericScores(["y"], Absolute(), fading=0.5)
    for t in range(60):
        scores.update(0, [100.0 if t < 10 else 1.0], [0.0])
    assert row(scores.recent(), "MAE").model == pytest.approx(1.0)
    assert row(scores.summary(), "MAE").model == pytest.approx(1050 / 60)


def test_several_targets_give_averages_and_their_own_rows() -> None:
    scores = NumericScores(["a", "b"], Absolute())
    scores.update(0, [1.0, 3.0], [0.0, 0.0])
    rows = scores.summary()
    assert [row(rows, name).model for name in ("MAE", "MAE a", "MAE b")] == [2.0, 1.0, 3.0]


def test_a_relative_error_of_zero_targets_is_undefined_not_a_number() -> None:
    scores = NumericScores(["y"], Absolute())
    scores.update(0, [1.0], [0.0])
    rows = scores.summary()
    assert row(rows, "MAPE").model is None
    assert row(rows, "NRMSE").model is None


def test_baselines_state_their_own_error_as_standard_deviation_under_gaussian_loss() -> None:
    scores = NumericScores(["y"], Gaussian())
    for t in range(12):
        scores.update(0, [0.0, 1.0], [float(t % 2)])
    gaussian = row(scores.summary(), "gaussian loss")
    # Persistence is always wrong by 1, so it says std 1: once after ten errors of its own.
    assert gaussian.baselines["persistence"] == pytest.approx(Gaussian()(0.0, 1.0, 1.0))
    assert gaussian.paired["persistence"] == pytest.approx(Gaussian()(0.0, 1.0, 1.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e101])
def test_a_forecast_that_is_not_finite_is_counted_and_not_scored(bad: float) -> None:
    scores = NumericScores(["y"], Squared())
    assert scores.update(0, [bad], [1.0]) is None
    assert scores.rejected == 1
    scores.update(0, [1.0], [1.0])
    assert row(scores.summary(), "RMSE").model == 0.0
    assert row(scores.summary(), "RMSE").baselines["persistence"] == 0.0


def test_a_target_that_is_not_finite_is_counted_and_learned_by_nobody() -> None:
    scores = NumericScores(["y"], Squared())
    scores.update(0, None, [1.0])
    assert scores.update(0, [1.0], [math.nan]) is None
    assert scores.rejected == 1
    scores.update(0, [1.0], [1.0])
    assert row(scores.summary(), "RMSE").baselines["persistence"] == 0.0


def test_a_standard_deviation_of_zero_is_not_scored() -> None:
    scores = NumericScores(["y"], Gaussian())
    assert scores.update(0, [1.0, 0.0], [1.0]) is None
    assert scores.rejected == 1


def test_a_forecast_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 predicted values, got 1"):
        NumericScores(["y"], Gaussian()).update(0, [1.0], [1.0])


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_numeric_scores_continue_bit_identically_after_json(loss: LossFn) -> None:
    straight = scored(loss, 100, n_lanes=2)
    resumed = NumericScores(["y"], loss, season=5, n_lanes=2)
    resumed.load_state_dict(through_json(straight.state_dict()))
    for prediction, target in random_walk(100, seed=1):
        for scores in (straight, resumed):
            scores.update(1, prediction if loss.needs_std else prediction[:1], target)
    assert resumed.state_dict() == straight.state_dict()
    assert resumed.summary() == straight.summary()
    assert resumed.live() == straight.live()


def test_a_reset_lane_starts_without_a_baseline_forecast() -> None:
    scores = NumericScores(["y"], Absolute())
    scores.update(0, [0.0], [0.0])
    scores.reset_lane(0)
    scores.update(0, [0.0], [9.0])
    assert row(scores.summary(), "MAE").baselines["persistence"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "Absolute()"}, "saved with loss = 'Absolute()'"),
        ({"names": ["z"]}, "saved with targets = ('z',)"),
        ({"warmup": 9}, "saved with warmup = 9"),
        ({"pairs": {}}, "saved with baselines = set()"),
        ({"model": []}, "expected sums of 1 targets"),
        ({"model": [{"n": math.nan}]}, "$.model[0].n"),
        ({"recent": None}, "$.recent"),
        ({"seen": -1}, "$.seen"),
        ({"baselines": {}}, "state of the baselines"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: dict[str, Any], message: str
) -> None:
    scores = scored(Squared(), 20)
    before = scores.state_dict()
    with pytest.raises(ValueError, match=re.escape(message)):
        scores.load_state_dict(before | change)
    assert scores.state_dict() == before


@pytest.mark.parametrize("fading", [0.0, 1.0, math.nan])
def test_a_fading_out_of_range_is_refused(fading: float) -> None:
    with pytest.raises(SettingError, match="fading must be between 0 and 1"):
        NumericScores(["y"], Squared(), fading=fading)
