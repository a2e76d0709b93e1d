"""What `auto` rests on: the ticks that are compared are whole, warm, and say what computed them."""

from __future__ import annotations

import pytest
import torch

from benchmarks import choices
from benchmarks.ticks import Tick, marked, taken
from stream_rnn.bench.cases import Case
from stream_rnn.credit import Ok, Tbptt
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense


def test_without_the_library_every_tick_says_that_it_ran_in_torch() -> None:
    with loading.switched_off():
        ticks = taken({rule: choices.dense("tanh", rule, 3, 2) for rule in choices.RULES}, 2, 0.0)
    assert ticks.keys() == choices.RULES.keys()
    assert not any(tick.native for tick in ticks.values())
    assert all(tick.us > 0 for tick in ticks.values())


def test_windows_are_full_before_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Case("tanh", "tbptt(10)", 3).learner(lambda cell, n, _: Tbptt(cell, n, 32))
    seen: list[bool] = []

    def clock(runs: dict[str, object], seconds: float) -> dict[str, float]:
        assert isinstance(learner.recurrence, Dense)
        u_BTM = learner.recurrence.credit.lane_state["u_BTM"]
        seen.append(bool((u_BTM != 0).any(dim=2).all()))
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr("benchmarks.ticks.medians_us", clock)
    taken({"window": lambda: learner}, 1, 0.0)
    assert seen == [True]


@pytest.mark.parametrize(
    ("ticks", "shown"),
    [
        ({"a": Tick(1234.5, False), "b": Tick(2.0, True)}, "1,234 (torch)"),
        ({"a": Tick(12.345, False), "b": Tick(2.0, False)}, "12.3"),
        ({"a": Tick(12.345, True), "b": Tick(2.0, False)}, "12.3"),
        ({"b": Tick(2.0, True)}, ""),
    ],
    ids=["torch beside native", "all in torch", "native", "not measured"],
)
def test_a_tick_in_torch_is_marked_beside_native_ones(ticks: dict[str, Tick], shown: str) -> None:
    assert marked(ticks, "a") == shown


def test_a_row_says_how_much_dearer_exactness_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(candidates: dict[str, Learner], lanes: int, seconds: float) -> dict[str, Tick]:
        us = dict(zip(candidates, (300.0, 40.0, 10.0, 20.0, 2000.0), strict=True))
        return {name: Tick(us[name], name != "adaptive, at 32") for name in candidates}

    monkeypatch.setattr(choices, "taken", measured)
    assert choices.row("lstm", 32, 1, 0.0) == (
        "| lstm | 32 | 1 | 300 | 40 | 10 | 20 | 2,000 (torch) | 7.5 | 10.7 M (<= 20 M) |\n"
    )


def test_ok_is_measured_at_its_defaults() -> None:
    recurrence = choices.dense("lstm", choices.OK, 3, 1)().recurrence
    assert isinstance(recurrence, Dense)
    rule, usual = recurrence.credit, Ok(recurrence.cell, 1, torch.Generator())
    assert isinstance(rule, Ok)
    assert (rule.rank, rule.chunks) == (usual.rank, usual.chunks)
