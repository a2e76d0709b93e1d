"""A plan's tick equals `Learner.step` as it is written, on the same state, from tick to tick.

float32: outcomes and parameters agree to 2e-5, some hundred roundings of numbers around 1. The
state is set back to the twin's after each tick, because a recurrent net amplifies roundings.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell, Tanh
from stream_rnn.credit import Credit, Fallback, Kf, Ok, Rtrl, Segmented, Tbptt
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.frame import Frame
from stream_rnn.head import (
    Bernoulli,
    CrossEntropy,
    Gaussian,
    Head,
    Loss,
    Quantile,
    SquaredError,
)
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam, Fptt, Obgd, Sgd

ROOT = Path(__file__).resolve().parents[2]
LOSSES: dict[str, Loss] = {
    "squared": SquaredError(2),
    "quantile": Quantile(2, 0.2),
    "gaussian": Gaussian(),
    "cross_entropy": CrossEntropy(3),
    "bernoulli": Bernoulli(2),
}
UPDATES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: Sgd(lr=0.05),
    "sgd-unclipped": lambda: Sgd(lr=0.05, clip=None),
    "momentum": lambda: Sgd(lr=0.02, momentum=0.7, clip=0.3),
    "adam": lambda: Adam(lr=0.01, beta1=0.5, beta2=0.9, clip=0.5),
    "obgd": Obgd,
    "fptt": lambda: Fptt(Adam(lr=0.01, beta1=0.5, beta2=0.9, clip=0.5), alpha=0.1, beta=0.3),
    "fptt-obgd": lambda: Fptt(Obgd(lr=0.1, kappa=1.5), alpha=0.1),
    "fptt-sgd": lambda: Fptt(Sgd(lr=0.05, clip=None), alpha=0.5, beta=0.7),
}


def signs_of(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


RULES: dict[str, Callable[[Cell, int], Credit]] = {
    "kf": lambda cell, n: Kf(cell, n, signs_of()),
    "ok-gate-3": lambda cell, n: Ok(cell, n, signs_of(), rank=3),
    "ok-row-1": lambda cell, n: Ok(cell, n, signs_of(), rank=1, chunks="row"),
    "ok-joint-8": lambda cell, n: Ok(cell, n, signs_of(), rank=8, chunks="joint"),
    "rtrl": Rtrl,
    "tbptt-1": lambda cell, n: Tbptt(cell, n, window=1),
    "tbptt-20": lambda cell, n: Tbptt(cell, n, window=20),
    "tbptt-4-every-3": lambda cell, n: Tbptt(cell, n, window=4, every=3),
    "segmented-7-every-5": lambda cell, n: Segmented(cell, n, window=7, every=5),
}


def copied(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def for_loss(loss: str, frame: Frame) -> Frame:
    """With targets that the loss takes."""
    if loss == "cross_entropy":
        classes_B1 = (frame.y_BQ > -0.5).float() + (frame.y_BQ > 0.5).float()
        return dataclasses.replace(frame, y_BQ=classes_B1)
    if loss == "bernoulli":
        return dataclasses.replace(frame, y_BQ=(frame.y_BQ > 0).float())
    return frame


@pytest.fixture
def make(learner_of: Callable[..., Learner], kernels: loading.Library) -> Callable[..., Learner]:
    def build(kind: str, rule: str = "kf", **settings: Any) -> Learner:
        return learner_of(kind, RULES[rule], n_lanes=3, n_units=5, dtype=torch.float32, **settings)

    return build


@pytest.fixture
def frames(frames_of: Callable[..., list[Frame]]) -> Callable[..., list[Frame]]:
    def build(n_ticks: int, n_targets: int = 1, idle: float = 0.25) -> list[Frame]:
        return frames_of(
            n_ticks, 3, n_targets=n_targets, idle=idle, unscored=0.25, dtype=torch.float32
        )

    return build


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", CELLS)
def test_a_tick_is_the_same(
    pair_of: Any, kind: str, rule: str, horizon: int, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make(kind, rule, horizon=horizon))
    for frame in frames(10):
        for rows in (frame.x_BI, frame.y_BQ):
            rows[~frame.live_B] = torch.nan
        pair.step(frame)


@pytest.mark.parametrize(
    ("rule", "n_units"),
    [("kf", 31), ("kf", 70), ("tbptt-20", 31), ("tbptt-20", 70), ("rtrl", 21)],
)
def test_rows_of_whole_vectors_and_a_rest(
    pair_of: Any, rule: str, n_units: int, learner_of: Any, frames: Any
) -> None:
    pair = pair_of(
        lambda: learner_of("lstm", RULES[rule], n_lanes=3, n_units=n_units, dtype=torch.float32)
    )
    for frame in frames(6):
        pair.step(frame)


@pytest.mark.parametrize("update", ["adam", "momentum", "obgd"])
def test_holes_in_w_stay_holes(pair_of: Any, update: str, make: Any, frames: Any) -> None:
    """The mask of a cell may be any: here every third weight is fixed at zero, and some rows."""

    def holed() -> Learner:
        learner: Learner = make("gru", "kf", update=UPDATES[update])
        dense = learner.recurrence
        assert isinstance(dense, Dense)
        assert dense.cell.mask_ZM is not None
        mask_ZM = dense.cell.mask_ZM.clone()
        mask_ZM.view(-1)[::3] = False
        mask_ZM[[0, -1]] = False
        dense.cell.mask_ZM = mask_ZM
        W_ZM = torch.where(mask_ZM, dense.W_ZM, 0.0)
        return Learner(
            Dense(dense.cell, RULES["kf"](dense.cell, 3), W_ZM),
            learner.head, UPDATES[update](), UPDATES[update](),
        )  # fmt: skip

    pair = pair_of(holed)
    for frame in frames(8):
        pair.step(frame)
    for learner in (pair.fused, pair.twin):
        assert not learner.recurrence.W_ZM[~learner.recurrence.cell.mask_ZM].any()


@pytest.mark.parametrize("rule", ["kf", "ok-gate-3", "tbptt-20", "tbptt-4-every-3"])
def test_few_of_many_lanes_have_an_event(
    pair_of: Any, rule: str, learner_of: Any, kernels: loading.Library, frames_of: Any
) -> None:
    """Lanes without one are bitwise as they were, but for losses that a payment settles."""
    lanes = 43
    pair = pair_of(
        lambda: learner_of("gru", RULES[rule], n_lanes=lanes, dtype=torch.float32, horizon=1)
    )
    for t, frame in enumerate(frames_of(12, lanes, idle=0.93, unscored=0.2, dtype=torch.float32)):
        if t == 5:
            frame.live_B.fill_(False)
        for rows in (frame.x_BI, frame.y_BQ):
            rows[~frame.live_B] = torch.nan
        before = {k: v.clone() for k, v in pair.fused.lane_state.items()}
        got = pair.fused.step(frame)
        idle_B = ~frame.live_B
        for name, state in pair.fused.lane_state.items():
            if "owed" not in name:
                assert torch.equal(state[idle_B], before[name][idle_B]), name
        assert not got.learned_B[idle_B].any()
        assert not got.prediction_BP[idle_B].any()
        pair.fused.load_state_dict(copied(pair.twin))
        pair.step(frame)


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_the_same(
    pair_of: Any, loss: str, horizon: int, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make("gru", loss=LOSSES[loss], horizon=horizon))
    for frame in frames(10, LOSSES[loss].n_targets):
        pair.step(for_loss(loss, frame))


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_weights_scale_every_loss_the_same(
    pair_of: Any, loss: str, horizon: int, make: Any, frames: Any
) -> None:
    """Weights of one lane or all, none in between; lanes of weight 0, and of impossible ones."""
    pair = pair_of(lambda: make("gru", loss=LOSSES[loss], horizon=horizon))
    ticks = frames(16, LOSSES[loss].n_targets)
    generator, taught = signs_of(5), []
    for t, frame in enumerate(ticks):
        weight_B = torch.rand(3, generator=generator)
        if t % 4 == 1:
            weight_B[t % 3] = (0.0, 1.0, torch.nan, 1.5)[t // 4]
            frame.live_B[t % 3] = frame.scored_B[t % 3] = True
        if t % 4 == 3:
            frame.scored_B[0], weight_B[0] = False, -1.0  # of nothing: it may be anything
        weighted = dataclasses.replace(for_loss(loss, frame), weight_B=weight_B)
        got, _ = pair.step(weighted if t % 4 else for_loss(loss, frame))
        if t % 4 == 1 and (t > 2 or not horizon):
            assert bool(got.rejected_B[t % 3]) == (t > 8)
            taught.append(bool(got.learned_B[t % 3]))
    is_likelihood = loss in ("cross_entropy", "bernoulli")
    expected = [is_likelihood, True, False, False]
    assert taught == (expected[1:] if horizon else expected)


@pytest.mark.parametrize("rule", ["ok-gate-3", "tbptt-4-every-3"])
@pytest.mark.parametrize("update", UPDATES)
def test_every_update_is_the_same(
    pair_of: Any, update: str, rule: str, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make("lstm", rule, update=UPDATES[update]))
    for frame in frames(10):
        pair.step(frame)


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("rule", RULES)
def test_bad_events_leave_their_lane_bitwise_as_it_was(
    pair_of: Any, rule: str, horizon: int, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make("lstm", rule, horizon=horizon))
    for t, frame in enumerate(frames(9, idle=0.0)):
        frame.scored_B.fill_(True)
        bad = t % 3 if t > 3 else None
        if bad is not None:
            place = frame.x_BI if t % 2 else frame.y_BQ
            place[bad, 0] = (torch.nan, torch.inf, -2e6)[t % 3]
        before = {k: v.clone() for k, v in pair.fused.lane_state.items()}
        got, _ = pair.step(frame)
        assert got.rejected_B.tolist() == [bad == lane for lane in range(3)]
        owes = rule.startswith(("tbptt", "segmented"))  # a payment settles every lane's debt
        if bad is not None and not owes:
            for name, state in pair.fused.lane_state.items():
                assert torch.equal(state[bad], before[name][bad]), name


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("kind", ["rhn", "lstm"])
def test_sequences_end_in_the_middle_of_a_window(
    pair_of: Any, kind: str, horizon: int, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make(kind, "segmented-7-every-5", horizon=horizon))
    twin = credit_of(pair.twin).lane_state
    cut = 0
    for t, frame in enumerate(frames(25)):
        ends_B = torch.tensor([t % 4 == 0, t % 3 == 0, t == 13])
        for learner in (pair.fused, pair.twin):
            learner.reset(ends_B)
            if t == 14:  # unsound, and at its first event: it begins with an empty window
                credit_of(learner).lane_state["u_BTM"][2] = 1e20
        before_B = twin["begins_B"].clone()
        pair.step(frame)
        begun_B = before_B & ~twin["begins_B"]
        for lane in begun_B.nonzero()[:, 0].tolist():
            newest = twin["J_h_BTSN"][lane, twin["newest_B"][lane]]
            cut += not newest.any()
    assert cut > 5


@pytest.mark.parametrize("horizon", [0, 2])
def test_a_readout_that_reads_no_inputs(pair_of: Any, horizon: int, make: Any, frames: Any) -> None:
    def blind() -> Learner:
        learner: Learner = make("rhn", horizon=horizon)
        head = learner.head
        head.V_PF[:, 5:-1] = 0.0  # N units, I inputs, 1
        args = (head.n_units, learner.recurrence.n_inputs, head.loss_function, head.V_PF)
        learner.head = Head(*args, reads_inputs=False)
        return learner

    pair = pair_of(blind)
    start = pair.twin.head.V_PF.clone()
    for frame in frames(10):
        pair.step(frame)
    for learner in (pair.fused, pair.twin):
        moved = (learner.head.V_PF - start).abs()
        assert (moved[:, 5:-1] == 0).all()
        assert (moved[:, :5] > 0).all()


@pytest.mark.parametrize("horizon", [0, 2])
def test_a_forward_pass_that_diverges_is_refused(
    pair_of: Any, horizon: int, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make("tanh", horizon=horizon))
    for t, frame in enumerate(frames(8, idle=0.0)):
        if t == 5:
            for learner in (pair.fused, pair.twin):
                learner.head.V_PF.fill_(1e30)
        got, _ = pair.step(frame)
        assert bool(got.rejected_B.any()) == (t >= 5)


@pytest.mark.parametrize("rule", ["kf", "ok-gate-3", "ok-row-1", "rtrl", "tbptt-20"])
def test_bad_credit_restarts_the_lane_and_the_event_counts(
    pair_of: Any, rule: str, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make("gru", rule))
    for t, frame in enumerate(frames(8, idle=0.0)):
        frame.scored_B.fill_(True)
        if t == 4:
            for learner in (pair.fused, pair.twin):
                for state in credit_of(learner).lane_state.values():
                    if state.is_floating_point():
                        state[1] = 1e20
        got, _ = pair.step(frame)
        assert got.restarted_B.tolist() == [False, t == 4, False]
        assert got.learned_B.all()


def test_a_gradient_that_is_not_finite_moves_nothing(pair_of: Any, make: Any, frames: Any) -> None:
    pair = pair_of(lambda: make("tanh", "kf", update=lambda: Sgd(lr=0.1)))
    ticks = frames(4, idle=0.0)
    for frame in ticks[:3]:
        pair.step(frame)
    ticks[3].y_BQ.fill_(9e5)  # sane, and its slope times an influence of 1e7 overflows when squared
    for learner in (pair.fused, pair.twin):
        learner.head.V_PF.fill_(1e14)
        credit_of(learner).lane_state["A_BSZ"].mul_(1e5)
    before_ZM = pair.fused.recurrence.parameters()[0].clone()
    got, _ = pair.step(ticks[3])
    assert got.updated is not None
    assert not got.updated
    assert torch.equal(pair.fused.recurrence.parameters()[0], before_ZM)


@pytest.mark.parametrize("rule", ["kf", "tbptt-4-every-3"])
def test_a_frozen_learner_goes_on_and_learns_nothing(
    pair_of: Any, rule: str, make: Any, frames: Any
) -> None:
    pair = pair_of(lambda: make("lstm", rule, horizon=2))
    for t, frame in enumerate(frames(12)):
        pair.fused.teaches = pair.twin.teaches = "nothing" if 3 <= t < 8 else "all"
        before = [p.clone() for p in pair.fused.parameters()]
        got, _ = pair.step(frame)
        if pair.fused.teaches == "nothing":
            assert got.updated is None
            assert all(map(torch.equal, before, pair.fused.parameters()))


@pytest.mark.parametrize("rule", ["kf", "ok-gate-3", "rtrl", "tbptt-20"])
def test_a_frozen_learner_asks_nothing_of_its_credit(
    pair_of: Any, rule: str, make: Any, frames: Any
) -> None:
    """A target that far away would have the credit restart."""
    pair = pair_of(lambda: make("tanh", rule))
    for learner in (pair.fused, pair.twin):
        learner.teaches = "nothing"
        learner.head.V_PF.fill_(300.0)
    for t, frame in enumerate(frames(6, idle=0.0)):
        frame.scored_B.fill_(True)
        if t > 2:
            frame.y_BQ[1] = -9e5
        got, _ = pair.step(frame)
        assert got.learned_B.all()
        assert not got.restarted_B.any()


def test_a_readout_that_learns_alone_is_taught_by_torch(make: Any, frames: Any) -> None:
    """Bitwise the step as it is written."""
    fused, twin = make("gru", "tbptt-20"), make("gru", "tbptt-20")
    for t, frame in enumerate(frames(9)):
        for learner in (fused, twin):
            learner.teaches = "readout" if t in (3, 6) else "all"
        got = fused.step(frame)
        with loading.switched_off():
            truth = twin.step(frame)
        if t in (3, 6):
            assert torch.equal(got.prediction_BP, truth.prediction_BP)
            assert all(map(torch.equal, fused.parameters(), twin.parameters()))
        fused.load_state_dict(copied(twin))


@pytest.mark.parametrize("cut", [2, 6, 9])
def test_ticks_that_the_fidelity_watches_are_taken_by_torch(
    cut: int, learner_of: Any, kernels: Any, frames: Any
) -> None:
    """Two of each five; the clock is in the state, so that a resumed run takes the same ones."""

    def make() -> Learner:
        learner: Learner = learner_of("gru", RULES["kf"], n_lanes=3, dtype=torch.float32)
        assert isinstance(learner.recurrence, Dense)
        learner.recurrence.fidelity = Fidelity(2, every=5)
        return learner

    whole, learner = make(), make()
    for t, frame in enumerate(frames(15)):
        assert (whole._plan_now() is None) == (t % 5 >= 3)
        whole.step(frame)
        if t == cut:
            state = copied(learner)
            learner = make()
            learner.load_state_dict(state)
        learner.step(frame)
        assert all(map(torch.equal, whole.parameters(), learner.parameters()))
    assert "fidelity" in whole.report()


def credit_of(learner: Learner) -> Any:
    assert isinstance(learner.recurrence, Dense)
    return learner.recurrence.credit


def test_a_ladder_may_move_between_ticks(
    pair_of: Any, learner_of: Any, kernels: Any, frames: Any
) -> None:
    def ladder(cell: Cell, n_lanes: int) -> Fallback:
        generator = signs_of()
        rungs = [Ok(cell, n_lanes, generator, rank=2), Kf(cell, n_lanes, generator)]
        return Fallback([*rungs, Tbptt(cell, n_lanes, window=4, every=3)])

    pair = pair_of(lambda: learner_of("gru", ladder, n_lanes=3, dtype=torch.float32))
    for t, frame in enumerate(frames(16)):
        for learner in (pair.fused, pair.twin):
            if t % 3 == 2:
                credit_of(learner).move((0, 1, 2, 1)[t // 3 % 4])
        if credit_of(pair.fused).owes_from_before:
            assert torch.equal(pair.fused.step(frame).learned_B, pair.twin.step(frame).learned_B)
            assert pair.fused._plan is None  # the gradient is not this rung's alone
            pair.follow()
        else:
            pair.step(frame)


def test_a_plan_follows_what_is_changed_between_ticks(pair_of: Any, make: Any, frames: Any) -> None:
    pair = pair_of(lambda: make("tanh", update=UPDATES["fptt"]))
    for t, frame in enumerate(frames(9)):
        for learner in (pair.fused, pair.twin):
            if t == 3:
                learner.head_update.beta = 0.9
            if t == 4:
                learner.update.inner.lr, learner.update.alpha = 0.1, 0.4
            if t == 5:
                learner.head_update = Sgd(lr=0.2)
            if t == 7:
                learner.reset(torch.tensor([True, False, True]))
        pair.step(frame)


def test_frames_of_another_kind_go_to_the_twin(make: Any, frames: Any) -> None:
    fused, twin = make("tanh"), make("tanh")
    for frame in frames(4):
        odd = Frame(frame.x_BI.T.contiguous().T, frame.y_BQ, frame.live_B, frame.scored_B)
        assert not odd.x_BI.is_contiguous()
        got, truth = fused.step(odd), twin._step(odd)
        assert torch.equal(got.loss_B, truth.loss_B)


class OtherTanh(Tanh):
    """A cell of somebody else's, which may compute anything."""


def with_other_cell(learner_of: Any, frames_of: Any) -> Learner:
    cell = OtherTanh(2, 3)
    V_PF = torch.zeros(1, 6)
    dense = Dense(cell, Kf(cell, 2, signs_of()), cell.initial_weight().float())
    return Learner(dense, Head(3, 2, SquaredError(), V_PF), Sgd(), Sgd())


class OtherSquares(LeastSquaresHead):
    """A read-out of somebody else's."""


def with_other_readout(learner_of: Any, frames_of: Any) -> Learner:
    learner: Learner = learner_of("tanh", RULES["kf"], dtype=torch.float32)
    head = OtherSquares(3, 2, SquaredError(), learner.head.V_PF)
    return Learner(learner.recurrence, head, learner.update, Sgd())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "make_learner",
    [
        with_other_cell,
        with_other_readout,
        lambda learner_of, _: learner_of("tanh", RULES["kf"]),
        lambda learner_of, _: learner_of("tanh", "snap1", dtype=torch.float32),
        lambda learner_of, _: learner_of(
            "tanh", lambda cell, n: Ok(cell, n, signs_of(), rank=17), dtype=torch.float32
        ),
    ],
    ids=["other cell", "other read-out", "float64", "snap1", "rank 17"],
)
def test_other_parts_have_no_plan_and_learn(
    make_learner: Any, learner_of: Any, frames_of: Any
) -> None:
    learner = make_learner(learner_of, frames_of)
    dtype = learner.head.V_PF.dtype
    before_PF = learner.head.V_PF.clone()
    for frame in frames_of(3, dtype=dtype):
        assert learner.step(frame).learned_B.all()
    assert learner._plan is None
    assert not torch.equal(learner.head.V_PF, before_PF)


SCRIPT = """
import hashlib, sys, torch
from stream_rnn.cells import Lstm
from stream_rnn.credit import Ok
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam

def run():
    g = torch.Generator().manual_seed(3)
    cell, loss = Lstm(2, 11), SquaredError()
    V = initial_readout(11, 2, loss, g).float()
    rule = Ok(cell, 3, torch.Generator().manual_seed(4), rank=3)
    dense = Dense(cell, rule, cell.initial_weight(g).float())
    learner = Learner(dense, Head(11, 2, loss, V), Adam(), Adam(), 1)
    digest = hashlib.sha256()
    for _ in range(30):
        live = torch.rand(3, generator=g) < 0.8
        frame = Frame(torch.randn(3, 2, generator=g), torch.randn(3, 1, generator=g), live, live)
        digest.update(learner.step(frame).prediction_BP.numpy().tobytes())
        learner._plan._work.random_(generator=g)  # what is left there must not matter
    for tensor in learner.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()

print(run())
"""


def test_a_run_is_bit_identical_again_and_in_another_process(
    kernels: loading.Library, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    code = compile(SCRIPT, "script", "exec")
    for _ in range(2):
        exec(code, {})
    first, second = capsys.readouterr().out.split()
    assert first == second
    monkeypatch.setenv("STREAM_RNN_CACHE", str(kernels.path.parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = [sys.executable, "-c", SCRIPT]
    there = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert there.split() == [first]


def test_a_learner_says_what_computes_it(
    make: Any, learner_of: Any, kernels: loading.Library
) -> None:
    name = f"native-{kernels.variant}"
    whole = make("lstm", "tbptt-4-every-3")
    assert whole.execution() == (name, f"native kernels ({kernels.variant}), whole ticks")
    assert not whole.update.state  # asking changes nothing
    alone = with_other_readout(learner_of, None)
    assert alone.execution() == (name, f"native kernels ({kernels.variant}), the credit rule")
    assert learner_of("lstm", "snap1", dtype=torch.float32).execution() == ("torch", "torch")
    assert learner_of("lstm", RULES["kf"]).execution() == ("torch", "torch")
    with loading.switched_off():
        path, words = whole.execution()
    assert path == "torch"
    assert words == "torch (no native kernels: switched off)"


def test_every_instruction_set_ticks_the_same(
    pair_of: Any, make: Any, frames: Any, kernels: loading.Library, monkeypatch: Any
) -> None:
    assert kernels.variant == kernels.runs[0]
    for variant in kernels.runs:
        monkeypatch.setattr(loading, "_found", loading.Library(kernels.path, variant))
        pair = pair_of(lambda: make("lstm", "ok-gate-3", horizon=1))
        for frame in frames(10):
            pair.step(frame)
