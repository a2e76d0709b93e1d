from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from stream_rnn.scores import ClassScores, Row


def through_json(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


def row(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


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


def test_warmup_applies_to_class_scores() -> None:
    scores = ClassScores(2, warmup=1)
    scores.update(0, [0.9], 0)
    scores.update(0, [0.9], 1)
    accuracy = row(scores.summary(), "accuracy")
    assert (accuracy.n, accuracy.model) == (1, 1.0)
