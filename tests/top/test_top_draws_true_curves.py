"""Contains tests for the plots of `stream-rnn top`: dots, columns, scales, percentiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_rnn.top import layout as layouts
from stream_rnn.top.answer import Answer
from stream_rnn.top.history import History
from stream_rnn.top.layout import layout
from stream_rnn.top.plots import Curve, Scale, columns, curves, scale_of
from stream_rnn.top.series import Series, quantile

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right():
    rows = curves([Curve([0.0, 1.0, 2.0, 3.0], "red")], Scale(0.0, 3.0), width=2, height=1)
    assert rows[0].plain == "⡠⠊"  # one dot higher in each column


def test_where_nothing_is_known_nothing_is_drawn():
    rows = curves([Curve([1.0, 1.0, None, None, 1.0, 1.0], "red")], Scale(0.0, 1.0), 3, 1)
    assert rows[0].plain == "⠉ ⠉"


def test_a_jump_is_drawn_through():
    rows = curves([Curve([0.0, 3.0], "red")], Scale(0.0, 3.0), width=1, height=1)
    assert rows[0].plain == "⡸"


def test_a_dashed_line_is_told_from_a_solid_one_without_color():
    values = [1.0] * 8
    solid, dashed = (
        curves([Curve(values, "red", is_dashed)], Scale(0.0, 1.0), 4, 1)[0].plain
        for is_dashed in (False, True)
    )
    assert (solid, dashed) == ("⠉⠉⠉⠉", "⠉ ⠉ ")


def test_the_first_curve_lies_above_the_others():
    drawn = [Curve([1.0, 1.0], "red"), Curve([1.0, 1.0], "blue")]
    assert [span.style for span in curves(drawn, Scale(0.0, 1.0), 1, 1)[0].spans] == ["red"]


def test_a_column_is_the_mean_of_two_seconds_and_a_known_zero_is_seen():
    rows = columns([0.0, 0.0, 4.0, 12.0, None, None, 16.0, None], "red", Scale(0.0, 16.0), 4, 2)
    assert [row.plain for row in rows] == ["   █", "▁█ █"]


@pytest.mark.parametrize(
    ("values", "floor", "ends"),
    [
        ([2.1, 9.97], None, (2.0, 10.0)),
        ([0.3, 487.0], 0.0, (0.0, 500.0)),
        ([-3.2, -1.1], None, (-4.0, -1.0)),
        ([5.0, 5.0], None, (0.0, 5.0)),
        ([0.0], 0.0, (0.0, 1.0)),
        ([None, math.nan, math.inf], 0.0, (0.0, 1.0)),
    ],
)
def test_a_scale_has_round_ends_around_what_is_known(values, floor, ends):
    scale = scale_of(values, floor)
    assert (scale.low, scale.high) == ends


@given(st.lists(finite | st.none(), max_size=20), st.booleans())
def test_whatever_the_numbers_they_lie_within_their_scale(values, has_floor):
    scale = scale_of(values, 0.0 if has_floor else None)
    assert scale.low <= scale.high
    assert all(scale.low <= value <= scale.high for value in values if value is not None)
    rows = curves([Curve(values, "red")], scale, 5, 3) + columns(values, "red", scale, 5, 3)
    assert {row.cell_len for row in rows} == {5}


@pytest.mark.parametrize(
    ("seconds", "losses"),
    [(1.1, [4.0, 4.0]), (3.0, [4.0, 4.0, 4.0, 4.0]), (5.0, [4.0, *[None] * 4, 4.0])],
    ids=str,
)
def test_what_was_not_heard_for_long_is_a_gap(seconds, losses):
    answer = Answer({}, Series(b"stream_rnn_prequential_loss 4.0\n"))
    history = History()
    history.add(answer, 100.0)
    history.add(answer, 100.0 + seconds)
    assert [point.loss for point in history.points] == losses


def histogram(*counts: float) -> list[tuple[float, float]]:
    return list(zip((1.0, 2.0, 4.0, math.inf), counts, strict=True))


@pytest.mark.parametrize(
    ("before", "now", "share", "value"),
    [
        ([], histogram(0, 10, 10, 10), 0.5, 1.5),
        (histogram(100, 100, 100, 100), histogram(100, 100, 110, 110), 0.5, 3.0),  # the new ones
        ([], histogram(0, 0, 0, 10), 0.5, 4.0),  # beyond the last bound
        (histogram(1, 1, 1, 1), histogram(1, 1, 1, 1), 0.5, None),  # none came
        (histogram(9, 9, 9, 9), histogram(1, 1, 1, 1), 0.5, None),  # it began anew
        ([(3.0, 1.0)], histogram(1, 1, 1, 1), 0.5, None),  # other buckets
        ([], [], 0.5, None),
    ],
)
def test_a_percentile_is_of_what_came_between_two_readings(before, now, share, value):
    assert quantile(before, now, share) == value


@given(st.binary(max_size=300))
def test_any_page_of_metrics_is_read(page):
    series = Series(b"stream_rnn_step" + page + b"\nstream_rnn_epoch 3\n")
    assert series.one("epoch") == 3.0


@given(st.integers(1, 300), st.integers(1, 120), st.integers(0, 3))
def test_the_panels_fill_the_screen_and_no_more(width, height, n_reasons):
    plan = layout(width, height, n_reasons)
    n_facts = 2 if plan.fact_columns == 1 else 1
    used = 2 * plan.plot + n_facts * plan.facts + plan.events + plan.letters
    free = height - layouts.HEAD - layouts.KEYS - n_reasons
    left = 0 if plan.letters else 1  # without letters an odd line is nobody's
    assert max(free, 0) - left <= used <= max(free, 0)
