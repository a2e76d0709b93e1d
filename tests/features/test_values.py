"""Reading one field: what came is a number, a category, or named in a short message."""

import math
from typing import Any

import pytest

from stream_rnn.features.values import BadEvent, category, number


@pytest.mark.parametrize(
    ("value", "issue"),
    [
        (None, "missing"),
        ("12", "wrong_type"),
        ([1.0], "wrong_type"),
        ({"a": 1}, "wrong_type"),
        (math.nan, "non_finite"),
        (-math.inf, "non_finite"),
        (1e30, "absurd"),
        (10**400, "absurd"),
    ],
)
def test_what_is_no_number_is_named(value: object, issue: str) -> None:
    with pytest.raises(BadEvent, match="'load'") as caught:
        number({"load": value}, "load")
    assert caught.value.issue == issue


@pytest.mark.parametrize("value", ["x" * 1_000_000, [[[]]] * 1000, {"a" * 1_000_000: 1}])
def test_a_message_about_a_huge_value_stays_short(value: object) -> None:
    with pytest.raises(BadEvent) as caught:
        number({"load": value, "k" * 1_000_000: 1}, "load")
    assert len(str(caught.value)) < 300
    with pytest.raises(BadEvent) as caught:
        number({"k" * 1_000_000: 1}, "load")
    assert len(str(caught.value)) < 300


def test_a_value_nested_as_deep_as_json_allows_is_still_only_a_bad_event() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(BadEvent, match="got list"):
        number({"load": nested}, "load")
    while nested:  # unwound by hand: freeing it recursively is C's business, not ours
        nested = nested[0]


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, "1"), (True, "True")])
def test_a_category_is_the_same_whatever_type_it_came_as(one: object, other: object) -> None:
    assert category({"c": one}, "c") == category({"c": other}, "c")


def test_a_category_of_a_megabyte_is_refused() -> None:
    with pytest.raises(BadEvent, match="1000000 characters, at most 256"):
        category({"c": "x" * 1_000_000}, "c")
