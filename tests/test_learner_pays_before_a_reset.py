"""What an update-locked window owes at the end of an episode is paid, once, before the reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn import learner as learner_module
from stream_rnn.credit import Fallback, Kf, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner
from stream_rnn.update import Adam, Fptt, Sgd, Update

LearnerOf = Callable[..., Learner]
FramesOf = Callable[..., list[Frame]]
ALL, FIRST = torch.tensor([True, True]), torch.tensor([True, False])


def plain() -> Update:
    return Sgd(lr=0.1, clip=None)


def locked(cell: Any, n_lanes: int) -> Tbptt:
    return Tbptt(cell, n_lanes, window=8, every=5)


def on_a_ladder(cell: Any, n_lanes: int) -> Fallback:
    noisy = Kf(cell, n_lanes, torch.Generator().manual_seed(0))
    return Fallback([locked(cell, n_lanes), noisy])


def lanes_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.lane_state.items()}


def is_debt(name: str) -> bool:
    return "owed" in name


@pytest.mark.parametrize("rule", [locked, on_a_ladder])
@pytest.mark.parametrize("horizon", [0, 2])
def test_what_is_owed_is_what_flush_would_have_paid(
    rule: Any, horizon: int, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, judge = (learner_of("gru", rule, horizon=horizon, update=plain) for _ in range(2))
    for frame in frames_of(8, idle=0.2, unscored=0.2):
        learner.step(frame)
        judge.step(frame)
    W_ZM, V_PF = (p.clone() for p in learner.parameters())
    recurrence: Any = judge.recurrence
    owed_ZM = torch.where(recurrence.cell.mask_ZM, recurrence.credit.flush(), 0.0)
    assert float(owed_ZM.norm()) > 1e-3
    learner.pay(ALL)
    torch.testing.assert_close(learner.parameters()[0], W_ZM - 0.1 * owed_ZM, rtol=0, atol=1e-14)
    assert torch.equal(learner.parameters()[1], V_PF)


def test_paying_moves_no_lane_and_leaves_no_debt(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("lstm", locked, horizon=2)
    for frame in frames_of(8):
        learner.step(frame)
    before = lanes_of(learner)
    learner.pay(FIRST)
    after = lanes_of(learner)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert sorted(moved) == sorted(name for name in before if is_debt(name))
    assert not any(after[name].any() for name in after if is_debt(name))


def test_who_owes_nothing_leaves_the_lock_as_it_is(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", locked)
    for frame in frames_of(8):
        learner.step(Frame(frame.x_BI, frame.y_BQ, ALL, ~FIRST))
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    learner.pay(FIRST)
    assert not [k for k, t in learner.state_dict().items() if not torch.equal(t, before[k])]


@pytest.mark.parametrize("length", [5, 7, 3])
@pytest.mark.parametrize("update", [plain, lambda: Fptt(Adam())], ids=["sgd", "fptt-adam"])
def test_episodes_of_any_length_end_with_every_loss_paid_and_parts_begin_anew(
    length: int, update: Any, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """The same net with a window that was built for this very length."""

    def build(every: int) -> Learner:
        make = lambda cell, n: Tbptt(cell, n, window=8, every=every)  # noqa: E731
        return learner_of("gru", make, update=update)

    learner, n_parts = build(5), 0
    frames = frames_of(2 * length)
    for t, frame in enumerate(frames):
        n_parts += learner.step(frame).updated is not None
        if t % length == length - 1:
            learner.pay(ALL)
            learner.reset(ALL)
    judge = build(5) if length >= 5 else build(length)
    for t, frame in enumerate(frames):
        judge.step(frame)
        if t % length == length - 1:
            recurrence: Any = judge.recurrence
            if (owed_ZM := recurrence.credit.flush()) is not None:
                owed_ZM = torch.where(recurrence.cell.mask_ZM, owed_ZM, 0.0)
                judge.update.step([recurrence.W_ZM], [owed_ZM], torch.tensor(True))
            judge.reset(ALL)
    for got, truth in zip(learner.parameters(), judge.parameters(), strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=1e-13)
    assert n_parts == 2 * (length // 5)


def test_without_paying_the_losses_of_the_open_part_would_be_lost(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", locked, update=plain)
    for frame in frames_of(3):
        learner.step(frame)
    (W_ZM, _) = (p.clone() for p in learner.parameters())
    learner.reset(ALL)
    for frame in frames_of(5, unscored=1.0):
        learner.step(frame)
    assert torch.equal(learner.parameters()[0], W_ZM)


def test_a_rule_that_never_pays_is_told_and_does_not_hang(
    learner_of: LearnerOf, frames_of: FramesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, "LONGEST_LOCK", 20)
    learner = learner_of("gru", lambda cell, n: Tbptt(cell, n, window=50, every=50))
    learner.step(frames_of(1)[0])
    with pytest.raises(RuntimeError, match="still owes losses after 20 ticks without events"):
        learner.pay(ALL)


def test_where_nothing_is_taught_debts_go_nowhere_and_paying_ends(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", locked)
    learner.step(frames_of(1)[0])
    W_ZM = learner.parameters()[0].clone()
    learner.teaches = "nothing"
    learner.pay(ALL)
    assert torch.equal(learner.parameters()[0], W_ZM)


@pytest.mark.parametrize("n_evaluated", [2, 7])
def test_evaluating_teaches_nothing_and_forgets_nothing_that_is_owed(
    n_evaluated: int, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """Bitwise the parameters of a learner that paid first and for which those ticks had no loss."""
    learner, judge = (learner_of("gru", locked, update=plain) for _ in range(2))
    frames = frames_of(20)
    for frame in frames[:3]:
        learner.step(frame)
        judge.step(frame)
    judge.pay(ALL)
    with learner.evaluation_weights():
        for frame in frames[3 : 3 + n_evaluated]:
            learner.step(frame)
    for frame in frames[3 : 3 + n_evaluated]:
        judge.step(Frame(frame.x_BI, frame.y_BQ, frame.live_B, torch.zeros_like(frame.scored_B)))
    for frame in frames[3 + n_evaluated :]:
        learner.step(frame)
        judge.step(frame)
    assert all(map(torch.equal, learner.parameters(), judge.parameters()))


def test_what_became_of_the_payment_is_told(learner_of: LearnerOf, frames_of: FramesOf) -> None:
    learner = learner_of("gru", locked, update=plain)
    assert learner.pay(ALL) is None
    for frame in frames_of(3):
        learner.step(frame)
    outcome = learner.pay(ALL)
    assert outcome is not None
    assert outcome.updated
    assert not outcome.restarted_B.any()
    for frame in frames_of(3):
        learner.step(frame)
    learner.lane_state["credit.u_BTM"][1] = torch.nan
    outcome = learner.pay(ALL)
    assert outcome is not None
    assert outcome.restarted_B.tolist() == [False, True]
