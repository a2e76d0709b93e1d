"""Every edge of the ladder: no parameter and no hidden state moves, no debt is lost, it goes on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Cell, Gru
from stream_rnn.credit import Fallback, Kf, Ok, Rtrl, Tbptt
from stream_rnn.frame import Frame, Outcome
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.ladder import Ladder
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense, Stack
from stream_rnn.update import Sgd

RULES = ("ok", "tbptt")
BELOW = ("readout", "frozen")
LEVELS = (*RULES, *BELOW)
EDGES = [(a, b) for a in range(4) for b in range(4) if a != b]
EDGE_IDS = [f"{LEVELS[a]}-{LEVELS[b]}" for a, b in EDGES]
LOCKED = 1  # the rung with an update lock, which owes
Tensors = dict[str, Tensor]


def rungs(cell: Cell, n_lanes: int) -> Fallback:
    ok = Ok(cell, n_lanes, torch.Generator().manual_seed(0), rank=2)
    return Fallback([ok, Tbptt(cell, n_lanes, window=6, every=5)])


class Rig:
    """A learner of three lanes on its ladder, and a stream in which lanes are idle at random."""

    def __init__(
        self, learner_of: Callable[..., Learner], frames_of: Callable[..., list[Frame]], **more: Any
    ) -> None:
        self.learner = learner_of("gru", rungs, n_lanes=3, **more)
        self.fallback: Fallback = self.learner.recurrence.credit  # type: ignore[attr-defined]
        self.ladder = Ladder(self.learner, [self.fallback], RULES, BELOW)
        self.frames: Iterator[Frame] = iter(frames_of(200, n_lanes=3, idle=0.4))

    def tick(self, n: int = 1) -> Outcome:
        for _ in range(n):
            frame = next(self.frames)
            x_BI = torch.where(frame.live_B[:, None], frame.x_BI, torch.nan)
            outcome = self.learner.step(dataclasses.replace(frame, x_BI=x_BI))
        return outcome

    def parameters(self) -> list[Tensor]:
        return [parameter.clone() for parameter in self.learner.parameters()]

    def hidden(self) -> Tensors:
        """What the lanes remember, the credit's own apart."""
        state = self.learner.lane_state
        return {name: t.clone() for name, t in state.items() if not name.startswith("credit.")}

    def debt(self) -> float:
        owed_ZM = self.fallback.state_dict().get("owed_ZM")
        return 0.0 if owed_ZM is None else float(owed_ZM.norm())


@pytest.fixture
def rig(learner_of: Any, frames_of: Any) -> Callable[..., Rig]:
    return lambda **more: Rig(learner_of, frames_of, **more)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def assert_same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize(("start", "end"), EDGES, ids=EDGE_IDS)
def test_an_edge_moves_neither_hidden_state_nor_parameters_and_goes_on(
    start: int, end: int, horizon: int, rig: Callable[..., Rig]
) -> None:
    one = rig(horizon=horizon)
    one.tick(6)
    one.ladder.move(start)
    one.tick(8)  # the locked rung: one payment, then three ticks that are owed
    hidden, parameters = one.hidden(), one.parameters()
    one.ladder.move(end)
    assert_same(hidden, one.hidden())
    assert same(parameters, one.parameters())
    assert one.ladder.rule == LEVELS[end]
    for _ in range(12):
        outcome = one.tick()
        assert outcome.prediction_BP.isfinite().all()
        assert not outcome.restarted_B.any()
        assert not outcome.rejected_B.any()
    assert all(p.isfinite().all() for p in one.learner.parameters())
    assert not torch.equal(hidden["s_BS"], one.hidden()["s_BS"])  # it did go on


@pytest.mark.parametrize(("start", "end"), EDGES, ids=EDGE_IDS)
def test_hidden_states_are_those_of_a_run_without_an_edge_while_nothing_moves_w(
    start: int, end: int, rig: Callable[..., Rig]
) -> None:
    """Updates too small to be seen: the edge alone must not show."""
    tiny = {"update": lambda: Sgd(lr=1e-300, clip=None), "horizon": 2}
    one, steady = rig(**tiny), rig(**tiny)
    for each in (one, steady):
        each.ladder.move(start)
        each.tick(7)
    one.ladder.move(end)
    for each in (one, steady):
        each.tick(7)
    assert_same(
        {n: t for n, t in one.hidden().items() if n != "owed_B"},
        {n: t for n, t in steady.hidden().items() if n != "owed_B"},
    )


@pytest.mark.parametrize("level", range(4), ids=LEVELS)
def test_what_learns_on_each_rung(level: int, rig: Callable[..., Rig]) -> None:
    one = rig()
    one.ladder.move(level)
    before, h_before = one.parameters(), one.hidden()["s_BS"]
    outcomes = [one.tick() for _ in range(10)]
    W_moved, V_moved = (
        not torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True)
    )
    assert (W_moved, V_moved) == (level < 2, level < 3)
    assert not torch.equal(h_before, one.hidden()["s_BS"])
    assert any((outcome.loss_B > 0).any() for outcome in outcomes)  # it is still scored


@pytest.mark.parametrize("level", [2, 3], ids=BELOW)
def test_on_the_way_back_w_learns_again(level: int, rig: Callable[..., Rig]) -> None:
    one = rig()
    one.ladder.move(level)
    one.tick(5)
    one.ladder.move(0)
    before = one.parameters()
    one.tick(3)
    after = one.parameters()
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False]


@pytest.mark.parametrize("way", [(0,), (2, 0), (3, 0), (2, 3, 2, 0)], ids=str)
def test_what_a_locked_window_owes_is_paid_at_the_first_update_after_it(
    way: tuple[int, ...], rig: Callable[..., Rig]
) -> None:
    """Beside a twin that forgets the debt: W differs by just that, and once."""
    one = rig(update=lambda: Sgd(lr=1.0, clip=None))
    one.ladder.move(LOCKED)
    one.tick(8)
    owed_ZM = copy.deepcopy(one.fallback.active).flush()
    assert owed_ZM is not None
    assert owed_ZM.norm() > 1e-3
    twin = copy.deepcopy(one)
    twin.frames = iter(list(one.frames))
    one.frames = iter(list(copy.deepcopy(twin).frames))
    twin.fallback.rungs[LOCKED].flush()
    for level in way:
        for each in (one, twin):
            each.ladder.move(level)
            if level >= len(RULES):
                each.tick(3)
    before = one.parameters()[0]
    assert torch.equal(before, twin.parameters()[0])
    for each in (one, twin):
        each.tick()
    paid_ZM = twin.parameters()[0] - one.parameters()[0]
    owed_ZM = torch.where(Gru(2, 3).mask_ZM, owed_ZM, 0.0)  # type: ignore[arg-type]
    torch.testing.assert_close(paid_ZM, owed_ZM, rtol=1e-10, atol=1e-12)
    assert one.debt() == 0.0


def test_a_debt_is_kept_where_its_update_is_refused(rig: Callable[..., Rig]) -> None:
    one = rig(update=lambda: Sgd(lr=1.0, clip=None))
    one.ladder.move(LOCKED)
    one.tick(8)
    one.ladder.move(0)
    debt, before = one.debt(), one.parameters()[0]
    assert debt > 1e-3
    for t in one.fallback.rungs[0].lane_state.values():
        t.fill_(torch.nan)  # the influence of every lane: no lane's credit is sound
    assert not one.tick().updated
    assert torch.equal(before, one.parameters()[0])
    assert one.debt() == debt
    while not one.tick().updated:
        assert one.debt() == debt
    assert one.debt() == 0.0


def test_a_debt_outlives_a_tick_that_teaches_nothing(rig: Callable[..., Rig]) -> None:
    """E.g. one to evaluate, between a move and the first update."""
    one = rig()
    one.ladder.move(LOCKED)
    one.tick(8)
    one.ladder.move(0)
    debt = one.debt()
    assert debt > 1e-3
    one.learner.teaches = "nothing"
    one.tick(3)
    assert one.debt() == debt
    one.learner.teaches = "all"
    one.tick(3)
    assert one.debt() == 0.0


@pytest.mark.parametrize("level", range(4), ids=LEVELS)
def test_lanes_that_leave_are_paid_off_on_any_rung(level: int, rig: Callable[..., Rig]) -> None:
    """A lane that owes in a locked window may be asked to pay once W stands still."""
    one = rig()
    one.ladder.move(LOCKED)
    one.tick(8)
    assert one.learner.lane_state["credit.1.owed_BTS"].any()
    debt = copy.deepcopy(one.fallback.active).flush().norm()  # type: ignore[union-attr]
    one.ladder.move(level)
    lanes_B = torch.tensor([True, False, True])
    one.learner.pay(lanes_B)
    one.learner.reset(lanes_B)
    one.tick(3)
    if level != LOCKED:  # there it owes for the last ticks again
        assert one.debt() == (0.0 if level == 0 else pytest.approx(float(debt)))
    one.ladder.move(0)
    one.tick(3)
    assert one.debt() == 0.0


def test_other_layers_of_a_stack_save_up_nothing_while_w_stands_still(
    frames_of: Callable[..., list[Frame]],
) -> None:
    generator = torch.Generator().manual_seed(0)

    def layer(n_inputs: int, credit: Callable[[Cell], Any]) -> Dense:
        cell = Gru(n_inputs, 3)
        return Dense(cell, credit(cell), cell.initial_weight(generator).double())

    upper, lower = layer(3, lambda cell: rungs(cell, 2)), layer(2, lambda cell: Rtrl(cell, 2))
    stack = Stack([lower, upper])
    head = Head(3, 2, SquaredError(), initial_readout(3, 2, SquaredError(), generator).double())
    learner = Learner(stack, head, Sgd(lr=0.1), Sgd(lr=0.1))
    assert isinstance(upper.credit, Fallback)
    ladder = Ladder(learner, [upper.credit], RULES, BELOW)
    ladder.move(2)
    frames = frames_of(12)
    before = [parameter.clone() for parameter in stack.parameters()]
    for frame in frames:
        learner.step(frame)
        assert not any(name.startswith("owed.") for name in stack.state_dict())
    assert same(before, stack.parameters())
    ladder.move(0)
    learner.step(frames[0])
    assert not any(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))


@pytest.mark.parametrize("level", range(4), ids=LEVELS)
def test_a_learner_saved_on_any_rung_goes_on_alike(level: int, rig: Callable[..., Rig]) -> None:
    one = rig()
    one.ladder.move(LOCKED)
    one.tick(8)
    one.ladder.move(level)
    one.tick(2)
    two = rig()
    two.learner.load_state_dict({n: t.clone() for n, t in one.learner.state_dict().items()})
    two.ladder.move(level)
    two.frames = iter(list(copy.deepcopy(one).frames))
    for step in (level, 0, 3, 1):
        for each in (one, two):
            each.ladder.move(step)
            each.tick(4)
    assert_same(one.learner.state_dict(), two.learner.state_dict())


def test_a_recurrence_without_credit_rules_has_the_rungs_below(
    learner_of: Callable[..., Learner], frames_of: Callable[..., list[Frame]]
) -> None:
    """Its influence goes on while W stands still, so that it is exact on the way back."""
    learner = learner_of("gru", "rtrl")
    ladder = Ladder(learner, [], ["exact"], BELOW)
    frames = frames_of(12)
    ladder.move(1)
    W_ZM = learner.parameters()[0].clone()
    for frame in frames[:6]:
        learner.step(frame)
    assert torch.equal(W_ZM, learner.parameters()[0])
    still = learner_of("gru", "rtrl")
    still.teaches = "nothing"
    for frame in frames[:6]:
        still.step(frame)
    name = "credit.G_BSZM"
    assert torch.equal(learner.lane_state[name], still.lane_state[name])
    ladder.move(0)
    learner.step(frames[6])
    assert not torch.equal(W_ZM, learner.parameters()[0])


def test_the_update_that_is_told_is_the_readouts_where_it_learns_alone(
    rig: Callable[..., Rig],
) -> None:
    one = rig(update=lambda: Sgd(lr=0.1, clip=None))
    one.ladder.move(2)
    assert one.tick().updated is not None
    one.ladder.move(3)
    assert one.tick().updated is None


def test_the_layers_move_together(learner_of: Callable[..., Learner]) -> None:
    learner = learner_of("gru", rungs)
    layers = [rungs(Gru(2, 3), 2), rungs(Gru(3, 4), 2)]
    ladder = Ladder(learner, layers, RULES, BELOW)
    assert (ladder.levels, ladder.noisy, ladder.names) == (4, (0,), LEVELS)
    for level, expected in ((1, 1), (3, 2), (2, 2), (0, 0)):
        ladder.move(level)
        assert [layer.level for layer in layers] == [expected] * 2


class Told(Rtrl):
    """A rule that tells the noise it is given."""

    told = 0.0

    def report(self) -> Tensors:
        return {"noise": torch.tensor(self.told)}


def test_the_noise_is_the_largest_of_any_layer(learner_of: Callable[..., Learner]) -> None:
    learner, rules = learner_of("gru"), [Told(Gru(2, 3), 2) for _ in range(3)]
    ladder = Ladder(learner, [Fallback([rule]) for rule in rules], ["told"], BELOW)
    for told, expected in (
        ((0.5, 2.0, 1.0), 2.0),
        ((torch.nan, 0.5, 0.25), 0.5),  # one layer's NaN hides nobody's noise
        ((torch.inf, 0.5, 0.25), torch.inf),
        ((torch.nan,) * 3, None),
    ):
        for rule, each in zip(rules, told, strict=True):
            rule.told = each
        assert ladder.noise() == expected
    ladder.move(1)
    assert ladder.noise() is None


def test_the_noise_of_ok_is_read_and_a_window_has_none(rig: Callable[..., Rig]) -> None:
    one = rig()
    assert one.ladder.noise() is None  # before the first tick
    one.tick(9)
    noise = one.ladder.noise()
    assert noise == float(one.fallback.rungs[0].report()["noise"])
    assert noise is not None
    assert noise > 0
    one.ladder.move(1)
    assert one.ladder.noise() is None


def test_estimators_are_told_apart_from_exact_rules(learner_of: Callable[..., Learner]) -> None:
    cell, signs = Gru(2, 3), torch.Generator()
    fallback = Fallback([Rtrl(cell, 2), Kf(cell, 2, signs), Tbptt(cell, 2), Ok(cell, 2, signs)])
    ladder = Ladder(learner_of("gru"), [fallback], ["rtrl", "kf", "tbptt", "ok"])
    assert ladder.noisy == (1, 3)


def test_senseless_ladders_are_refused(learner_of: Callable[..., Learner]) -> None:
    learner, fallback = learner_of("gru"), rungs(Gru(2, 3), 2)
    with pytest.raises(ValueError, match="without fallbacks has one rule"):
        Ladder(learner, [], RULES)
    with pytest.raises(ValueError, match="all layers need the same 1 rungs, got 2"):
        Ladder(learner, [fallback], ["ok"])
    for below in (["frozen", "readout"], ["readout", "readout"], ["tbptt"]):
        with pytest.raises(ValueError, match="each once and in this order"):
            Ladder(learner, [fallback], RULES, below)
    ladder = Ladder(learner, [fallback], RULES, ["frozen"])
    for level in (-1, 3):
        with pytest.raises(ValueError, match=rf"level must be in 0\.\.2, got {level}"):
            ladder.move(level)
