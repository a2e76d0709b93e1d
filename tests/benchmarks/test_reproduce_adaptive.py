"""The stream of copy sequences, and windows fixed or following."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks.reproduce.adaptive import (
    BLANK,
    FULL,
    GO,
    LETTERS,
    RULES,
    SMALL,
    SYMBOLS,
    Adaptive,
    AdaptiveVaried,
    CopyStream,
    StreamTrial,
    windowed,
)
from benchmarks.reproduce.experiment import Point, Refused
from benchmarks.reproduce.runner import Record, run
from benchmarks.reproduce.table import write
from stream_rnn.cells import Lstm
from stream_rnn.credit import AdaptiveTbptt, Tbptt
from stream_rnn.recurrence import Stack

TINY = replace(SMALL, units=4, lanes=3, adapt_every=60)


def walk(memory: tuple[int, int], seed: int, ticks: int) -> tuple[list[int], list[int]]:
    """Inputs and targets of one lane."""
    stream = CopyStream(1, memory, torch.Generator().manual_seed(seed))
    both = [stream.next() for _ in range(ticks)]
    return [x for (x,), _ in both], [y for _, (y,) in both]


def cut(inputs: list[int], targets: list[int]) -> list[tuple[list[int], list[int]]]:
    """The whole sequences within: from one first letter to the next."""
    starts = [t + 1 for t, (x, y) in enumerate(pairwise(inputs)) if x >= LETTERS and y < LETTERS]
    return [(inputs[a:b], targets[a:b]) for a, b in pairwise(starts)]


@pytest.mark.parametrize("seed", range(5))
def test_letters_are_asked_for_as_many_events_later_as_there_are(seed: int) -> None:
    inputs, targets = walk((5, 10), seed, 300)
    found = cut(inputs, targets)
    assert len(found) > 10
    for x, y in found:
        m = len(x) // 2
        assert 5 <= m <= 10
        assert max(x[:m]) < LETTERS
        assert x[m:] == [GO] + [BLANK] * (m - 1)
        assert y == [BLANK] * m + x[:m]


def test_lengths_vary_within_the_memory_and_letters_within_the_alphabet() -> None:
    inputs, targets = walk((5, 10), 0, 2000)
    assert {len(x) // 2 for x, _ in cut(inputs, targets)} == {5, 6, 7, 8, 9, 10}
    assert set(inputs) == set(range(SYMBOLS))
    inputs, targets = walk((10, 10), 0, 200)
    assert {len(x) for x, _ in cut(inputs, targets)} == {20}


def test_lanes_are_not_in_step() -> None:
    stream = CopyStream(64, (10, 10), torch.Generator().manual_seed(0))
    _, targets = stream.next()
    asked = sum(target < LETTERS for target in targets)
    assert 16 < asked < 48  # 32 expected, with a standard deviation of 4


def test_knowing_blanks_alone_is_a_perplexity_of_two() -> None:
    _, targets = walk((10, 10), 0, 200)
    nats = sum(math.log(LETTERS) for target in targets if target < LETTERS)
    assert math.exp(nats / 200) == pytest.approx(2)


def test_a_stream_goes_on_as_if_it_had_not_been_cut() -> None:
    stream = CopyStream(3, (5, 10), torch.Generator().manual_seed(1))
    again = CopyStream(3, (5, 10), torch.Generator().manual_seed(2))
    for _ in range(37):
        stream.next()
    again.load({name: tensor.clone() for name, tensor in stream.state().items()})
    assert [again.next() for _ in range(60)] == [stream.next() for _ in range(60)]


def test_a_name_stands_for_a_window_or_a_tolerance() -> None:
    cell = Lstm(2, 3)
    fixed = windowed("tbptt-12").build(cell, 2, 500)
    assert isinstance(fixed, Tbptt)
    assert (fixed.window, fixed.every) == (12, 1)
    following = windowed("adaptive-0.50")
    assert following.name == "adaptive-0.5"
    built = following.build(cell, 2, 500)
    assert isinstance(built, AdaptiveTbptt)
    assert (built.tolerance, built.adapt_every, built.window) == (0.5, 500, 15)
    assert (built.k_min, built.k_max, built.slots) == (2, 100, 101)


@pytest.mark.parametrize(
    "name", ["kf", "tbptt", "tbptt-0", "adaptive-1", "adaptive-0.0", "adaptive--0.5", "adaptive-½"]
)
def test_an_unknown_rule_is_refused_with_what_is_known(name: str) -> None:
    with pytest.raises(Refused, match="known: tbptt-WINDOW, adaptive-TOLERANCE"):
        windowed(name)


def test_the_curve_shows_the_window_in_force() -> None:
    trial = StreamTrial(replace(TINY, lanes=16), "adaptive-0.1", (5, 10), 0, "cpu")
    windows = []
    for _ in range(120):
        trial.tick()
        report = trial.learner.report()
        windows.append(trial.point()["window"])
        assert windows[-1] == report["window"]
    assert windows[0] == 15
    assert len(set(windows)) > 1  # there were adaptations
    assert math.isfinite(report["beta"])


def test_the_perplexity_before_learning_is_the_number_of_symbols() -> None:
    trial = StreamTrial(TINY, "tbptt-3", (10, 10), 0, "cpu")
    trial.learner.head.V_PF.zero_()
    assert trial.perplexity() == pytest.approx(SYMBOLS)


def test_blanks_are_soon_learned() -> None:
    trial = StreamTrial(replace(TINY, units=8, lr=2e-2), "tbptt-3", (5, 5), 0, "cpu")
    for _ in range(500):
        trial.tick()
    assert trial.perplexity() < 2.4


def test_measuring_changes_nothing() -> None:
    trial, other = (StreamTrial(TINY, "adaptive-0.5", (5, 10), 0, "cpu") for _ in range(2))
    for _ in range(20):
        trial.tick()
        trial.point()
        other.tick()
    mine, theirs = trial.learner.state_dict(), other.learner.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_two_layers_have_a_rule_each_and_are_measured_through_both() -> None:
    trial = StreamTrial(replace(TINY, layers=2), "tbptt-7", (5, 10), 0, "cpu")
    recurrence = trial.learner.recurrence
    assert isinstance(recurrence, Stack)
    assert len(recurrence.layers) == 2
    trial.tick()
    before = trial.perplexity()
    for layer in range(2):
        recurrence.parameters()[layer].add_(0.3)
        after = trial.perplexity()
        assert after != before
        before = after
    assert trial.point()["window"] == 7


def test_settings_with_other_layers_are_other_settings() -> None:
    assert TINY.identity() != replace(TINY, layers=2).identity()
    assert TINY.identity() != replace(TINY, adapt_every=61).identity()


def test_below_the_table_stand_the_windows_taken() -> None:
    def record(rule: str, seed: int, windows: list[float]) -> Record:
        points: list[Point] = [
            {"ticks": t, "updates": t, "ppl": 2, "window": w} for t, w in enumerate(windows)
        ]
        return Record(rule, seed, {}, "cpu", 1, points=points)

    records = [
        record("tbptt-5", 0, [5, 5]),
        record("adaptive-0.5", 0, [15, 8]),
        record("adaptive-0.5", 1, [15, 20]),
    ]
    assert Adaptive(None).notes(records) == ["- adaptive-0.5: mean K 11.5, 17.5; last 8, 20."]


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("experiment", [Adaptive, AdaptiveVaried])
def test_published_figures_stand_beside_the_last_mark(
    experiment: type[Adaptive], size: str
) -> None:
    setting = experiment.sizes[size]
    assert all(mark % setting.record_every == 0 for mark in setting.marks)
    assert setting.marks[-1] == setting.updates
    published = experiment.published[size]
    assert [p.who.split(",")[0] for p in published] == list(RULES)
    assert all(set(p.values) == {setting.updates} for p in published)


def test_the_full_size_is_the_published_net() -> None:
    assert (FULL.layers, FULL.units, FULL.lanes, FULL.adapt_every) == (2, 50, 64, 5000)


def test_data_are_refused() -> None:
    with pytest.raises(Refused, match="makes its own data"):
        Adaptive(Path("somewhere"))


def test_a_run_that_was_cut_ends_with_the_same_figures(tmp_path: Path) -> None:
    setting = replace(TINY, lanes=16, updates=260, record_every=20, marks=(260,))
    experiment = AdaptiveVaried(None)
    whole = run(experiment, setting, "adaptive-0.5", 0, tmp_path / "whole")
    for length in (90, 80):
        ticks = iter(range(length))
        stop = lambda t=ticks: next(t, None) is None  # noqa: E731
        run(experiment, setting, "adaptive-0.5", 0, tmp_path / "cut", stop=stop)
    cut = run(experiment, setting, "adaptive-0.5", 0, tmp_path / "cut")
    assert cut.points == whole.points
    assert {point["window"] for point in cut.points} != {15}


def test_the_table_and_both_pictures_are_written(tmp_path: Path) -> None:
    setting = replace(TINY, updates=20, record_every=10, marks=(10, 20))
    rules = ("tbptt-5", "adaptive-0.5")
    records = [run(Adaptive(None), setting, rule, 0, tmp_path) for rule in rules]
    text = write(Adaptive(None), setting, "small", records, tmp_path)
    assert "LSTM 1 x 4, 3 lanes, Adam 5.00e-03" in text
    assert "- adaptive-0.5: mean K 15.0; last 15." in text
    for name in ("plot.png", "plot-window.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
