"""Ticks taken many at a time are, bit for bit, those taken one by one: outcomes and all state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Fallback, Kf, Ok, Rtrl, Segmented, Tbptt
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.frame import Block, Outcome
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense, Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam, Fptt

LANES = 3
TICKS = 96
SIZES = (1, 16, 64, 640)


def signs_of(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


RULES: dict[str, Callable[[Cell, int], Credit]] = {
    "kf": lambda cell, n: Kf(cell, n, signs_of()),
    "ok-gate-3": lambda cell, n: Ok(cell, n, signs_of(), rank=3),
    "ok-row-1": lambda cell, n: Ok(cell, n, signs_of(), rank=1, chunks="row"),
    "rtrl": Rtrl,
    "tbptt-20": lambda cell, n: Tbptt(cell, n, window=20),
    "tbptt-7-every-5": lambda cell, n: Tbptt(cell, n, window=7, every=5),
    "segmented-7-every-5": lambda cell, n: Segmented(cell, n, window=7, every=5),
}
UNITS: dict[str, Callable[[int, int, int, torch.Generator], Recurrence]] = {
    "lru": Lru,
    "rtu-linear": lambda i, n, b, g: Rtu(i, n, b, g, "linear"),
    "rtu-tanh": Rtu,
    "elstm": Elstm,
    "lru under tanh": lambda i, n, b, g: under_a_layer(Lru(i, n, b, g), g),
}


def under_a_layer(units: Recurrence, generator: torch.Generator) -> Recurrence:
    return Stack([units, Feedforward(units.width, 6, LANES, generator)])


def of_units(units: str, horizon: int = 0, kind: type[Head] = Head) -> Learner:
    generator = signs_of(1)
    recurrence, loss = UNITS[units](2, 5, LANES, generator), SquaredError()
    V_PF = initial_readout(recurrence.width, 2, loss, generator).float()
    head = kind(recurrence.width, 2, loss, V_PF)
    return Learner(recurrence, head, Adam(lr=0.01), Adam(lr=0.01), horizon)


def block_of(n_ticks: int = TICKS, accidents: bool = True, seed: int = 7) -> Block:
    """Lanes idle and targets unknown at random, and a bad event now and then."""
    g = signs_of(seed)
    x, y = torch.randn(n_ticks, LANES, 2, generator=g), torch.randn(n_ticks, LANES, 1, generator=g)
    live, scored = (torch.rand(n_ticks, LANES, generator=g) < 0.8 for _ in range(2))
    if accidents:
        for t, bad in ((5, torch.nan), (20, torch.inf), (21, -2e6), (70, torch.nan)):
            (x if t % 2 else y)[t % n_ticks, t % LANES] = bad
    return Block(x, y, live, scored)


def bits(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Bitwise, NaN included."""
    if a is None or b is None:
        return a is b
    return a.numpy().tobytes() == b.numpy().tobytes()


def one_by_one(learner: Learner, block: Block) -> list[Outcome]:
    return [learner.step(block.frame(t)) for t in range(len(block))]


def cut(block: Block, first: int, end: int) -> Block:
    return Block(*(None if each is None else each[first:end] for each in block.rows))  # type: ignore[arg-type]


def in_runs(learner: Learner, block: Block, size: int) -> tuple[list[Outcome], list[int]]:
    """The block, cut into pieces of `size` ticks; how many each run took."""
    outcomes: list[Outcome] = []
    lengths: list[int] = []
    for first in range(0, len(block), size):
        piece = cut(block, first, first + size)
        start = 0
        while start < len(piece):
            run = learner.run(piece, start)
            assert len(run) >= 1
            outcomes += [run.outcome(t) for t in range(len(run))]
            lengths.append(len(run))
            start += len(run)
    return outcomes, lengths


def same(got: list[Outcome], truth: list[Outcome]) -> None:
    assert len(got) == len(truth)
    for t, (mine, theirs) in enumerate(zip(got, truth, strict=True)):
        for name in Outcome.__slots__:
            assert equal(getattr(mine, name), getattr(theirs, name)), (t, name)


def all_sizes_agree(make: Callable[[], Learner], block: Block) -> tuple[list[Outcome], list[int]]:
    """Every size of run gives the ticks one by one; the outcomes, and the runs of the largest."""
    stepped = make()
    truth = one_by_one(stepped, block)
    assert stepped._plan is not None
    expected, report = bits(stepped), stepped.report()
    lengths: list[int] = []
    for size in SIZES:
        learner = make()
        got, lengths = in_runs(learner, block, size)
        same(got, truth)
        state = bits(learner)
        assert state.keys() == expected.keys()
        for name, tensor in state.items():
            assert equal(tensor, expected[name]), (size, name)
        assert learner.report() == pytest.approx(report, rel=0, abs=0, nan_ok=True)
    return truth, lengths


@pytest.fixture
def make(learner_of: Callable[..., Learner], kernels: loading.Library) -> Callable[..., Learner]:
    def build(kind: str, rule: str = "kf", n_units: int = 5, **settings: Any) -> Learner:
        return learner_of(
            kind, RULES[rule], n_lanes=LANES, n_units=n_units, dtype=torch.float32, **settings
        )

    return build


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CELLS)
def test_gated_cells_learn_the_same_bits(kind: str, rule: str, horizon: int, make: Any) -> None:
    _, lengths = all_sizes_agree(lambda: make(kind, rule, horizon=horizon), block_of())
    assert lengths == ([TICKS] if "every" not in rule else [4, 1] * 19 + [1])


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.usefixtures("kernels")
def test_element_wise_units_learn_the_same_bits(units: str, horizon: int) -> None:
    _, lengths = all_sizes_agree(lambda: of_units(units, horizon), block_of())
    assert lengths == [TICKS]


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.usefixtures("kernels")
def test_a_read_out_that_owns_its_update_learns_the_same_bits(horizon: int) -> None:
    _, lengths = all_sizes_agree(
        lambda: of_units("rtu-tanh", horizon, LeastSquaresHead), block_of()
    )
    assert lengths == [TICKS]


@pytest.mark.parametrize("rule", ["kf", "ok-gate-3", "ok-row-1", "rtrl", "tbptt-20"])
def test_a_run_ends_after_credit_that_restarted(rule: str, make: Any) -> None:
    """A wild net's influence grows without bound; a slope beyond all measure ruins a window."""

    def wild() -> Learner:
        learner: Learner = make("tanh", rule, n_units=24)
        learner.recurrence.parameters()[0].mul_(4.0)
        learner.head.V_PF.fill_(200.0)
        return learner

    block = block_of(accidents=False)
    block.y_TBQ[40, 1] = 9e5
    outcomes, lengths = all_sizes_agree(wild, block)
    ended = [t + 1 for t, each in enumerate(outcomes) if each.restarted_B.any()]
    assert len(ended) < TICKS / 4
    assert any(0 < t < TICKS for t in ended)
    sums = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    assert set(ended) <= set(sums)


@pytest.mark.usefixtures("kernels")
def test_a_run_ends_after_an_update_that_was_refused() -> None:
    def steep() -> Learner:
        learner = of_units("lru")
        learner.head.V_PF.fill_(1e14)
        learner.recurrence.lane_state["influence_BKQN"].fill_(1e-16)
        return learner

    def slopes() -> Block:
        block = block_of(accidents=False)
        block.live_TB.fill_(True)
        block.scored_TB.fill_(False)
        block.scored_TB[30].fill_(True)
        return block

    outcomes, lengths = all_sizes_agree(steep, slopes())
    assert outcomes[30].updated is not None
    assert not outcomes[30].updated
    assert lengths == [31, TICKS - 31]


def test_ticks_that_the_fidelity_watches_end_a_run_before_them(make: Any) -> None:
    def watched() -> Learner:
        learner: Learner = make("gru", "ok-gate-3")
        assert isinstance(learner.recurrence, Dense)
        learner.recurrence.fidelity = Fidelity(2, every=32)
        return learner

    stepped, learner = watched(), watched()
    truth = one_by_one(stepped, block_of())
    got, lengths = in_runs(learner, block_of(), 640)
    same(got, truth)
    assert lengths == [30, 1, 1] * 3
    assert learner.report() == stepped.report()
    assert all(
        equal(a, b) for a, b in zip(bits(learner).values(), bits(stepped).values(), strict=True)
    )


def test_signs_of_ticks_that_were_not_taken_are_drawn_again(make: Any) -> None:
    """Also across a snapshot that is taken where a run ended early."""

    def wild() -> Learner:
        learner: Learner = make("tanh", "kf", n_units=24)
        learner.recurrence.parameters()[0].mul_(4.0)
        return learner

    learner, stepped = wild(), wild()
    block = block_of(accidents=False)
    first = learner.run(block)
    assert len(first) < TICKS, "credit was to restart"
    one_by_one(stepped, Block(*(getattr(block, n)[: len(first)] for n in Block.__slots__[:4])))
    resumed = wild()
    resumed.load_state_dict(bits(learner))
    for other in (learner, resumed):
        assert all(
            equal(a, b) for a, b in zip(bits(other).values(), bits(stepped).values(), strict=True)
        )
    rest = len(first)
    assert equal(
        resumed.run(block, rest).prediction_TBP[0], stepped.step(block.frame(rest)).prediction_BP
    )


@pytest.mark.parametrize("teaches", ["nothing", "readout"])
@pytest.mark.parametrize("rule", ["kf", "tbptt-7-every-5"])
def test_a_learner_that_is_frozen_or_teaches_its_read_out_runs_the_same(
    rule: str, teaches: Any, make: Any
) -> None:
    def held() -> Learner:
        learner: Learner = make("lstm", rule, horizon=1)
        one_by_one(learner, block_of(9, accidents=False))
        learner.teaches = teaches
        return learner

    truth, _ = all_sizes_agree(held, block_of(40))
    assert (truth[7].updated is None) == (teaches == "nothing")


def test_a_ladder_runs_on_the_rung_it_is_on(learner_of: Any, kernels: loading.Library) -> None:
    def ladder(cell: Cell, n_lanes: int) -> Fallback:
        return Fallback([Ok(cell, n_lanes, signs_of(), rank=2), Tbptt(cell, n_lanes, window=4)])

    learners = [learner_of("gru", ladder, n_lanes=LANES, dtype=torch.float32) for _ in range(2)]
    block = block_of(30)
    for level in (0, 1, 0):
        for learner in learners:
            learner.recurrence.credit.move(level)
        got, lengths = in_runs(learners[0], block, 640)
        same(got, one_by_one(learners[1], block))
        assert lengths == [30]


def test_without_a_plan_a_run_is_one_step(make: Any) -> None:
    learner, stepped = make("gru"), make("gru")
    block = block_of(5)
    with loading.switched_off():
        truth = one_by_one(stepped, block)
        got, lengths = in_runs(learner, block, 640)
    same(got, truth)
    assert lengths == [1] * 5


def test_weighted_losses_and_fptt_learn_the_same_bits(make: Any) -> None:
    """Parts as FPTT has them: an update at every tick, drawn to a mean of the parameters."""
    weight_TB = torch.rand(TICKS, LANES, generator=signs_of(3))
    weight_TB[11, 1], weight_TB[12, 2] = torch.nan, 0.0
    block = dataclasses.replace(block_of(), weight_TB=weight_TB)
    _, lengths = all_sizes_agree(lambda: make("lstm", "tbptt-20", update=Fptt), block)
    assert lengths == [TICKS]


def test_a_read_out_that_owns_its_update_takes_no_weights(kernels: loading.Library) -> None:
    learner = of_units("rtu-tanh", kind=LeastSquaresHead)
    block = dataclasses.replace(block_of(4), weight_TB=torch.full((4, LANES), 0.5))
    with pytest.raises(ValueError, match="takes no loss weights"):
        learner.run(block)


def test_rows_that_do_not_follow_each_other_are_taken_one_by_one(make: Any) -> None:
    learner, stepped = make("tanh"), make("tanh")
    block = block_of(4, accidents=False)
    odd = Block(
        block.x_TBI.transpose(0, 1).contiguous().transpose(0, 1),
        *(block.y_TBQ, block.live_TB, block.scored_TB),
    )
    assert not odd.x_TBI.is_contiguous()
    runs = [learner.run(odd, t) for t in range(4)]
    same([run.outcome(0) for run in runs], one_by_one(stepped, odd))
    assert [len(run) for run in runs] == [1] * 4


def test_outcomes_stay_as_they_are_while_ticks_go_on(make: Any) -> None:
    learner = make("tanh")
    block = block_of(64)
    runs = [learner.run(block) for _ in range(40)]  # more rows than are allocated together
    kept = [run.prediction_TBP.clone() for run in runs]
    learner.step(block.frame(0))
    learner.run(block)
    assert all(equal(a, b.prediction_TBP) for a, b in zip(kept, runs, strict=True))
    assert len({each.numpy().tobytes() for each in kept}) == 40


def test_a_start_outside_the_block_is_refused(make: Any) -> None:
    learner, block = make("tanh"), block_of(4)
    for start in (-1, 4):
        with pytest.raises(ValueError, match=r"expected 0 <= start < end <= 4"):
            learner.run(block, start)


def test_steps_and_runs_may_take_turns(make: Any) -> None:
    mixed, stepped = make("lstm", "ok-gate-3"), make("lstm", "ok-gate-3")
    block = block_of(60)
    truth = one_by_one(stepped, block)
    got: list[Outcome] = []
    while len(got) < 60:
        t = len(got)
        if t % 3 == 0:
            got.append(mixed.step(block.frame(t)))
            continue
        run = mixed.run(cut(block, 0, t + 5), t)
        got += [run.outcome(i) for i in range(len(run))]
    same(got, truth)
