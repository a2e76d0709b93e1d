"""The add task and what its variants do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.reproduce.add_task import (
    PARTS,
    VARIANTS,
    AddTask,
    AddTrial,
    AtTheEnd,
    sequences,
    variant_of,
)
from benchmarks.reproduce.experiment import Point, Refused, Setting
from benchmarks.reproduce.runner import Record, run
from benchmarks.reproduce.table import write
from stream_rnn.update import Adam, Fptt

SMALL = replace(AddTask.sizes["small"], units=5, lanes=4, window=2)


def trial_of(rule: str, **changes: float) -> AddTrial:
    return AddTrial(replace(SMALL, **changes), rule, 0, "cpu")  # type: ignore[arg-type]


def test_the_target_is_the_sum_of_two_marked_values_one_in_each_half() -> None:
    x_TBI, y_BQ = sequences(50, 14, torch.Generator().manual_seed(0))
    value_TB, mark_TB = x_TBI.unbind(2)
    assert x_TBI.shape == (14, 50, 2)
    assert set(mark_TB.flatten().tolist()) == {0.0, 1.0}
    assert mark_TB[:7].sum(0).tolist() == [1.0] * 50
    assert mark_TB[7:].sum(0).tolist() == [1.0] * 50
    assert torch.allclose((value_TB * mark_TB).sum(0), y_BQ[:, 0])
    assert mark_TB.any(dim=1).all()  # every place of a half is drawn


def test_always_saying_one_costs_a_sixth() -> None:
    _, y_BQ = sequences(20_000, 4, torch.Generator().manual_seed(0))
    # the error's standard deviation is 0.197: four standard errors are 0.0056
    assert float((y_BQ - 1).square().mean()) == pytest.approx(1 / 6, abs=0.006)


@pytest.mark.parametrize(
    ("rule", "updates"), [("fptt", 10), ("parts", 10), ("parts-events", 10), ("bptt", 1)]
)
def test_a_sequence_makes_one_update_for_each_part_or_one_in_all(rule: str, updates: int) -> None:
    trial = trial_of(rule)
    trial.tick()
    state = trial.learner.state_dict()
    prefix = "inner." if rule == "fptt" else ""
    assert float(state[f"update.{prefix}count"]) == updates
    assert float(state[f"head_update.{prefix}count"]) == updates


@pytest.mark.parametrize(("rule", "times"), [("parts", 1), ("parts-events", SMALL.window)])
def test_losses_of_the_parts_count_a_tenth_two_tenths_up_to_one(
    rule: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(rule)
    step, told = trial.learner.step, []

    def watched(frame):  # type: ignore[no-untyped-def]
        assert frame.weight_B is not None
        if bool(frame.scored_B.all()):
            told.append(float(frame.weight_B[0]))
        return step(frame)

    monkeypatch.setattr(trial.learner, "step", watched)
    trial.tick()
    assert told == pytest.approx([(p + 1) / PARTS for p in range(PARTS) for _ in range(times)])


def test_a_part_begins_where_the_last_one_ended() -> None:
    trial = trial_of("parts")
    trial.tick()
    after_BS = trial.learner.recurrence.lane_state["s_BS"]
    assert bool(after_BS.any(dim=1).all())  # neither a part's nor the sequence's end cleared it
    credit = trial.learner.recurrence.lane_state["credit.u_BTM"]
    assert credit.shape[1] == SMALL.window


@pytest.mark.parametrize("rule", ["regularizer", "bptt"])
def test_without_parts_the_gradient_is_that_of_the_whole_sequence(rule: str) -> None:
    trial = trial_of(rule)
    credit = trial.learner.recurrence.lane_state["credit.u_BTM"]
    assert credit.shape[1] == trial.T == PARTS * SMALL.window


@pytest.mark.parametrize("rule", list(VARIANTS))
def test_the_regularizer_is_around_both_updates_or_around_none(rule: str) -> None:
    learner = trial_of(rule).learner
    kind = Fptt if rule in ("fptt", "fptt-events", "regularizer") else Adam
    assert type(learner.update) is kind
    head_update = learner.head_update
    assert type(head_update.inner if isinstance(head_update, AtTheEnd) else head_update) is kind


def test_the_test_changes_nothing_and_repeats() -> None:
    trial, other = trial_of("fptt"), trial_of("fptt")
    trial.tick()
    other.tick()
    first, again = trial.point(), trial.point()
    assert first == again
    assert first["mse"] != first["mse_mean_weights"]
    trial.tick()
    other.tick()
    mine, theirs = trial.learner.state_dict(), other.learner.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_short_sequences_are_learned_in_parts() -> None:
    trial = trial_of("parts", units=12, lanes=32, window=1, lr=2e-2)
    for _ in range(120):
        trial.tick()
    assert trial.test_error() < 0.05


def test_a_resumed_run_sees_the_sequences_of_one_never_cut() -> None:
    trial, other = trial_of("parts"), trial_of("parts")
    trial.tick()
    other.tick()
    state = {name: tensor.clone() for name, tensor in trial.task_state().items()}
    trial.tick()
    again = trial_of("parts")
    again.learner.load_state_dict(other.learner.state_dict())
    again.load_task_state(state)
    again.tick()
    assert again.point() == trial.point()


def test_below_the_table_stands_when_each_seed_was_solved_and_how_it_ended() -> None:
    def record(seed: int, errors: list[float]) -> Record:
        points: list[Point] = [
            {"ticks": 10 * i, "updates": 10 * i, "mse": mse, "mse_mean_weights": 2 * mse}
            for i, mse in enumerate(errors, 1)
        ]
        return Record("fptt", seed, {}, "cpu", 1, 10 * len(errors), points=points)

    flat = [0.2] * 38
    (note,) = AddTask(None).notes(
        [record(0, [*flat[:36], 0.04, 0.06, 0.01, 0.02]), record(1, [*flat, 0.2, 0.2])]
    )
    assert note == (
        "- fptt: batches until below 0.05: 370, never; mean of the last 5 % 0.0150, 0.2000 "
        "(with the running mean of W 0.0300, 0.4000)."
    )


def test_the_full_size_is_the_published_one() -> None:
    full = AddTask.sizes["full"]
    assert (full.units, full.lanes, full.lr, full.updates) == (128, 128, 1e-3, 10_000)
    assert full.window * PARTS == 1000


@pytest.mark.parametrize("size", ["small", "full"])
def test_the_table_is_read_where_points_are_made(size: str) -> None:
    setting = AddTask.sizes[size]
    assert all(mark % setting.record_every == 0 for mark in setting.marks)
    assert setting.marks[-1] == setting.updates


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(Refused, match="unknown rule 'kf'; known: fptt, parts, fptt-events, parts-"):
        variant_of("kf")
    for name in ("parts-0.5", "fptt-", "fptt-0", "fptt-1e5", "0.5"):  # no regularizer; no alpha
        with pytest.raises(Refused, match="unknown rule"):
            variant_of(name)
    with pytest.raises(Refused, match="makes its own data"):
        AddTask(Path("somewhere"))


def test_a_variant_may_name_its_alpha() -> None:
    variant = variant_of("fptt-events-0.02")
    assert (variant.alpha, variant.every_event) == (0.02, True)
    update = trial_of("fptt-events-0.02").learner.update
    assert isinstance(update, Fptt)
    assert update.alpha == 0.02


@pytest.mark.parametrize("rule", list(VARIANTS))
def test_a_run_that_was_cut_ends_with_the_same_figures(rule: str, tmp_path: Path) -> None:
    setting = replace(SMALL, updates=6, record_every=2, marks=(6,))
    whole = run(AddTask(None), setting, rule, 0, tmp_path / "whole")
    ticks = iter(range(3))
    run(AddTask(None), setting, rule, 0, tmp_path / "cut", stop=lambda: next(ticks, None) is None)
    cut = run(AddTask(None), setting, rule, 0, tmp_path / "cut")
    assert cut.points == whole.points
    assert [point["ticks"] for point in cut.points] == [2, 4, 6]


@pytest.mark.parametrize("rule", ["fptt-events", "parts"])
def test_a_falling_rate_is_the_same_whether_the_run_was_cut(rule: str, tmp_path: Path) -> None:
    setting = replace(SMALL, updates=8, record_every=1, marks=(8,)).ending(4)
    whole = run(AddTask(None), setting, rule, 0, tmp_path / "whole")
    for length in (2, 4):  # once before the fall begins, once within it
        ticks = iter(range(length))
        run(AddTask(None), setting, rule, 0, tmp_path / "cut", stop=lambda: next(ticks, 9) == 9)  # noqa: B023
    cut = run(AddTask(None), setting, rule, 0, tmp_path / "cut")
    steady = run(AddTask(None), replace(setting, falling=0), rule, 0, tmp_path / "steady")
    assert cut.points == whole.points
    # the first tick of the fall still goes at the full rate
    assert whole.points[:5] == steady.points[:5]
    assert whole.points[5:] != steady.points[5:]


def test_the_rate_falls_in_a_straight_line_to_zero_in_every_update(tmp_path: Path) -> None:
    rates: list[float] = []

    class Told(AddTrial):
        def tick(self) -> None:
            learner = self.learner
            found = {getattr(u, "inner", u).lr for u in (learner.update, learner.head_update)}
            assert len(found) == 1
            rates.extend(found)

    class Task(AddTask):
        def start(self, setting: Setting, rule: str, seed: int, device: str) -> AddTrial:
            return Told(setting, rule, seed, device)

    for rule in ("fptt-events", "fptt", "parts"):
        setting = replace(SMALL, lr=1e-3, updates=6, record_every=6, marks=(6,), falling=4)
        run(Task(None), setting, rule, 0, tmp_path)
        assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
        rates.clear()


def test_a_fall_that_should_have_begun_before_is_refused(tmp_path: Path) -> None:
    setting = replace(SMALL, updates=4, record_every=2, marks=(4,))
    run(AddTask(None), setting, "parts", 0, tmp_path)
    with pytest.raises(Refused, match=r"stands at tick 4, .* fall from tick 2"):
        run(AddTask(None), replace(setting, updates=6, falling=4), "parts", 0, tmp_path)
    run(AddTask(None), replace(setting, updates=6, falling=2), "parts", 0, tmp_path)
    with pytest.raises(Refused, match=r"stands at tick 6, .* fall from tick 4"):
        run(AddTask(None), replace(setting, updates=8), "parts", 0, tmp_path)


@pytest.mark.parametrize("falling", [0, -1, 5])
def test_a_fall_longer_than_the_run_is_refused(falling: int) -> None:
    with pytest.raises(Refused, match="--falling must be from 1 to the 4 updates"):
        replace(SMALL, updates=4).ending(falling)


def test_the_table_says_what_was_run(tmp_path: Path) -> None:
    setting = replace(SMALL, updates=2, record_every=1, marks=(1, 2))
    records = [run(AddTask(None), setting, rule, 0, tmp_path) for rule in ("fptt", "bptt")]
    text = write(AddTask(None), setting, "small", records, tmp_path)
    assert "T = 20, LSTM 5, Adam 3.00e-03" in text
    assert "| 2 | bptt | equal events and updates |" in text
    assert "- fptt: batches until below 0.05: never" in text
    assert "falls to zero" not in text
    falling = replace(setting, falling=2)
    assert "the last 2 batches the learning rate falls to zero" in AddTask(None).caption(falling)
