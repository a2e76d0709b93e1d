"""A ladder of rules: a switch costs influence at most, never a loss or a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.cells import CELLS, Cell, Gru, Tanh
from stream_rnn.credit import Fallback, Kf, Ok, Rtrl, Tbptt

ALL = torch.tensor([True, True])


def ladder(cell: Cell, n_lanes: int) -> Fallback:
    generator = torch.Generator().manual_seed(0)
    return Fallback(
        [
            Ok(cell, n_lanes, generator, rank=2),
            Tbptt(cell, n_lanes, window=6, every=3),
            Kf(cell, n_lanes, generator),
            Rtrl(cell, n_lanes),
        ]
    )


@pytest.mark.parametrize("kind", CELLS)
def test_every_edge_may_be_taken_at_any_time(
    kind: str, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    learner, steady = learner_of(kind, ladder), learner_of(kind, ladder)
    fallback = learner.recurrence.credit
    learner.teaches = steady.teaches = "nothing"  # so that the hidden states must agree
    edges = [(a, b) for a in range(5) for b in range(5) if a != b]  # 4: W stands still
    generator = torch.Generator().manual_seed(0)
    frames = iter(frames_of(600, idle=0.2))

    def tick() -> None:
        frame = next(frames)
        learner.step(frame)
        steady.step(frame)
        gradient_ZM = fallback.gradient()
        assert gradient_ZM is None or gradient_ZM.isfinite().all()
        assert torch.equal(learner.lane_state["s_BS"], steady.lane_state["s_BS"])
        assert learner.recurrence.healthy().all()

    for start, end in edges:
        fallback.move(start)
        for _ in range(int(torch.randint(0, 5, (), generator=generator))):
            tick()
        fallback.move(end)
        learner.report()  # metrics may be read before the new rung's first tick
        for _ in range(int(torch.randint(1, 5, (), generator=generator))):
            tick()


def test_what_a_locked_window_owes_is_paid_exactly_once(
    random_walk: Callable[..., Any],
) -> None:
    """Three losses observed under every = 5, then a switch to RTRL."""
    walk = random_walk("gru", n_ticks=6)
    window, exact = Tbptt(walk.cell, 2, window=10, every=5), Rtrl(walk.cell, 2)
    fallback, ticks, truth = Fallback([window, exact]), list(walk), walk.bptt()
    for lin, q_BS in ticks[:3]:
        fallback.observe(lin, q_BS, ALL)
        assert fallback.gradient() is None
    fallback.move(1)
    alone, paid = Rtrl(walk.cell, 2), []
    for lin, q_BS in ticks[3:]:
        fallback.observe(lin, q_BS, ALL)
        alone.observe(lin, q_BS, ALL)
        paid.append(fallback.gradient() - alone.gradient())
    torch.testing.assert_close(paid[0], torch.stack(truth[:3]).sum(dim=0), rtol=1e-10, atol=1e-12)
    assert not paid[1].any()
    assert not paid[2].any()
    assert fallback.flush() is None


def test_a_debt_survives_switches_into_other_locked_rungs(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("tanh", n_ticks=4)
    rungs = [Tbptt(walk.cell, 2, window=9, every=9), Tbptt(walk.cell, 2, window=8, every=8)]
    fallback, ticks = Fallback(rungs), list(walk)
    expected = torch.zeros_like(walk.W_ZM)
    for level, (lin, q_BS) in zip((0, 1, 0, 1), ticks, strict=True):
        fallback.move(level)
        fallback.observe(lin, q_BS, ALL)
        assert fallback.gradient() is None
        expected += lin.pull_drive(q_BS).T @ lin.u_BM  # a fresh rung knows this tick only
    torch.testing.assert_close(fallback.flush(), expected, rtol=1e-10, atol=1e-12)
    assert fallback.flush() is None


def test_a_debt_survives_a_restart(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("lstm", n_ticks=4)
    ticks = list(walk)

    def make() -> Fallback:
        return Fallback([Tbptt(walk.cell, 2, window=5, every=5), Rtrl(walk.cell, 2)])

    first, second = make(), make()
    for lin, q_BS in ticks[:3]:
        first.observe(lin, q_BS, ALL)
    first.move(1)
    second.load_state_dict({name: t.clone() for name, t in first.state_dict().items()})
    assert second.level == 1
    for each in (first, second):
        each.observe(*ticks[3], ALL)
    assert torch.equal(first.gradient(), second.gradient())


def test_below_the_last_rung_w_stands_still_and_a_debt_waits(
    random_walk: Callable[..., Any],
) -> None:
    walk = random_walk("gru", n_ticks=9)
    fallback, ticks = Fallback([Tbptt(walk.cell, 2, window=9, every=9)]), list(walk)
    for lin, q_BS in ticks[:3]:
        fallback.observe(lin, q_BS, ALL)
    fallback.move(1)
    for lin, q_BS in ticks[3:6]:
        lin.u_BM[0] = torch.nan  # what is not observed cannot do harm
        fallback.observe(lin, q_BS, ALL)
        assert torch.equal(fallback.gradient(), torch.zeros_like(walk.W_ZM))
        assert fallback.healthy().all()
        assert fallback.noise() is None
    fallback.move(0)
    owed = fallback.flush()
    torch.testing.assert_close(owed, torch.stack(walk.bptt()[:3]).sum(dim=0), rtol=1e-10, atol=0)
    assert not fallback.rungs[0].lane_state["J_h_BTSN"].any()  # it starts from nothing


def test_a_debt_whose_update_was_refused_is_still_owed(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("gru", n_ticks=6)
    ticks, truth = list(walk), walk.bptt()
    fallback = Fallback([Tbptt(walk.cell, 2, window=9, every=9), Rtrl(walk.cell, 2)])
    for lin, q_BS in ticks[:3]:
        fallback.observe(lin, q_BS, ALL)
    fallback.move(1)
    alone, extra = Rtrl(walk.cell, 2), []
    for (lin, q_BS), updated in zip(ticks[3:], (False, True, True), strict=True):
        fallback.observe(lin, q_BS, ALL)
        alone.observe(lin, q_BS, ALL)
        extra.append(fallback.gradient() - alone.gradient())
        fallback.settle(torch.tensor(updated))
    for each in extra[:2]:
        torch.testing.assert_close(each, torch.stack(truth[:3]).sum(dim=0), rtol=1e-9, atol=1e-12)
    assert not extra[2].any()


@pytest.mark.parametrize("size", [torch.nan, torch.inf, 1e200], ids=str)
def test_a_debt_that_is_no_number_is_dropped(size: float, random_walk: Callable[..., Any]) -> None:
    """Else every gradient it is added to would be refused, for ever."""
    walk = random_walk("tanh", n_ticks=3)

    class Owing(Rtrl):
        def flush(self) -> torch.Tensor:
            return torch.full(walk.cell.weight_shape, size, dtype=torch.float64)

    fallback, ticks = Fallback([Owing(walk.cell, 2), Rtrl(walk.cell, 2)]), list(walk)
    fallback.observe(*ticks[0], ALL)
    fallback.move(1)
    fallback.observe(*ticks[1], ALL)
    assert torch.equal(fallback.gradient(), fallback.rungs[1].gradient())


def test_the_new_rung_starts_from_zero_influence(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("gru", n_ticks=8)
    fallback, ticks = Fallback([Rtrl(walk.cell, 2), Tbptt(walk.cell, 2, window=3)]), list(walk)
    for lin, q_BS in ticks[:4]:
        fallback.observe(lin, q_BS, ALL)
    fallback.move(1)
    fallback.observe(*ticks[4], ALL)
    fallback.move(0)
    fallback.observe(*ticks[5], ALL)
    lin, q_BS = ticks[5]
    torch.testing.assert_close(fallback.gradient(), lin.pull_drive(q_BS).T @ lin.u_BM)


def test_moving_to_the_rung_in_use_changes_nothing(random_walk: Callable[..., Any]) -> None:
    walk = random_walk("gru", n_ticks=3)
    fallback = Fallback([Rtrl(walk.cell, 2)])
    for lin, q_BS in walk:
        fallback.observe(lin, q_BS, ALL)
    before = fallback.rungs[0].lane_state["G_BSZM"].clone()
    fallback.move(0)
    assert torch.equal(before, fallback.rungs[0].lane_state["G_BSZM"])


def test_senseless_ladders_and_levels_are_refused() -> None:
    cell = Tanh(1, 1)
    with pytest.raises(ValueError, match="at least one rung"):
        Fallback([])
    with pytest.raises(ValueError, match="must share one cell and lane count"):
        Fallback([Rtrl(cell, 1), Rtrl(Gru(1, 1), 1)])
    with pytest.raises(ValueError, match="must share one cell and lane count"):
        Fallback([Rtrl(cell, 1), Rtrl(cell, 2)])
    fallback = Fallback([Rtrl(cell, 1)])
    with pytest.raises(ValueError, match=r"level must be in 0\.\.1, got 2"):
        fallback.move(2)
    with pytest.raises(ValueError, match=r"level must be in 0\.\.1, got 5"):
        fallback.load_state_dict(fallback.state_dict() | {"level": torch.tensor(5)})
    with pytest.raises(ValueError, match="'level' is missing"):
        fallback.load_state_dict({})
