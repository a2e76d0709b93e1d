"""The floor by hand: operations of the push, bytes of what must be read and written."""

from __future__ import annotations

import pytest

from stream_rnn.bench import rows
from stream_rnn.bench.cases import OWN, Case
from stream_rnn.bench.machine import Machine


@pytest.mark.parametrize(
    ("case", "by_hand"),
    [
        (Case("tanh", "kf", 32), 2 * 32 * 32 * 1 * 32),  # 2 S N r Z
        (Case("lstm", "kf", 32), 2 * 64 * 32 * 1 * 128),
        (Case("lstm", "ok(8)", 32), 2 * 64 * 32 * 8 * 128),
        (Case("lstm", "ok(8)", 32, 3), 3 * 2 * 64 * 32 * 8 * 128),
        (Case("lstm", "rtrl", 32), 2 * 64 * 32 * 41 * 128),  # M = 8 + 32 + 1
        (Case("tanh", "tbptt(10)", 32), 2 * 10 * (32 * 32 + 32 * 41)),
        (Case("lru", OWN, 32), 8 * 2 * 11 * 32),  # K = 2, Q = I + 3
    ],
    ids=str,
)
def test_operations_are_those_of_the_push(case: Case, by_hand: int) -> None:
    assert case.operations() == by_hand


def test_the_influence_and_the_parameters_are_read_and_written_once() -> None:
    parameters = 128 * 41
    assert Case("lstm", "kf", 32).bytes() == 2 * 4 * (64 * 128 + 3 * parameters)
    assert Case("lstm", "ok(8)", 32, 2).bytes() == 2 * 4 * (2 * 64 * 128 * 8 + 3 * parameters)


@pytest.mark.parametrize(("memory", "bound"), [(1e9, "arithmetic"), (1e-3, "memory")])
def test_the_larger_of_the_two_is_the_floor(memory: float, bound: str) -> None:
    case = Case("tanh", "kf", 8)
    row = rows.measure(case, Machine(1.0, {"slow": 1.0, "fast": 2.0}, {1 << 30: memory}), 0.0)
    assert row.bound == bound
    floors = {"arithmetic": case.operations() / 2.0, "memory": case.bytes() / memory}
    assert row.floor == pytest.approx(floors[bound])
    assert row.over_floor == pytest.approx(row.many / floors[bound])


def test_the_bandwidth_is_that_of_the_working_set() -> None:
    machine = Machine(1.0, {}, {100: 9.0, 1000: 4.0})
    assert [machine.bandwidth(n) for n in (1, 100, 101, 1000, 5000)] == [9.0, 9.0, 4.0, 4.0, 4.0]


def test_a_tick_is_taken_apart_without_a_rest() -> None:
    row = rows.measure(Case("lstm", "kf", 16), Machine(1.0, {"any": 1e6}, {1 << 30: 1e9}), 0.0)
    assert sum(row.profile.values()) >= 0.99 * max(row.tick, row.many)
    assert min(row.profile.values()) >= 0
