"""A plan's tick of element-wise units equals `Learner.step` as it is written, tick by tick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.frame import Frame
from stream_rnn.head import Gaussian, Head, Loss, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.recurrence import Elstm, Lru, Recurrence, Rtu
from stream_rnn.update import Adam, Fptt, Obgd, Sgd, Update

Make = Callable[[int, int, int, torch.Generator], Recurrence]
UNITS: dict[str, Make] = {
    "lru": Lru,
    "rtu-linear": lambda i, n, b, g: Rtu(i, n, b, g, "linear"),
    "rtu-tanh": lambda i, n, b, g: Rtu(i, n, b, g, "tanh"),
    "rtu-relu": lambda i, n, b, g: Rtu(i, n, b, g, "relu"),
    "elstm": Elstm,
}
LANES = 3


def learner_of(
    units: str,
    n_inputs: int = 2,
    n_units: int = 5,
    horizon: int = 0,
    loss: Loss | None = None,
    update: Callable[[], Update] = lambda: Adam(lr=0.01),
    n_lanes: int = LANES,
) -> Learner:
    generator = torch.Generator().manual_seed(0)
    recurrence = UNITS[units](n_inputs, n_units, n_lanes, generator)
    loss = loss or SquaredError()
    V_PF = initial_readout(recurrence.width, n_inputs, loss, generator).float() * 10
    head = Head(recurrence.width, n_inputs, loss, V_PF)
    return Learner(recurrence, head, update(), update(), horizon)


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize(("n_inputs", "n_units"), [(1, 1), (2, 5), (8, 3), (19, 4)])
@pytest.mark.parametrize("units", UNITS)
def test_a_tick_is_the_same(
    units: str, n_inputs: int, n_units: int, horizon: int, pair_of: Any, frames_of: Any
) -> None:
    pair = pair_of(lambda: learner_of(units, n_inputs, n_units, horizon))
    for frame in frames_of(12, LANES, n_inputs, idle=0.25, unscored=0.25, dtype=torch.float32):
        for rows in (frame.x_BI, frame.y_BQ):
            rows[~frame.live_B] = torch.nan
        before = {name: t.clone() for name, t in pair.fused.lane_state.items()}
        pair.step(frame)
        idle = ~frame.live_B
        for name, state in pair.fused.lane_state.items():
            if name != "owed_B":
                assert torch.equal(state[idle], before[name][idle]), name


@pytest.mark.parametrize("n_units", [5, 20])
@pytest.mark.parametrize("units", UNITS)
def test_a_tick_of_many_lanes_is_the_same(
    units: str, n_units: int, pair_of: Any, frames_of: Any
) -> None:
    """Lanes are taken four at a time; in the second tick the traces of one come apart."""
    pair = pair_of(lambda: learner_of(units, 3, n_units, n_lanes=11))
    restarted = 0
    for tick, frame in enumerate(frames_of(6, 11, 3, idle=0.3, unscored=0.2, dtype=torch.float32)):
        frame.x_BI[~frame.live_B] = torch.nan
        if tick == 1:
            frame.live_B[6] = True
            frame.x_BI[6] = 0.5
            for learner in (pair.fused, pair.twin):
                learner.lane_state["influence_BKQN"][6].fill_(1e30)
        got, _ = pair.step(frame)
        restarted += int(got.restarted_B.sum())
    assert restarted == 1


@pytest.mark.parametrize("units", ["lru", "elstm"])
@pytest.mark.parametrize(
    "update",
    [
        lambda: Sgd(lr=0.05, clip=None),
        lambda: Sgd(lr=0.02, momentum=0.7, clip=0.1),
        Adam,
        Obgd,
        lambda: Fptt(Adam(lr=0.01), alpha=0.2),
    ],
    ids=["sgd", "momentum clipped", "adam", "obgd", "fptt"],
)
def test_every_update_is_the_same(
    units: str, update: Callable[[], Update], pair_of: Any, frames_of: Any
) -> None:
    """The gradients of all parameters are clipped together."""
    pair = pair_of(lambda: learner_of(units, update=update))
    for frame in frames_of(10, LANES, dtype=torch.float32):
        pair.step(frame)


@pytest.mark.parametrize("units", UNITS)
def test_few_of_many_lanes_have_an_event(units: str, pair_of: Any, frames_of: Any) -> None:
    """The others are bitwise as they were."""
    pair = pair_of(lambda: learner_of(units, n_lanes=43))
    for frame in frames_of(12, 43, idle=0.93, unscored=0.2, dtype=torch.float32):
        for rows in (frame.x_BI, frame.y_BQ):
            rows[~frame.live_B] = torch.nan
        before = {k: v.clone() for k, v in pair.fused.lane_state.items()}
        idle_B, got = ~frame.live_B, pair.fused.step(frame)
        for name, state in pair.fused.lane_state.items():
            if name != "owed_B":
                assert torch.equal(state[idle_B], before[name][idle_B]), name
        assert not got.learned_B[idle_B].any()
        pair.follow()
        pair.step(frame)


def test_a_loss_of_several_outputs_is_the_same(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(lambda: learner_of("rtu-tanh", loss=Gaussian(2)))
    for frame in frames_of(10, LANES, n_targets=2, dtype=torch.float32):
        pair.step(frame)


@pytest.mark.parametrize("units", UNITS)
def test_a_bad_event_leaves_its_lane_bitwise_as_it_was(
    units: str, pair_of: Any, frames_of: Any
) -> None:
    pair = pair_of(lambda: learner_of(units, horizon=1))
    for t, frame in enumerate(frames_of(9, LANES, dtype=torch.float32)):
        bad = t % 3 if t > 3 else None
        if bad is not None:
            frame.x_BI[bad, 0] = (torch.nan, torch.inf, -2e6)[t % 3]
        before = {k: v.clone() for k, v in pair.fused.lane_state.items()}
        got, _ = pair.step(frame)
        assert got.rejected_B.tolist() == [bad == lane for lane in range(LANES)]
        if bad is not None:
            for name, state in pair.fused.lane_state.items():
                assert torch.equal(state[bad], before[name][bad]), name


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("planted", [torch.nan, 1e30])
def test_bad_credit_restarts_the_lane_and_the_event_counts(
    units: str, planted: float, pair_of: Any, frames_of: Any
) -> None:
    pair = pair_of(lambda: learner_of(units))
    for t, frame in enumerate(frames_of(8, LANES, dtype=torch.float32)):
        if t == 4:
            for learner in (pair.fused, pair.twin):
                learner.recurrence.lane_state["influence_BKQN"][1] = planted
        got, _ = pair.step(frame)
        assert got.restarted_B.tolist() == [False, t == 4, False]


def test_what_is_frozen_stands_still_and_goes_on(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(lambda: learner_of("lru"))
    frames = frames_of(6, LANES, dtype=torch.float32)
    pair.step(frames[0])
    for learner in (pair.fused, pair.twin):
        learner.teaches = "nothing"
    before = [p.clone() for p in pair.fused.parameters()]
    for frame in frames[1:]:
        pair.step(frame)
    assert all(map(torch.equal, pair.fused.parameters(), before))


@pytest.mark.parametrize("units", UNITS)
def test_what_is_frozen_asks_nothing_of_its_traces(
    units: str, pair_of: Any, frames_of: Any
) -> None:
    """A target that far away would have them restart."""
    pair = pair_of(lambda: learner_of(units))
    for learner in (pair.fused, pair.twin):
        learner.teaches = "nothing"
        learner.head.V_PF.fill_(300.0)
    for frame in frames_of(3, LANES, 2, dtype=torch.float32):
        frame.y_BQ[1] = -9e5
        got, _ = pair.step(frame)
        assert got.learned_B.all()
        assert not got.restarted_B.any()


@pytest.mark.parametrize("phase", [1e-3, 3.1416, 700.0, 2e4])
def test_units_turn_by_any_phase(phase: float, pair_of: Any, frames_of: Any) -> None:
    def make() -> Learner:
        learner = learner_of("lru", n_units=7)
        dynamics_PN = learner.recurrence.parameters()[1]
        dynamics_PN[1] = torch.linspace(0.9, 1.1, 7).mul(phase).log()
        return learner

    pair = pair_of(make)
    for frame in frames_of(5, LANES, dtype=torch.float32):
        got = pair.fused.step(frame)
        with loading.switched_off():
            truth = pair.twin.step(frame)
        limit = 2e-5 + 2e-7 * phase  # float32 knows a phase to a part of its size
        torch.testing.assert_close(got.prediction_BP, truth.prediction_BP, rtol=0, atol=limit)
        pair.follow()


@pytest.mark.parametrize("decay", [1e-12, 1e-4, 50.0, 1e6])
@pytest.mark.parametrize("units", ["lru", "rtu-linear"])
def test_units_forget_slowly_or_at_once(
    units: str, decay: float, pair_of: Any, frames_of: Any
) -> None:
    def make() -> Learner:
        learner = learner_of(units)
        learner.recurrence.parameters()[1][0] = torch.tensor(decay).log()
        return learner

    pair = pair_of(make)
    for frame in frames_of(6, LANES, dtype=torch.float32):
        pair.step(frame)


@pytest.mark.parametrize("at_zero", [False, True])
@pytest.mark.parametrize(
    ("units", "row"),
    [("lru", 1), ("lru", 2), ("rtu-linear", 1), ("rtu-tanh", 1), ("rtu-relu", 1)],
)
def test_a_phase_or_gain_beyond_float32_refuses_every_event(
    units: str, row: int, at_zero: bool, pair_of: Any, frames_of: Any
) -> None:
    def make() -> Learner:
        learner = learner_of(units, n_units=20)
        learner.recurrence.parameters()[1][row, 17] = 89.0  # of exp(89) there is no float32
        return learner

    pair = pair_of(make)
    for frame in frames_of(3, LANES, dtype=torch.float32):
        if at_zero:
            frame.x_BI.zero_()
        got, _ = pair.step(frame)
        assert got.rejected_B.all()


def test_a_subclass_or_another_dtype_has_no_plan(kernels: loading.Library, frames_of: Any) -> None:
    class Other(Lru):
        pass

    generator = torch.Generator().manual_seed(0)
    for recurrence, dtype in (
        (Other(2, 3, LANES, generator), torch.float32),
        (Lru(2, 3, LANES, generator, dtype=torch.float64), torch.float64),
    ):
        V_PF = torch.zeros(1, recurrence.width + 3, dtype=dtype)
        head = Head(recurrence.width, 2, SquaredError(), V_PF)
        learner = Learner(recurrence, head, Sgd(), Sgd())
        for frame in frames_of(2, LANES, dtype=dtype):
            learner.step(frame)
        assert learner._plan is None


def test_every_instruction_set_ticks_the_same(
    kernels: loading.Library, pair_of: Any, frames_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant in kernels.runs:
        monkeypatch.setattr(loading, "_found", loading.Library(kernels.path, variant))
        for units in UNITS:
            pair = pair_of(lambda: learner_of(units, 3, 6, 1, n_lanes=11))  # noqa: B023
            for frame in frames_of(6, 11, 3, idle=0.2, dtype=torch.float32):
                pair.step(frame)


@pytest.mark.parametrize("units", ["lru", "elstm"])
def test_a_loss_of_several_outputs_over_many_lanes_is_the_same(
    units: str, pair_of: Any, frames_of: Any
) -> None:
    pair = pair_of(lambda: learner_of(units, loss=Gaussian(2), n_lanes=11))
    for frame in frames_of(8, 11, n_targets=2, idle=0.2, unscored=0.2, dtype=torch.float32):
        pair.step(frame)


@pytest.mark.parametrize("n_units", [5, 20])
@pytest.mark.parametrize("units", UNITS)
def test_a_lane_that_comes_apart_leaves_the_others_to_the_bit(
    units: str, n_units: int, kernels: loading.Library, frames_of: Any
) -> None:
    """One that taught nothing in this tick: whatever it held, the gradient is the others'."""
    frames = frames_of(4, 6, 3, dtype=torch.float32)
    for frame in frames:
        frame.scored_B[1] = False
    moved = []
    for planted in (0.0, 1e30):
        learner = learner_of(units, 3, n_units, n_lanes=6)
        for t, frame in enumerate(frames):
            if t == 2:
                learner.lane_state["influence_BKQN"][1] = planted
            outcome = learner.step(frame)
            assert outcome.restarted_B.tolist() == [
                b == 1 and t == 2 and planted > 0 for b in range(6)
            ]
            if t == 2:
                moved.append([param.clone() for param in learner.parameters()])
        assert learner._plan is not None
    for calm, wild in zip(*moved, strict=True):
        assert torch.equal(calm, wild)


@pytest.mark.parametrize("units", UNITS)
def test_a_state_of_one_lane_is_the_same_bits_whoever_is_beside_it(
    units: str, kernels: loading.Library, frames_of: Any
) -> None:
    """Lanes share parameters and nothing else: frozen, a lane sees its own events only."""
    frames = frames_of(10, 6, idle=0.3, dtype=torch.float32)
    states = []
    for alone in (False, True):
        learner = learner_of(units, n_units=20, n_lanes=6)
        learner.teaches = "nothing"
        for frame in frames:
            live_B = frame.live_B.clone()
            if alone:
                live_B[1:] = False
            learner.step(Frame(frame.x_BI, frame.y_BQ, live_B, frame.scored_B & live_B))
        assert learner._plan is not None
        states.append({name: t[0].clone() for name, t in learner.lane_state.items()})
    for name, state in states[0].items():
        assert torch.equal(state, states[1][name]), name
