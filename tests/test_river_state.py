from __future__ import annotations

import base64
import json
import math
import random
import re
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift, metrics, preprocessing, stats, utils

from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.river_state import MAX_OPAQUE_BYTES, dump, load

Draw = random.Random

# River leaves these untyped.
ADWIN: Any = drift.ADWIN
F1: Any = metrics.F1
Accuracy: Any = metrics.Accuracy


def value(thing: Any, rng: Draw) -> None:
    thing.update(rng.gauss(3.0, 10.0))


def pair(thing: Any, rng: Draw) -> None:
    thing.update(rng.gauss(0.0, 5.0), rng.gauss(0.0, 5.0))


def label(thing: Any, rng: Draw) -> None:
    thing.update(rng.choice("abcd"), rng.choice("abcde"))


def boolean(thing: Any, rng: Draw) -> None:
    thing.update(rng.random() < 0.4, rng.random() < 0.6)


def chance(thing: Any, rng: Draw) -> None:
    thing.update(rng.random() < 0.4, rng.random())


def chances(thing: Any, rng: Draw) -> None:
    thing.update(rng.choice("ab"), {"a": 0.3, "b": 0.7})


def failure(thing: Any, rng: Draw) -> None:
    thing.update(rng.random() < 0.3)


def record(thing: Any, rng: Draw) -> None:
    thing.learn_one({name: rng.gauss(0.0, 9.0) for name in rng.sample("abcdef", 3)})


def readings(thing: Any) -> dict[str, Any]:
    """Everything the object would say: its public answer and its whole saved state."""
    answers: dict[str, Any] = {"state": dump(thing)["state"]}
    for name in ("get", "drift_detected", "width", "estimation"):
        if hasattr(thing, name):
            found = getattr(thing, name)
            answers[name] = repr(found() if callable(found) else found)
    if hasattr(thing, "transform_one"):
        answers["transformed"] = repr(thing.transform_one(dict.fromkeys("abcdef", 1.5)))
    return answers


SAVABLE: dict[str, tuple[Callable[[], Any], Callable[[Any, Draw], None]]] = {
    "StandardScaler": (preprocessing.StandardScaler, record),
    "StandardScaler-rolling": (lambda: preprocessing.StandardScaler(window_size=20), record),
    "AdaptiveStandardScaler": (preprocessing.AdaptiveStandardScaler, record),
    "MinMaxScaler": (preprocessing.MinMaxScaler, record),
    "MAE": (metrics.MAE, pair),
    "RMSE": (metrics.RMSE, pair),
    "R2": (metrics.R2, pair),
    "MAE-rolling": (lambda: utils.Rolling(metrics.MAE, window_size=30), pair),
    "Accuracy": (metrics.Accuracy, label),
    "BalancedAccuracy": (metrics.BalancedAccuracy, label),
    "F1": (metrics.F1, boolean),
    "LogLoss": (metrics.LogLoss, chance),
    "ROCAUC": (metrics.ROCAUC, chance),
    "CrossEntropy": (metrics.CrossEntropy, chances),
    "Mean": (stats.Mean, value),
    "Mean-rolling": (lambda: utils.Rolling(stats.Mean, window_size=30), value),
    "Var": (stats.Var, value),
    "Max-rolling": (lambda: stats.RollingMax(30), value),
    "EWMean": (stats.EWMean, value),
    "EWVar": (stats.EWVar, value),
    "Quantile": (stats.Quantile, value),
    "Quantile-rolling": (lambda: stats.RollingQuantile(0.9, 30), value),
    "IQR": (stats.IQR, value),
    "Kurtosis": (stats.Kurtosis, value),
    "Skew": (stats.Skew, value),
    "PeakToPeak": (stats.PeakToPeak, value),
    "ADWIN": (ADWIN, value),
    "PageHinkley": (drift.PageHinkley, value),
    "DDM": (drift.binary.DDM, failure),
}


@pytest.mark.parametrize("name", SAVABLE)
@settings(max_examples=8, deadline=None, database=None)
@given(seed=st.integers(0, 2**32), before=st.integers(0, 200))
def test_a_fresh_object_continues_identically(name: str, seed: int, before: int) -> None:
    make, update = SAVABLE[name]
    original, rng = make(), Draw(seed)
    for _ in range(before):
        update(original, rng)

    fresh = make()
    load(fresh, json.loads(json.dumps(dump(original), allow_nan=False)))

    assert readings(fresh) == readings(original)
    twin = Draw()
    twin.setstate(rng.getstate())
    for _ in range(40):
        update(original, rng)
        update(fresh, twin)
    assert readings(fresh) == readings(original)


@pytest.mark.parametrize("name", SAVABLE)
def test_200_updates_survive_msgspec_json_too(name: str) -> None:
    make, update = SAVABLE[name]
    original, rng = make(), Draw(1)
    for _ in range(200):
        update(original, rng)

    fresh = make()
    load(fresh, msgspec.json.decode(msgspec.json.encode(dump(original))))

    assert readings(fresh) == readings(original)


def test_drift_is_detected_at_the_same_event_after_a_reload() -> None:
    original, fresh, rng = ADWIN(), ADWIN(), Draw(3)
    for _ in range(500):
        original.update(rng.gauss(0.0, 1.0))
    load(fresh, dump(original))

    detected = []
    for i in range(500):
        x = rng.gauss(4.0, 1.0)
        original.update(x)
        fresh.update(x)
        if original.drift_detected or fresh.drift_detected:
            detected.append((i, original.drift_detected, fresh.drift_detected))

    assert detected
    assert all(a and b for _, a, b in detected)


def test_parts_that_were_shared_stay_shared() -> None:
    original, fresh = F1(), F1()
    original.update(True, True)
    load(fresh, dump(original))

    fresh.update(True, False)

    assert fresh.precision.cm is fresh.cm
    assert fresh.cm.n_samples == 2


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_numbers_without_a_json_word_come_back(odd: float) -> None:
    original, fresh = stats.Mean(), stats.Mean()
    original._mean = odd

    load(fresh, json.loads(json.dumps(dump(original), allow_nan=False)))

    assert repr(fresh._mean) == repr(odd)


def test_what_cannot_be_saved_is_named_by_its_path() -> None:
    with pytest.raises(CheckpointError, match=re.escape("KSWIN._rng: a random.Random cannot")):
        dump(drift.KSWIN(seed=1))


def test_an_object_that_is_not_of_river_is_refused() -> None:
    class Foreign:
        pass

    mean: Any = stats.Mean()
    mean._mean = Foreign()
    with pytest.raises(CheckpointError, match=re.escape("Mean._mean: a ")):
        dump(mean)


def test_a_cycle_is_refused_not_followed() -> None:
    mean: Any = stats.Mean()
    mean._mean = [mean]
    with pytest.raises(CheckpointError, match="a cycle"):
        dump(mean)


def test_opaque_state_that_grew_too_large_is_refused() -> None:
    window = MAX_OPAQUE_BYTES // 8
    rolling = stats.RollingQuantile(0.5, window)
    for i in range(window):
        rolling.update(float(i))
    with pytest.raises(CheckpointError, match="smaller window"):
        dump(rolling)


def state_of(thing: Any) -> Any:
    return json.loads(json.dumps(dump(thing)))


def mean_with(**attributes: object) -> dict[str, object]:
    state: dict[str, Any] = state_of(stats.Mean())
    state["state"]["object"].update(attributes)
    return state


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"list": [value]}
    return value


HOSTILE: dict[str, object] = {
    "nothing": None,
    "a list": [],
    "no state": {"river": "0.26.1"},
    "a scalar for an object": {"river": "0.26.1", "state": 3},
    "a named class": {"river": "0.26.1", "state": {"class": "os.system", "args": ["true"]}},
    "unknown attribute": mean_with(update="print"),
    "dunder attribute": mean_with(__class__="x"),
    "text for a number": mean_with(n="5"),
    "bool for a number": mean_with(n=True),
    "container for a number": mean_with(n={"list": [1]}),
    "two keys": mean_with(n={"list": [], "set": []}),
    "unknown kind": mean_with(n={"pickle": "gASVAA=="}),
    "not a float": mean_with(n={"float": "__import__"}),
    "huge integer": mean_with(n=10**30),
    "deep": mean_with(n=deep(10_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_state_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="Mean"):
        load(stats.Mean(), HOSTILE[name])


def test_a_missing_attribute_is_named() -> None:
    state = state_of(stats.Mean())
    del state["state"]["object"]["n"]
    with pytest.raises(CheckpointError, match=re.escape("Mean.n: only the object has")):
        load(stats.Mean(), state)


def test_unhashable_keys_are_refused() -> None:
    state = state_of(Accuracy())
    state["state"]["object"]["cm"]["object"]["sum_row"] = {"map": [[{"list": []}, 1.0]]}
    with pytest.raises(CheckpointError, match=re.escape("Accuracy.cm.sum_row")):
        load(Accuracy(), state)


def test_a_window_longer_than_the_objects_is_refused() -> None:
    state = state_of(utils.Rolling(stats.Mean, window_size=3))
    item = {"tuple": [{"tuple": [1.0]}, {"map": []}]}
    state["state"]["object"]["window"] = {"deque": [item] * 4}
    rolling = utils.Rolling(stats.Mean, window_size=3)
    assert isinstance(rolling.window, deque)
    with pytest.raises(CheckpointError, match="at most 3 items"):
        load(rolling, state)


def test_a_detector_built_with_other_arguments_is_refused() -> None:
    with pytest.raises(CheckpointError, match="_test_drift"):
        load(drift.PageHinkley(mode="up"), state_of(drift.PageHinkley(mode="both")))


@pytest.mark.parametrize("value", [5.0, 6, 2**40, True, None, "5", {"float": "nan"}])
def test_a_setting_is_what_the_configuration_says(value: object) -> None:
    """At a drift River builds a new window with it, in Rust: of the wrong type, or of any size."""
    state = dump(ADWIN())
    state["state"]["object"]["max_buckets"] = value
    with pytest.raises(CheckpointError, match=r"ADWIN\.max_buckets"):
        load(ADWIN(), state)


def adwin_with(data: bytes | str) -> Any:
    state = state_of(ADWIN())
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    state["state"]["object"]["_helper"]["opaque"] = text
    return state


def adwin_bytes() -> bytes:
    adwin = ADWIN()
    for i in range(300):
        adwin.update(float(i % 7))
    return base64.b64decode(state_of(adwin)["state"]["object"]["_helper"]["opaque"])


@pytest.mark.parametrize(
    "data",
    [b"", bytes(5), b"\xff" * 300, adwin_bytes()[:-1], adwin_bytes() + b"x", "not base64!", "é"],
    ids=["empty", "short", "ones", "cut", "appended", "not base64", "not ascii"],
)
def test_damaged_bytes_of_a_rust_object_are_refused(data: bytes | str) -> None:
    with pytest.raises(CheckpointError, match=re.escape("ADWIN._helper")):
        load(ADWIN(), adwin_with(data))


def test_bytes_that_would_panic_at_an_update_are_refused_at_once() -> None:
    data = bytearray(adwin_bytes())
    data[8:12] = bytes(4)  # its clock, by which it divides
    with pytest.raises(CheckpointError, match="damaged opaque state"):
        load(ADWIN(), adwin_with(bytes(data)))


SIZES = {"settings": 12, "buckets": 84, "most": 92, "used": 100, "first": 108, "second": 164}


@pytest.mark.parametrize("at", [*SIZES.values(), -20], ids=[*SIZES, "settings again"])
@pytest.mark.parametrize("size", [0, 100, 2**31, 2**63])
def test_no_memory_is_taken_for_sizes_that_make_no_sense(at: int, size: int) -> None:
    """Rust ends the process where it gets no memory: a size of 2^31 asks for 17 GB."""
    data = bytearray(adwin_bytes())
    at %= len(data)
    data[at : at + 8] = size.to_bytes(8, "little")
    if at == SIZES["used"] and size == 0:
        load(ADWIN(), adwin_with(bytes(data)))  # none of its values in use: that may be
        return
    with pytest.raises(CheckpointError, match="make no sense"):
        load(ADWIN(), adwin_with(bytes(data)))


def test_too_many_opaque_bytes_are_refused_unread() -> None:
    with pytest.raises(CheckpointError, match="at most"):
        load(ADWIN(), adwin_with(bytes(MAX_OPAQUE_BYTES + 1)))


def test_opaque_bytes_of_another_river_are_refused_with_the_remedy() -> None:
    state = {**state_of(ADWIN()), "river": "0.1.0"}
    with pytest.raises(CheckpointError, match=re.escape("River 0.1.0 cannot be read")):
        load(ADWIN(), state)


def test_plain_state_of_another_river_is_read_when_it_fits() -> None:
    original, fresh = stats.Mean(), stats.Mean()
    original.update(4.0)
    load(fresh, {**state_of(original), "river": "0.1.0"})
    assert fresh.get() == 4.0
