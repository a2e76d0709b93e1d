"""The benchmarks of flatness, of identity and beside deep-river: their records and verdicts."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from benchmarks import flat, identical, versus_deep_river
from stream_rnn.bench.cases import OWN, Case
from stream_rnn.frame import Block
from stream_rnn.learner import Learner
from stream_rnn.native import loading


@pytest.mark.parametrize(
    ("ratios", "memory", "counts", "age", "found"),
    [
        ([1.0] * 9 + [1.02], [50.0] * 10, [2.0] * 10, 1.02, []),
        ([1.0] * 9 + [1.04], [50.0] * 10, [2.0] * 10, 1.0, ["time"]),
        ([1.0] * 9 + [0.96], [50.0] * 10, [2.0] * 10, 1.0, ["time"]),
        ([1.0] * 10, [50.0] * 10, [2.0] * 10, 1.04, ["age"]),
        ([1.0] * 10, [40.0] + [50.0] * 9, [3.0] + [2.0] * 9, 1.0, []),  # the first: measuring
        ([1.0] * 10, [50.0] * 9 + [55.0], [2.0] * 10, 1.0, ["memory"]),
        ([1.0] * 10, [50.0] * 10, [2.0] * 9 + [2.5], 1.0, ["allocations"]),
    ],
)
def test_what_is_not_flat_is_a_fault(
    ratios: list[float], memory: list[float], counts: list[float], age: float, found: list[str]
) -> None:
    assert flat.faults_of(flat.Course(ratios, memory, counts, age)) == found


@pytest.mark.parametrize("case", [Case("lru", OWN, 4), Case("lstm", "ok(1)", 4)], ids=str)
def test_one_learner_is_young_and_old_in_turn_where_it_stands(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, blocks = case.learner(), flat.blocks_of(case, dead=0)
    flat.run_all(learner, blocks[0])
    young = flat.state_of(learner)
    flat.run_all(learner, blocks[1])
    old = flat.state_of(learner)
    moved = {part for part in young if not torch.equal(young[part], old[part])}
    moved.discard("recurrence.credit.generator")
    assert {"update.m.0", "head.V_PF"} <= moved
    clock, seen, places = [0.0], [], set()

    def run_all(learner: Learner, block: Block) -> int:
        state = learner.state_dict()
        is_young = all(torch.equal(state[part], young[part]) for part in moved)
        assert is_young or all(torch.equal(state[part], old[part]) for part in moved)
        seen.append("young" if is_young else "old")
        places.add((id(learner), *(state[part].data_ptr() for part in sorted(moved))))
        clock[0] += 1.0 if is_young else 1.5
        return 1

    monkeypatch.setattr(flat, "TURNS_S", 0.0)
    monkeypatch.setattr(flat, "run_all", run_all)
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    assert flat.age_of(case, young, old, blocks) == 1.5
    n = flat.PER_TURN
    there_and_back = ["old"] * n + ["young"] * n + ["young"] * n + ["old"] * n
    assert seen == there_and_back * flat.COPIES
    assert len(places) <= flat.COPIES  # as many learners, each in one place


def test_dead_inputs_are_zero_in_every_event() -> None:
    for block in flat.blocks_of(Case("lru", OWN, 4), dead=3):
        assert not block.x_TBI[..., 5:].any()
        assert block.x_TBI[..., :5].all()


def test_tenths_are_measured_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "TURNS_S", 0.0)
    course = flat.measure(Case("lru", OWN, 4), 0, n_events=10)
    of_tenths = (course.ratios, course.memory, course.counts, course.cut)
    assert [len(each) for each in of_tenths] == [10] * 4
    assert len(set(course.cut)) == 1  # credit is exact here: it never restarts
    assert min(course.ratios) > 0
    assert course.age > 0


def test_a_digest_tells_one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("tanh", "kf", 4)
    assert identical.digest(case, 64, 1) == identical.digest(case, 64, 64)
    make = Case.learner

    def other(self: Case) -> object:
        learner = make(self)
        learner.head.V_PF[0, 0] = torch.nextafter(learner.head.V_PF[0, 0], torch.tensor(9.0))
        return learner

    before = identical.digest(case, 64, 1)
    monkeypatch.setattr(Case, "learner", other)
    assert identical.digest(case, 64, 1) != before


def test_a_record_holds_the_newest_samples_and_its_target_lies_ahead() -> None:
    pytest.importorskip("matplotlib")
    stream = versus_deep_river.records(40)
    assert len(stream) == 40
    for i, (x, _) in enumerate(stream[:-1]):
        assert [x[f"x{k}"] for k in range(1, 8)] == [stream[i + 1][0][f"x{k}"] for k in range(7)]
    assert [y for _, y in stream[:30]] == [x["x7"] for x, _ in stream[1:31]]


def test_errors_are_mean_absolute_and_root_mean_square() -> None:
    stream = [({}, 1.0), ({}, 2.0)]
    assert versus_deep_river.errors([1.0, 6.0], stream) == (2.0, pytest.approx(8**0.5))


@pytest.mark.slow
def test_without_deep_river_it_says_so_loudly() -> None:
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "benchmarks.versus_deep_river", "--events", "100"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "NOT MEASURED" in run.stderr
    assert "NOT MEASURED" in run.stdout
    assert "| lstm ok(1) |" in run.stdout


@pytest.mark.slow
def test_results_are_the_same_to_the_bit_however_they_are_computed() -> None:
    # without the library, minutes for as many; a tick is recorded after 500
    ticks = "640" if loading.find() is None else "1280"
    command = [sys.executable, "-m", "benchmarks.identical", "--ticks", ticks]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
