"""Which key runs in which lane."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_rnn.features.values import BadEvent
from stream_rnn.lanes import Lanes
from stream_rnn.spi import Event


def test_without_a_key_everything_runs_in_one_lane() -> None:
    lanes = Lanes()
    assert lanes.capacity == 1
    assert [lanes.assign(key) for key in (None, "a", "b")] == [(0, False)] * 3
    assert lanes.evictions == 0


def test_a_key_keeps_its_lane() -> None:
    lanes = Lanes("id")
    assert [lanes.assign(key)[0] for key in "abcab"] == [0, 1, 2, 0, 1]


def test_the_key_unseen_for_longest_gives_its_lane_away() -> None:
    lanes = Lanes("id", 2)
    for key in "aba":
        lanes.assign(key)
    assert lanes.assign("c") == (1, True)
    assert lanes.evictions == 1
    assert lanes.assign("a") == (0, False)
    assert lanes.assign("b") == (1, True)


def test_a_field_tells_the_key_else_the_producer_does() -> None:
    event = Event("p", 0, b"", key="from the broker")
    assert Lanes("id").key_of(event, {"id": 7}) == "7"
    assert Lanes(capacity=4).key_of(event, {"id": 7}) == "from the broker"


def test_an_empty_key_and_no_key_are_the_same_stream() -> None:
    lanes = Lanes(capacity=4)
    keys = [lanes.key_of(Event("p", n, b"", key=key), {}) for n, key in enumerate(["", None])]
    assert keys == [None, None]  # else a block would take both, and one lane cannot hold two


@pytest.mark.parametrize("record", [{}, {"id": None}, {"id": [1]}, {"id": "x" * 1_000_000}])
def test_an_event_without_a_usable_key_is_a_bad_event(record: dict[str, object]) -> None:
    with pytest.raises(BadEvent, match="'id'"):
        Lanes("id").key_of(Event("p", 0, b""), record)


def test_a_producers_key_of_a_megabyte_is_a_bad_event() -> None:
    with pytest.raises(BadEvent, match="1000000 characters") as caught:
        Lanes(capacity=2).key_of(Event("p", 0, b"", key="x" * 1_000_000), {})
    assert caught.value.issue == "bad_key"


@pytest.mark.parametrize("capacity", [0, -1, 1_000_001])
def test_a_senseless_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=r"capacity must be in 1\.\.1000000"):
        Lanes("id", capacity)


@pytest.mark.parametrize(
    ("record", "ends"),
    [({"done": True}, True), ({"done": False}, False), ({"done": None}, False), ({}, False)],
)
def test_a_field_tells_the_last_event_of_an_episode(record: dict[str, object], ends: bool) -> None:
    assert Lanes("id", 2, end="done").ends(record) is ends
    assert Lanes("id", 2).ends(record) is False


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1, "int 1"),
        (0.0, "float 0"),
        ("true", "str 'true'"),
        ([True], "list of 1"),
        (10**5000, "int"),
        (float("nan"), "float"),
        ("x" * 1000, "str 'xxx"),
    ],
    ids=["int", "float", "text", "list", "digits", "nan", "long"],
)
def test_an_end_that_is_no_boolean_is_a_bad_event(value: object, told: str) -> None:
    with pytest.raises(BadEvent) as caught:
        Lanes("id", 2, end="done").ends({"done": value})
    assert caught.value.issue == "wrong_type"
    text = str(caught.value)
    assert text.startswith("field 'done': expected true or false ([lanes] end), got " + told)
    assert text.endswith("; leave it out where no episode ends")
    assert len(text) < 200


def test_the_key_cannot_tell_the_end() -> None:
    with pytest.raises(ValueError, match="end = 'id' is the key"):
        Lanes("id", 2, end="id")


def test_looking_for_a_key_takes_no_lane_and_does_not_make_it_newer() -> None:
    lanes = Lanes("id", 2)
    for key in "ab":
        lanes.assign(key)
    assert [lanes.find(key) for key in "bac"] == [1, 0, None]
    assert lanes.assign("c") == (0, True)  # a is the oldest still


@given(st.lists(st.sampled_from("abcdefg")), st.integers(1, 4))
def test_no_two_keys_ever_share_a_lane(keys: list[str], capacity: int) -> None:
    lanes = Lanes("id", capacity)
    holder: dict[int, str] = {}
    for key in keys:
        lane, anew = lanes.assign(key)
        assert 0 <= lane < capacity
        before = holder.get(lane)
        assert before in (None, key) or anew
        assert not anew or before not in (None, key)
        holder[lane] = key
    assert lanes.used <= capacity


@given(st.lists(st.sampled_from("abcd"), max_size=20), st.lists(st.sampled_from("abcd")))
def test_the_table_goes_through_json_and_back(before: list[str], after: list[str]) -> None:
    lanes = Lanes("id", 2)
    for key in before:
        lanes.assign(key)
    other = Lanes("id", 2)
    other.load_state_dict(json.loads(json.dumps(lanes.state_dict())))
    assert [other.assign(key) for key in after] == [lanes.assign(key) for key in after]
    assert other.evictions == lanes.evictions


def test_a_table_that_does_not_fit_is_refused() -> None:
    wide = Lanes("id", 3)
    for key in "abc":
        wide.assign(key)
    with pytest.raises(ValueError, match="3 keys do not fit capacity 2"):
        Lanes("id", 2).load_state_dict(wide.state_dict())
