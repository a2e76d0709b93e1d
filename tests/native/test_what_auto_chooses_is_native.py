"""Least squares, and units under a layer, tick as `Learner.step` is written; `auto` gets a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn import app
from stream_rnn.frame import Frame
from stream_rnn.head import Head, Loss, Quantile, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.recurrence import Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam, Fptt, Sgd

LANES = 3
LOSSES: dict[str, Callable[[], Loss]] = {
    "squared": SquaredError,
    "squared of 3": lambda: SquaredError(3),
    "l1 of 2": lambda: Quantile(2, 0.5),
}


def squares_of(
    loss: Loss | None = None, n_units: int = 4, n_inputs: int = 2, horizon: int = 0, **settings: Any
) -> Learner:
    generator = torch.Generator().manual_seed(0)
    units, loss = Rtu(n_inputs, n_units, LANES, generator), loss or SquaredError()
    V_PF = initial_readout(units.width, n_inputs, loss, generator).float()
    head = LeastSquaresHead(units.width, n_inputs, loss, V_PF, **settings)
    return Learner(units, head, Adam(lr=0.01), Sgd(), horizon)


def stack_of(
    below: Callable[..., Recurrence] = Lru,
    activation: Any = "tanh",
    horizon: int = 0,
    n_units: int = 5,
    width: int = 7,
    n_lanes: int = LANES,
) -> Learner:
    generator = torch.Generator().manual_seed(0)
    units, loss = below(2, n_units, n_lanes, generator), SquaredError(2)
    stack = Stack([units, Feedforward(units.width, width, n_lanes, generator, activation)])
    V_PF = initial_readout(stack.width, 2, loss, generator).float() * 10
    return Learner(stack, Head(width, 2, loss, V_PF), Adam(lr=0.01), Adam(lr=0.01), horizon)


def covariances_agree(pair: Any) -> None:
    mine, theirs = pair.fused.head, pair.twin.head
    # the features are float32, and tanh differs by roundings
    torch.testing.assert_close(mine.C_FF, theirs.C_FF, rtol=2e-5, atol=2e-7)
    torch.testing.assert_close(mine.size_P, theirs.size_P, rtol=2e-5, atol=2e-6)
    assert torch.equal(mine.C_FF, mine.C_FF.T), "not symmetric"


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("n_units", [1, 4, 9])  # 5, 11 and 21 features
@pytest.mark.parametrize("loss", LOSSES)
def test_least_squares_refit_the_same(
    loss: str, n_units: int, horizon: int, pair_of: Any, frames_of: Any
) -> None:
    made = LOSSES[loss]()
    pair = pair_of(lambda: squares_of(made, n_units, horizon=horizon, forgetting=0.98))
    n = made.n_targets
    for frame in frames_of(14, LANES, n_targets=n, idle=0.2, unscored=0.2, dtype=torch.float32):
        frame.x_BI[~frame.live_B] = torch.nan
        got, truth = step_without_following(pair, frame)
        torch.testing.assert_close(got.prediction_BP[frame.live_B], truth[frame.live_B])
        covariances_agree(pair)
        pair.follow()


def step_without_following(pair: Any, frame: Frame) -> tuple[Any, Tensor]:
    got = pair.fused.step(frame)
    assert pair.fused._plan is not None
    with loading.switched_off():
        truth = pair.twin.step(frame)
    return got, truth.prediction_BP


def test_outliers_move_a_read_out_no_further_than_their_bound(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(lambda: squares_of(reach=2.0))
    for t, frame in enumerate(frames_of(12, LANES, dtype=torch.float32)):
        if t % 4 == 3:
            frame.y_BQ.mul_(300.0)
        step_without_following(pair, frame)
        covariances_agree(pair)
        pair.follow()


@pytest.mark.parametrize("scale", [3e4, 5e6])
def test_a_covariance_that_winds_up_is_held_the_same_way(
    scale: float, pair_of: Any, frames_of: Any
) -> None:
    """One weight over its limit, and in the last resort all of them."""
    pair = pair_of(lambda: squares_of(n_units=4, forgetting=0.6, prior=0.1))
    features = pair.fused.head.V_PF.shape[1]
    wide = torch.eye(features, dtype=torch.float64) * (1e3 if scale < 1e6 else scale)
    wide[3, 3] = scale
    for learner in (pair.fused, pair.twin):
        learner.head.C_FF.copy_(wide)
    for frame in frames_of(8, LANES, dtype=torch.float32):
        step_without_following(pair, frame)
        # a variance of 1,000 times the roundings of float32 features
        torch.testing.assert_close(pair.fused.head.C_FF, pair.twin.head.C_FF, rtol=2e-4, atol=3e-4)
        assert torch.equal(pair.fused.head.C_FF, pair.fused.head.C_FF.T)
        pair.follow()
    limit = 0.1 * 1e4
    assert float(pair.fused.head.C_FF.diagonal().max()) <= limit * 10 * features


def test_what_is_not_finite_is_not_learned(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(squares_of)
    frames = frames_of(3, LANES, dtype=torch.float32)
    for learner in (pair.fused, pair.twin):
        learner.head.C_FF[0, 0] = math.inf
    before = [pair.fused.head.V_PF.clone(), pair.fused.head.size_P.clone()]
    for frame in frames:
        step_without_following(pair, frame)
        for learner in (pair.fused, pair.twin):
            assert torch.equal(learner.head.V_PF, before[0])
            assert torch.equal(learner.head.size_P, before[1])


def test_a_frozen_read_out_is_not_refitted(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(squares_of)
    for t, frame in enumerate(frames_of(6, LANES, dtype=torch.float32)):
        pair.fused.teaches = pair.twin.teaches = "nothing" if t > 2 else "all"
        before = pair.fused.head.C_FF.clone()
        step_without_following(pair, frame)
        assert torch.equal(pair.fused.head.C_FF, before) == (t > 2)


def test_a_plan_follows_the_settings_of_the_read_out(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(lambda: squares_of(forgetting=0.99))
    for t, frame in enumerate(frames_of(6, LANES, dtype=torch.float32)):
        for learner in (pair.fused, pair.twin):
            learner.head.forgetting = 0.9 if t > 2 else 0.99
        step_without_following(pair, frame)
        covariances_agree(pair)


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("width", [7, 20])
@pytest.mark.parametrize(
    "below",
    [Lru, Rtu, Elstm, lambda i, n, b, g: Rtu(i, n, b, g, "linear")],
    ids=["lru", "rtu", "elstm", "linear"],
)
def test_units_under_a_layer_tick_the_same(
    below: Any, width: int, activation: str, horizon: int, pair_of: Any, frames_of: Any
) -> None:
    pair = pair_of(lambda: stack_of(below, activation, horizon, width=width))
    for frame in frames_of(8, LANES, n_targets=2, idle=0.2, unscored=0.2, dtype=torch.float32):
        frame.x_BI[~frame.live_B] = torch.nan
        pair.step(frame)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("width", [7, 20])
def test_many_lanes_under_a_layer_tick_the_same(
    width: int, activation: str, pair_of: Any, frames_of: Any
) -> None:
    pair = pair_of(lambda: stack_of(Rtu, activation, n_units=20, width=width, n_lanes=11))
    for frame in frames_of(6, 11, n_targets=2, idle=0.3, unscored=0.2, dtype=torch.float32):
        frame.x_BI[~frame.live_B] = torch.nan
        pair.step(frame)


def test_a_layer_does_not_hide_that_the_units_came_apart(pair_of: Any, frames_of: Any) -> None:
    """The largest numbers there are, turned by 45 degrees, are one infinity and no NaN."""

    def turning() -> Learner:
        learner = stack_of()
        decay_N, phase_N, _ = learner.recurrence.parameters()[1]
        decay_N.fill_(-20.0)
        phase_N.fill_(math.log(math.pi / 4))
        return learner

    pair = pair_of(turning)
    for t, frame in enumerate(frames_of(4, LANES, n_targets=2, dtype=torch.float32)):
        if t == 2:
            for learner in (pair.fused, pair.twin):
                state_BKN = learner.recurrence.layers[0].lane_state["s_BKN"]
                state_BKN[1, :, 0] = torch.tensor([3.4e38, -3.4e38])
        got, _ = pair.step(frame)
        assert got.rejected_B.tolist() == [False, t >= 2, False]


def test_traces_that_explode_under_a_layer_restart(pair_of: Any, frames_of: Any) -> None:
    pair = pair_of(stack_of)
    for t, frame in enumerate(frames_of(4, LANES, n_targets=2, dtype=torch.float32)):
        if t == 2:
            for learner in (pair.fused, pair.twin):
                learner.recurrence.layers[0].lane_state["influence_BKQN"][1] = 1e9
        got, _ = pair.step(frame)
        assert got.restarted_B.tolist() == [False, t == 2, False]


def test_deeper_stacks_have_no_plan(kernels: loading.Library, frames_of: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    layers: list[Recurrence] = [Lru(2, 3, LANES, generator), Lru(6, 3, LANES, generator)]
    two = stack_of()
    for stack in (Stack(layers), Stack([*two.recurrence.layers[:1]])):  # type: ignore[attr-defined]
        head = type(two.head)(
            6 if stack.width == 6 else 10, 2, SquaredError(), torch.zeros(1, stack.width + 3)
        )
        learner = Learner(stack, head, Adam(), Adam())
        for frame in frames_of(2, LANES, dtype=torch.float32):
            learner.step(frame)
        assert learner._plan is None


class OtherSgd(Sgd):
    """An update of somebody else's."""


@pytest.mark.parametrize("inner", [Sgd, OtherSgd])
def test_fptt_around_anothers_update_has_no_plan(
    inner: type[Sgd], kernels: loading.Library, frames_of: Any
) -> None:
    learner = squares_of()
    learner.update = Fptt(inner())
    for frame in frames_of(2, LANES, dtype=torch.float32):
        learner.step(frame)
    assert (learner._plan is None) == (inner is OtherSgd)


@pytest.mark.parametrize("lanes", [1, 64], ids=["one stream", "64 streams"])
@pytest.mark.parametrize("readout", [{"kind": "adam"}, {"kind": "rls"}], ids=["adam", "rls"])
@pytest.mark.usefixtures("kernels")
def test_what_is_chosen_by_default_is_computed_natively(
    lanes: int, readout: dict[str, Any], tmp_path: Path
) -> None:
    chosen = app.build(
        {
            "source": {"kind": "jsonl", "path": str(tmp_path / "events.jsonl")},
            "task": {"kind": "forecast", "target": "value", "horizon": 3},
            "learner": {"head_optimizer": readout},
            "lanes": {"key": "sensor", "capacity": lanes},
            "sink": [{"kind": "jsonl", "path": str(tmp_path / "predictions.jsonl")}],
            "state": {"dir": str(tmp_path / "state")},
        }
    )
    words = chosen.engine.learner.execution()[1]
    assert words.endswith("whole ticks")
