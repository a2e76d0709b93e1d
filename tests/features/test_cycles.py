"""Calendar features: wall-clock time, however it is written."""

from typing import Any

import pytest

from stream_rnn.features.cycles import Calendar
from stream_rnn.features.values import BadEvent


@pytest.mark.parametrize(
    "at", ["2024-01-01T06:00:00", "2024-01-01T06:00:00+05:00", 1704088800, 1704088800000]
)
def test_calendar_features_tell_the_hour_of_wall_clock_time(at: object) -> None:
    sine, cosine = Calendar("at", ("day",)).encode({"at": at})
    assert (sine, cosine) == pytest.approx((1.0, 0.0), abs=1e-6)  # six o'clock: a quarter turn


def test_weeks_begin_on_monday_however_time_is_written() -> None:
    calendar = Calendar("at", ("week",))
    assert calendar.encode({"at": "2024-01-01"}) == pytest.approx([0.0, 1.0], abs=1e-9)
    assert calendar.encode({"at": 1704067200}) == pytest.approx([0.0, 1.0], abs=1e-9)


@pytest.mark.parametrize("at", ["noon", "", None, [], "9" * 100_000, {}])
def test_what_is_no_time_is_a_bad_event(at: object) -> None:
    with pytest.raises(BadEvent) as caught:
        Calendar("at").encode({"at": at})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("changes", [{"harmonics": 0}, {"cycles": ()}], ids=str)
def test_a_calendar_without_waves_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Calendar("at", **changes)
