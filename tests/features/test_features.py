"""What the network sees: policies for bad fields, robust scales, state that survives JSON."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_rnn.features.cycles import Calendar
from stream_rnn.features.encoder import Features
from stream_rnn.features.scaler import Scaler
from stream_rnn.features.values import BadEvent


def restored(features: Features, like: Features) -> Features:
    like.load_state_dict(json.loads(json.dumps(features.state_dict())))
    return like


def everything(**changes: Any) -> Features:
    return Features(
        **{
            "numeric": ["load", "temperature"],
            "categorical": ["color"],
            "calendar": Calendar("at", ("day", "week"), 2),
            "lags": {"load": [1, 3]},
            "max_categories": 3,
            **changes,
        }
    )


def record(n: int) -> dict[str, Any]:
    return {
        "load": 10.0 * math.sin(n / 3),
        "temperature": n % 7,
        "color": "red" if n % 2 else "blue",
        "at": 1_700_000_000 + 600 * n,
    }


@pytest.mark.parametrize(
    ("policy", "expected"), [("previous", 2.0), ("mean", 1.5)], ids=["previous", "mean"]
)
def test_a_missing_number_is_filled_in_and_counted(policy: Any, expected: float) -> None:
    features = Features(numeric=["load"], missing=policy)
    for value in (1.0, 2.0):
        features.encode({"load": value}, 0)
    scaler = Scaler(10_000)
    scaler.learn(1.0)
    scaler.learn(2.0)
    assert features.encode({}, 0) == pytest.approx([scaler.scale(expected)])
    assert features.issues == {"missing": 1}


def test_a_sensor_that_is_away_for_long_does_not_narrow_its_scale() -> None:
    features = Features(numeric=["load"], missing="mean")
    for n in range(100):
        features.encode({"load": n % 10}, 0)
    before = features.encode({"load": 9}, 0)
    for _ in range(100_000):
        features.encode({"load": None}, 0)
    assert features.encode({"load": 9}, 0) == pytest.approx(before, rel=0.05)


def test_with_reject_a_missing_number_is_a_bad_event_that_the_engine_counts() -> None:
    features = Features(numeric=["load"])
    with pytest.raises(BadEvent, match="missing"):
        features.encode({}, 0)
    assert features.issues == {}  # counted once, whoever refused it: a feature, a target, a key


def test_a_state_is_the_same_bytes_whichever_issue_came_first() -> None:
    one, two = Features(numeric=["x"]), Features(numeric=["x"])
    for features, issues in ((one, ("missing", "bad_key")), (two, ("bad_key", "missing"))):
        for issue in issues:
            features.count(issue)
    assert json.dumps(one.state_dict()) == json.dumps(two.state_dict())


@pytest.mark.parametrize("policy", ["previous", "mean"])
def test_there_is_nothing_to_fill_in_before_the_first_value(policy: Any) -> None:
    with pytest.raises(BadEvent, match="missing"):
        Features(numeric=["load"], missing=policy).encode({"load": None}, 0)


def test_an_unknown_category_is_all_zeros_and_counted() -> None:
    features = Features(categorical={"color": ["red", "blue"]})
    assert features.encode({"color": "blue"}, 0) == [0.0, 1.0]
    assert features.encode({"color": "green"}, 0) == [0.0, 0.0]
    assert features.issues == {"unknown_category": 1}


def test_categories_are_learned_as_they_come_up_to_the_limit() -> None:
    features = Features(categorical=["color"], max_categories=2)
    rows = [features.encode({"color": c}, 0) for c in ("red", "blue", "red", "green")]
    assert rows == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    assert features.issues == {"unknown_category": 1}


def test_a_missing_category_is_all_zeros_when_missing_is_allowed() -> None:
    features = Features(categorical={"color": ["red"]}, missing="mean")
    assert features.encode({}, 0) == [0.0]
    assert features.issues == {"missing": 1}


def test_fields_that_nothing_reads_are_ignored_and_counted() -> None:
    features = Features(numeric=["load"])
    features.expect("target", "key", None)
    features.encode({"load": 1, "target": 2, "key": "a"}, 0)
    assert features.issues == {}
    assert features.encode({"load": 1, "surprise": [1, 2]}, 0) == [0.0]
    assert features.issues == {"extra": 1}


def test_standardized_values_are_clipped_and_counted() -> None:
    features = Features(numeric=["load"], clip=2.0)
    for n in range(50):
        features.encode({"load": n % 3}, 0)
    assert features.encode({"load": 1000}, 0) == [2.0]
    assert features.issues == {"clipped": 1}


def test_a_value_out_of_all_proportion_is_refused_once_the_scale_is_warm() -> None:
    features = Features(numeric=["load"])
    features.encode({"load": 1e12}, 0)  # cold: whatever comes first may be right
    features = Features(numeric=["load"])
    for n in range(40):
        features.encode({"load": n}, 0)
    with pytest.raises(BadEvent, match="largest so far was 39"):
        features.encode({"load": 1e12}, 0)


def test_lags_are_the_lanes_own_and_zero_before_there_are_any() -> None:
    features = Features(numeric=["load"], lags={"load": [1, 2]})
    rows = [features.encode({"load": v}, lane) for v, lane in [(1, 0), (2, 0), (9, 1), (3, 0)]]
    assert rows[0][1:] == [0.0, 0.0]
    assert rows[1][1:] == [rows[0][0], 0.0]
    assert rows[2][1:] == [0.0, 0.0]
    assert rows[3][1:] == [rows[1][0], rows[0][0]]
    features.reset_lane(0)
    assert features.encode({"load": 4}, 0)[1:] == [0.0, 0.0]


def test_where_no_past_is_looked_at_none_is_kept() -> None:
    features = Features(numeric=["load"])
    for lane in range(3):
        features.encode({"load": lane}, lane)
    assert features.state_dict()["history"] == {}


def test_lanes_scale_on_their_own_when_asked() -> None:
    features = Features(numeric=["load"], scaling="lane")
    for n in range(10):
        features.encode({"load": n}, 0)
        features.encode({"load": 1000 * n}, 1)
    expected = pytest.approx(features.encode({"load": 9}, 0))
    assert features.encode({"load": 9000}, 1) == expected
    features.reset_lane(1)
    assert features.encode({"load": 5}, 1) == [0.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"lags": {"other": [1]}},
        {"lags": {"load": []}},
        {"lags": {"load": [0]}},
        {"clip": 0.0},
        {"clip": math.nan},
        {"memory": 1},
        {"max_categories": 0},
    ],
    ids=str,
)
def test_senseless_settings_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        everything(**changes)


@pytest.mark.parametrize("changes", [{}, {"scaling": "lane"}, {"missing": "previous"}], ids=str)
def test_the_state_goes_through_json_and_back_exactly(changes: dict[str, Any]) -> None:
    features = everything(**changes)
    for n in range(50):
        features.encode(record(n), n % 2)
    other = restored(features, everything(**changes))
    assert other.state_dict() == features.state_dict()
    for n in range(50, 80):
        assert other.encode(record(n), n % 2) == features.encode(record(n), n % 2)
    assert other.state_dict() == features.state_dict()


def test_there_is_one_name_for_each_number() -> None:
    features = everything()
    assert len(features.names()) == len(set(features.names())) == features.width
    assert len(features.encode(record(0), 0)) == features.width


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**320), 10**320)
    | st.floats()
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
records = st.dictionaries(
    st.sampled_from(["load", "temperature", "color", "at", "other"]), json_values
)


@settings(max_examples=150, deadline=None)
@given(st.lists(records, max_size=6), st.sampled_from(["reject", "previous", "mean"]))
def test_any_record_is_either_encoded_or_a_bad_event_that_leaves_no_trace(
    stream: list[dict[str, Any]], missing: Any
) -> None:
    features = everything(missing=missing)
    for n in range(3):
        features.encode(record(n), 0)
    for each in stream:
        before = json.loads(json.dumps(features.state_dict() | {"issues": {}}))
        try:
            row = features.encode(each, 0)
        except BadEvent:
            row = None
        if row is None:
            assert features.state_dict() | {"issues": {}} == before
        else:
            assert len(row) == features.width
            assert all(math.isfinite(value) for value in row)
