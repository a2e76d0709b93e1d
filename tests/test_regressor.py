"""A model in a program of one's own: what the three forms promise."""

from __future__ import annotations

import copy
import gc
import math
import struct
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from stream_rnn.cells import Lstm
from stream_rnn.credit import Ok, Tbptt
from stream_rnn.head import Gaussian
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense, Feedforward, Lru, Rtu, Stack
from stream_rnn.regressor import Regressor
from stream_rnn.update import Adam

FIELDS = ("a", "b")
Make = Callable[[], Regressor]


def units() -> Regressor:
    generator = torch.Generator().manual_seed(0)
    return Regressor(Lru(2, 6, 1, generator), FIELDS, generator)


def dense() -> Regressor:
    generator = torch.Generator().manual_seed(0)
    cell = Lstm(2, 6)
    W_ZM = cell.initial_weight(generator).float()
    return Regressor(Dense(cell, Ok(cell, 1, generator, rank=1), W_ZM), FIELDS, generator)


def window() -> Regressor:
    generator = torch.Generator().manual_seed(0)
    cell = Lstm(2, 6)
    W_ZM = cell.initial_weight(generator).float()
    return Regressor(Dense(cell, Tbptt(cell, 1, window=5), W_ZM), FIELDS, generator)


def stack() -> Regressor:
    generator = torch.Generator().manual_seed(0)
    layers = [Rtu(2, 6, 1, generator, "linear"), Feedforward(12, 6, 1, generator)]
    return Regressor(Stack(layers), FIELDS, generator)


EACH = pytest.mark.parametrize("make", [units, dense, window, stack])


@pytest.fixture(params=["native, if it is there", "torch"], autouse=True)
def way(request: pytest.FixtureRequest) -> object:
    with loading.switched_off() if request.param == "torch" else nullcontext():
        yield


def events(n: int = 60) -> tuple[list[dict[str, float]], list[float]]:
    xs = [{"a": math.sin(i / 3), "b": math.cos(i / 7), "other": math.nan} for i in range(n)]
    return xs, [0.5 * x["a"] - x["b"] for x in xs]


@EACH
def test_a_pair_of_calls_one_call_and_one_for_many_are_the_same_to_the_bit(make: Make) -> None:
    xs, ys = events()
    pair, single, many = make(), make(), make()
    predictions = []
    for x, y in zip(xs, ys, strict=True):
        predictions.append(pair.predict_one(x))
        pair.learn_one(x, y)
    assert [single.step(x, y) for x, y in zip(xs, ys, strict=True)] == predictions
    assert [*many.steps(xs[:1], ys[:1]), *many.steps(xs[1:], ys[1:])] == predictions
    truth = pair.learner.state_dict()
    for other in (single, many):
        for name, tensor in other.learner.state_dict().items():
            assert torch.equal(tensor, truth[name]), name


@EACH
def test_asking_moves_nothing(make: Make) -> None:
    xs, ys = events(10)
    model = make()
    model.steps(xs, ys)
    before = {name: t.clone() for name, t in model.learner.state_dict().items()}
    assert len({model.predict_one(xs[0]) for _ in range(5)}) == 1
    for name, tensor in model.learner.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@EACH
def test_it_learns(make: Make) -> None:
    xs, ys = events(400)
    model = make()
    off = [abs(p - y) for p, y in zip(model.steps(xs, ys), ys, strict=True)]
    assert sum(off[-100:]) < 0.6 * sum(off[:100])


@EACH
def test_a_record_that_cannot_be_used_is_counted_and_leaves_no_trace(make: Make) -> None:
    model = make()
    model.steps(*events(20))
    learner = model.learner
    before = [tensor.clone() for tensor in (*learner.parameters(), *learner.lane_state.values())]
    bad = {"a": math.inf, "b": 0.0}
    assert math.isnan(model.predict_one(bad))
    assert math.isnan(model.step(bad, 0.0))
    assert math.isnan(model.steps([bad], [0.0])[0])
    assert model.refused == 2  # nothing is refused by asking
    after = (*learner.parameters(), *learner.lane_state.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@EACH
@pytest.mark.parametrize("before", [0, 1, 30])
def test_a_copy_goes_the_same_way_on_its_own(make: Make, before: int) -> None:
    xs, ys = events(60)
    model, untouched = make(), make()
    for x, y in zip(xs[:before], ys, strict=False):
        assert model.step(x, y) == untouched.step(x, y)
    copied = copy.deepcopy(model)
    theirs = [copied.step(x, y) for x, y in zip(xs[before:], ys[before:], strict=True)]
    assert len(set(theirs)) > 10  # it saw its records
    ours = [model.step(x, y) for x, y in zip(xs[before:], ys[before:], strict=True)]
    alone = [untouched.step(x, y) for x, y in zip(xs[before:], ys[before:], strict=True)]
    assert theirs == ours == alone
    del model  # nor does it live on the other's memory
    gc.collect()
    assert copied.steps(xs, ys) == untouched.steps(xs, ys)


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="b"):
        units().predict_one({"a": 1.0})
    with pytest.raises(struct.error):
        units().learn_one({"a": "1", "b": 1.0}, 1.0)  # type: ignore[dict-item]


def test_its_state_goes_over_into_another() -> None:
    xs, ys = events()
    one, other = units(), units()
    one.steps(xs, ys)
    other.predict_one(xs[0])
    other.learner.load_state_dict(one.learner.state_dict())
    assert other.predict_one(xs[0]) == one.predict_one(xs[0])
    assert other.steps(xs, ys) == one.steps(xs, ys)


def test_parts_that_do_not_fit_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="one stream, got 3 lanes"):
        Regressor(Lru(2, 4, 3, generator), FIELDS, generator)
    with pytest.raises(ValueError, match=r"expected 2 different names.*\['a', 'a'\]"):
        Regressor(Lru(2, 4, 1, generator), ("a", "a"), generator)
    with pytest.raises(ValueError, match="Gaussian is not of one output"):
        Regressor(Lru(2, 4, 1, generator), FIELDS, generator, Gaussian(1))
    with pytest.raises(ValueError, match="2 records, but 1 targets"):
        units().steps([{"a": 1.0, "b": 1.0}] * 2, [1.0])
    assert units().steps([], []) == []


def test_its_updates_may_be_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    slow, still = Adam(lr=1e-4), Adam(lr=1e-9)
    model = Regressor(Lru(2, 4, 1, generator), FIELDS, generator, update=slow, head_update=still)
    before = model.learner.head.V_PF.clone()
    model.steps(*events(50))
    assert (model.learner.head.V_PF - before).abs().max() < 1e-6
