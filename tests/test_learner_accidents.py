"""Accidents stay in their lane: bad events never happened, bad credit costs its own lane only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.credit import RULES, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner

LearnerOf = Callable[..., Learner]
FramesOf = Callable[..., list[Frame]]
EVERY_PAIR = [
    pytest.param(kind, rule, id=f"{kind}-{rule}") for kind in CELLS for rule in (*RULES, "locked")
]


def resolved(rule: str) -> Any:
    return rule if rule in RULES else lambda cell, n: Tbptt(cell, n, window=6, every=3)


def copy_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def lane_of(learner: Learner, lane: int) -> dict[str, Tensor]:
    return {name: tensor[lane].clone() for name, tensor in learner.lane_state.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def without_lane(frame: Frame, lane: int) -> Frame:
    live_B = frame.live_B.clone()
    live_B[lane] = False
    return dataclasses.replace(frame, live_B=live_B)


def spoiled(frame: Frame, lane: int, place: str, value: float) -> Frame:
    x_BI, y_BQ = frame.x_BI.clone(), frame.y_BQ.clone()
    (x_BI if place == "x" else y_BQ)[lane, -1] = value
    return dataclasses.replace(frame, x_BI=x_BI, y_BQ=y_BQ)


@pytest.mark.parametrize(
    ("place", "value"),
    [("x", torch.nan), ("x", -torch.inf), ("x", 1e20), ("y", torch.nan), ("y", 1e20)],
    ids=["x=nan", "x=-inf", "x=1e20", "y=nan", "y=1e20"],
)
@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_a_bad_event_leaves_everything_as_if_it_had_never_come(
    kind: str, rule: str, place: str, value: float, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """Bitwise: its own lane, the other lanes, W, and whatever is learned afterwards."""
    bad, clean = (learner_of(kind, resolved(rule), n_lanes=3) for _ in range(2))
    for t, frame in enumerate(frames_of(6, n_lanes=3)):
        if t not in (3, 4):
            bad.step(frame)
            clean.step(frame)
            continue
        before = lane_of(bad, 1)
        outcome = bad.step(spoiled(frame, 1, place, value))
        clean.step(without_lane(frame, 1))
        assert outcome.rejected_B.tolist() == [False, True, False]
        assert outcome.learned_B.tolist() == [True, False, True]
        assert outcome.restarted_B.tolist() == [False, False, False]
        if outcome.updated is None or rule != "locked":  # a payment marks idle debts as paid
            assert_same(before, lane_of(bad, 1))
    assert_same(copy_of(bad), copy_of(clean))


@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_rows_of_idle_lanes_may_hold_anything(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    dirty, clean = (learner_of(kind, resolved(rule), n_lanes=3) for _ in range(2))
    for frame in frames_of(9, n_lanes=3, idle=0.4, unscored=0.3):
        x_BI, y_BQ = frame.x_BI.clone(), frame.y_BQ.clone()
        x_BI[~frame.live_B] = torch.nan
        y_BQ[~(frame.live_B & frame.scored_B)] = torch.nan
        dirty.step(dataclasses.replace(frame, x_BI=x_BI, y_BQ=y_BQ))
        outcome = clean.step(frame)
        assert not outcome.rejected_B.any()
    assert_same(copy_of(dirty), copy_of(clean))


@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_a_lane_reset_in_the_middle_of_a_window_is_a_new_lane(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """Bitwise like one that had no events before; the other lanes never know. W stands still."""
    reset, idle = (learner_of(kind, resolved(rule), n_lanes=3) for _ in range(2))
    reset.teaches = idle.teaches = "nothing"
    for t, frame in enumerate(frames_of(10, n_lanes=3, unscored=0.3)):
        if t == 5:
            reset.reset(torch.tensor([False, True, False]))
        got = reset.step(frame)
        truth = idle.step(without_lane(frame, 1) if t < 5 else frame)
        assert torch.equal(got.prediction_BP[::2], truth.prediction_BP[::2])
        if t >= 5:
            assert torch.equal(got.prediction_BP, truth.prediction_BP)
    for lane in range(3):
        assert_same(lane_of(reset, lane), lane_of(idle, lane))


@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_nothing_is_owed_where_nothing_was_observed(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """An empty window has no gradient, and a tick of idle lanes makes no update."""
    learner = learner_of(kind, resolved(rule), n_lanes=3)
    credit: Any = learner.recurrence
    assert credit.credit.flush() is None
    before = copy_of(learner)
    nobody = torch.zeros(3, dtype=torch.bool)
    for frame in frames_of(7, n_lanes=3):  # a locked window comes due, empty
        outcome = learner.step(dataclasses.replace(frame, live_B=nobody))
        assert not outcome.learned_B.any()
        assert outcome.updated is None or not outcome.updated
    after = copy_of(learner)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    counted = ("ticks", "generator")  # the clock of a schedule, the signs drawn
    assert not [name for name in moved if not name.endswith(counted)]


@pytest.mark.parametrize("poison", [torch.nan, 1e30], ids=["nan", "1e30"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CELLS)
def test_bad_credit_restarts_the_lane_and_nothing_more(
    kind: str, rule: str, poison: float, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """The event is innocent: state, prediction and read-out go on; W learns from the others."""
    bad, sound = (learner_of(kind, rule, n_lanes=3) for _ in range(2))
    frames = frames_of(7, n_lanes=3)
    for frame in frames[:5]:
        bad.step(frame)
        sound.step(frame)
    for name, tensor in bad.lane_state.items():
        if name.startswith("credit.") and tensor.is_floating_point():
            tensor[0] = poison
    got, truth = bad.step(frames[5]), sound.step(frames[5])
    assert got.restarted_B.tolist() == [True, False, False]
    assert not got.rejected_B.any()
    assert got.updated
    assert torch.equal(got.prediction_BP, truth.prediction_BP)
    assert torch.equal(bad.lane_state["s_BS"], sound.lane_state["s_BS"])
    assert torch.equal(bad.head.V_PF, sound.head.V_PF)
    assert all(tensor.isfinite().all() for tensor in bad.state_dict().values())
    credit = [t[0] for name, t in bad.lane_state.items() if name.startswith("credit.")]
    assert not any(tensor.any() for tensor in credit)
    assert not bad.step(frames[6]).restarted_B.any()


@pytest.mark.parametrize("every", [1, 4])
def test_a_single_unsound_lane_makes_no_update_at_all(
    every: int, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """A zero gradient is not a no-op for Adam, so the update must be skipped."""

    def rule(cell: Any, n_lanes: int) -> Tbptt:
        return Tbptt(cell, n_lanes, window=4, every=every)

    learner = learner_of("gru", rule, n_lanes=1)
    frames = frames_of(8, n_lanes=1)
    for frame in frames[:7]:
        learner.step(frame)
    learner.lane_state["credit.u_BTM"].fill_(torch.nan)
    names = ("recurrence.W_ZM", "update.count", "update.m.0")
    before = copy_of(learner)
    outcome = learner.step(frames[7])
    assert outcome.restarted_B.all()
    assert not outcome.updated
    assert all(torch.equal(before[name], learner.state_dict()[name]) for name in names)


def test_a_diverged_readout_is_a_bad_event_and_not_a_nan(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("lstm", dtype=torch.float32)
    learner.head.V_PF.fill_(1e20)
    before = copy_of(learner)
    (frame,) = frames_of(1, dtype=torch.float32)
    assert learner.step(frame).rejected_B.all()
    after = copy_of(learner)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_a_deep_copy_goes_on_alone(
    kind: str, rule: str, dtype: torch.dtype, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """Bitwise as the first would have, whichever of the two goes first."""
    learner, alone = (learner_of(kind, resolved(rule), n_lanes=3, dtype=dtype) for _ in range(2))
    frames = frames_of(12, n_lanes=3, dtype=dtype)
    for frame in frames[:7]:
        learner.step(frame)
        alone.step(frame)
    copied = copy.deepcopy(learner)
    assert_same(copied.state_dict(), alone.state_dict())
    for frame in frames[7:]:
        copied.step(frame)
    for frame in frames[7:]:
        learner.step(frame)
        alone.step(frame)
    assert_same(copied.state_dict(), alone.state_dict())
    assert_same(learner.state_dict(), alone.state_dict())
