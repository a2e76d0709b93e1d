"""The soak is a judge: it must notice what is lost and what grows, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.feeding import Counts, event
from benchmarks.soak import Row, Sample, grown, parts_of, row_of, unaccounted

FLAT = [Row(100_000 * (i + 1), 5000.0, 80.0, 300.0, 16, 3, 20_000) for i in range(10)]
SOUND = {"applied": 998, "rejected decode": 1, "rejected features": 1, "duplicates": 0}


def test_a_flat_run_passes() -> None:
    assert grown(FLAT, most_mb=16.0) == []


@pytest.mark.parametrize(
    ("name", "step", "word"),
    [("memory_mb", 4.0, "memory"), ("files", 1, "open files"), ("threads", 1, "threads")],
)
def test_what_rises_with_the_events_is_named(name: str, step: float, word: str) -> None:
    rows = [
        dataclasses.replace(row, **{name: getattr(row, name) + step * i})
        for i, row in enumerate(FLAT)
    ]

    (fault,) = grown(rows, most_mb=16.0)

    assert word in fault


def test_memory_taken_at_the_start_is_no_growth() -> None:
    assert grown([dataclasses.replace(FLAT[0], memory_mb=200.0), *FLAT[1:]], most_mb=16.0) == []


def test_a_run_too_short_to_judge_does_not_pass() -> None:
    assert grown(FLAT[:4], most_mb=16.0)


def test_events_that_are_all_accounted_for_pass() -> None:
    assert unaccounted(SOUND, Counts(produced=1000, undecodable=1, unusable=1)) == []


def test_a_lost_event_is_noticed() -> None:
    (fault,) = unaccounted(SOUND, Counts(produced=1001, undecodable=1, unusable=1))

    assert fault == "1 events are unaccounted for"


def test_an_event_rejected_at_the_wrong_stage_is_noticed() -> None:
    swapped = SOUND | {"rejected decode": 0, "rejected features": 2}

    assert len(unaccounted(swapped, Counts(produced=1000, undecodable=1, unusable=1))) == 2


def test_two_of_a_thousand_events_are_bad() -> None:
    kinds = [event(i)[1] for i in range(1000)]

    assert (kinds.count("undecodable"), kinds.count("unusable")) == (1, 1)
    assert {kind for _, kind in (event(i, with_bad=False) for i in range(1000))} == {"good"}


def test_a_part_is_a_tenth_of_the_events() -> None:
    samples = [Sample(i * 0.1, i * 10, 5, i * 0.05, 300.0, 16, 3) for i in range(101)]

    rows = [row_of(part) for part in parts_of(samples)]

    assert len(rows) == 10
    assert rows[4].rate == pytest.approx(100.0)
    assert rows[4].cpu_us == pytest.approx(5000.0)
