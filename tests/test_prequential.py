from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from typing import Any

import pytest

from stream_rnn.prequential import (
    Absolute,
    ClassScores,
    Drift,
    Gaussian,
    LossFn,
    NumericScores,
    Quantile,
    Row,
    Squared,
)
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


def test_warmup_applies_to_class_scores() -> None:
    scores = ClassScores(2, warmup=1)
    scores.update(0, [0.9], 0)
    scores.update(0, [0.9], 1)
    accuracy = row(scores.summary(), "accuracy")
    assert (accuracy.n, accuracy.model) == (1, 1.0)


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


def noisy_cycle(n: int, seed: int = 0) -> list[tuple[list[float], int]]:
    rng = random.Random(seed)
    symbol, pairs = 0, []
    for _ in range(n):
        weights = [rng.random() for _ in range(3)]
        weights[(symbol + 1) % 3] += 2
        symbol = (symbol + 1) % 3 if rng.random() < 0.8 else rng.randrange(3)
        pairs.append(([w / sum(weights) for w in weights], symbol))
    return pairs


def test_accuracy_equals_rivers() -> None:
    from river.metrics import Accuracy

    judge: Any = Accuracy()  # type: ignore[no-untyped-call]
    scores = ClassScores(3)
    for probabilities, symbol in noisy_cycle(300):
        judge.update(symbol, probabilities.index(max(probabilities)))
        scores.update(0, probabilities, symbol)
    assert row(scores.summary(), "accuracy").model == judge.get()


def test_bernoulli_log_loss_equals_rivers() -> None:
    from river.metrics import LogLoss

    rng = random.Random(3)
    judge: Any = LogLoss()  # type: ignore[no-untyped-call]
    scores = ClassScores(2)
    for p in [*(rng.random() for _ in range(300)), 0.0]:  # the last one is clamped
        y = rng.random() < p or p == 0
        judge.update(y, p)
        scores.update(0, [p], int(y))
    assert row(scores.summary(), "log loss").model == pytest.approx(judge.get(), rel=1e-12)


def test_bits_per_symbol_of_a_uniform_guess_are_the_logarithm_of_the_alphabet() -> None:
    scores = ClassScores(8)
    for symbol in range(8):
        scores.update(0, [1 / 8] * 8, symbol)
    assert row(scores.summary(), "bits/symbol").model == pytest.approx(3.0)


def test_class_baselines_are_scored_beside_the_model() -> None:
    scores = ClassScores(2)
    for symbol in [1, 1, 0, 1]:
        scores.update(0, [0.5, 0.5], symbol)  # an even guess counts as class 0
    rows = scores.summary()
    accuracy, log_loss = row(rows, "accuracy"), row(rows, "log loss")
    assert (accuracy.model, accuracy.n) == (1 / 4, 4)
    assert accuracy.baselines == {"no-change": 1 / 3, "majority": 2 / 3}
    assert accuracy.paired["majority"] == 1 / 3
    # Laplace: (1+1)/(1+2), then 1/(2+2) for the 0, then (2+1)/(3+2).
    expected = -(math.log(2 / 3) + math.log(1 / 4) + math.log(3 / 5)) / 3
    assert log_loss.baselines["frequencies"] == pytest.approx(expected)
    assert log_loss.paired["frequencies"] == pytest.approx(math.log(2))


def test_probabilities_that_are_not_finite_are_counted_and_not_scored() -> None:
    scores = ClassScores(2)
    assert scores.update(0, [math.nan, 0.5], 1) is None
    assert scores.rejected == 1
    assert row(scores.summary(), "accuracy").model is None


def test_class_scores_continue_bit_identically_after_json() -> None:
    straight, resumed = ClassScores(3, n_lanes=2), ClassScores(3, n_lanes=2)
    for probabilities, symbol in noisy_cycle(80):
        straight.update(0, probabilities, symbol)
    resumed.load_state_dict(through_json(straight.state_dict()))
    for t, (probabilities, symbol) in enumerate(noisy_cycle(80, seed=1)):
        for scores in (straight, resumed):
            scores.update(t % 2, probabilities, symbol)
    assert resumed.state_dict() == straight.state_dict()
    assert resumed.live() == straight.live()
    assert resumed.live_accuracy() == straight.live_accuracy()


def test_a_class_state_of_another_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match="saved with n_classes = 3, this task has 4"):
        ClassScores(4).load_state_dict(ClassScores(3).state_dict())


@pytest.mark.parametrize("fading", [0.0, 1.0, math.nan])
def test_a_fading_out_of_range_is_refused(fading: float) -> None:
    with pytest.raises(SettingError, match="fading must be between 0 and 1"):
        NumericScores(["y"], Squared(), fading=fading)


def level_changes(levels: list[float], each: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [level + 0.1 * rng.random() for level in levels for _ in range(each)]


def test_a_loss_that_rises_for_good_raises_one_alarm() -> None:
    drift = Drift(cooldown=1000)
    alarms = [t for t, x in enumerate(level_changes([0.1, 0.9], 600)) if drift.update(x)]
    assert len(alarms) == drift.alarms == 1
    assert 600 <= alarms[0] < 700


def test_a_falling_loss_is_learning_and_no_drift() -> None:
    drift = Drift()
    for loss in level_changes([0.9, 0.1], 600):
        assert not drift.update(loss)
    assert drift.alarms == 0


def test_alarms_within_the_cooldown_are_merged() -> None:
    losses = level_changes([0.1, 0.9, 1.7], 400)
    merged, single = Drift(cooldown=1000), Drift(cooldown=0)
    for loss in losses:
        merged.update(loss)
        single.update(loss)
    assert merged.alarms == 1
    assert single.alarms >= 2


def test_drift_refuses_a_loss_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="expected a finite loss, got nan"):
        Drift().update(math.nan)


@pytest.mark.parametrize("cut", [100, 640, 1000])
def test_drift_continues_bit_identically_after_json(cut: int) -> None:
    losses = level_changes([0.1, 0.9, 1.7], 600)
    straight, resumed = Drift(cooldown=50), Drift(cooldown=50)
    for loss in losses[:cut]:
        straight.update(loss)
    resumed.load_state_dict(through_json(straight.state_dict()))
    for loss in losses[cut:]:
        assert straight.update(loss) == resumed.update(loss)
    assert resumed.state_dict() == straight.state_dict()
    assert resumed.alarms >= 2


def test_the_cooldown_goes_on_after_a_restart() -> None:
    before = Drift(cooldown=1000)
    for loss in level_changes([0.1, 0.9], 400):
        before.update(loss)
    after = Drift(cooldown=1000)
    after.load_state_dict(through_json(before.state_dict()))
    for loss in level_changes([1.7], 400):
        after.update(loss)
    assert before.alarms == after.alarms == 1


def test_a_drift_state_of_another_delta_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("saved with delta = 0.002")):
        Drift(delta=0.1).load_state_dict(Drift().state_dict())


def test_neither_torch_nor_river_nor_matplotlib_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, stream_rnn.report, stream_rnn.prequential; "
        "print([m for m in ('torch', 'river', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
