"""Element-wise recurrences keep the contract: lanes, reset, bad credit, resuming, size, cost."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence.elstm import Elstm
from stream_rnn.recurrence.lru import Lru
from stream_rnn.recurrence.rtu import Rtu
from stream_rnn.update import Adam

EVERYBODY = torch.tensor([True, True, True])
Make = Callable[..., Any]


def lane_of(net: Any, lane: int) -> dict[str, Tensor]:
    return {name: state[lane].clone() for name, state in net.lane_state.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, state in one.items():
        assert torch.equal(state, other[name]), name


def warmed_up(make: Make, kind: str, n_ticks: int = 6) -> Any:
    net = make(kind)
    for t in range(n_ticks):
        x_BI = torch.full((3, 3), math.sin(t + 1.0), dtype=torch.float64)
        net.forward(x_BI, EVERYBODY)
        net.learn(torch.ones(3, net.width, dtype=torch.float64), EVERYBODY)
        net.roll(x_BI, EVERYBODY)
    return net


def tick(net: Any, seed: int = 7, live_B: Tensor = EVERYBODY) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BI = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    q_BN = torch.randn(3, net.width, generator=generator, dtype=torch.float64)
    net.forward(x_BI, live_B)
    gradients, dL_dx_BI = net.learn(q_BN, live_B)
    return gradients, dL_dx_BI


def test_an_idle_lane_keeps_every_tensor_bitwise_and_its_rows_harm_nobody(
    kind: str, make: Make
) -> None:
    net = warmed_up(make, kind)
    net.lane_state["influence_BKQN"][1, 0, 0, 0] = math.nan  # whatever it holds
    live_B = torch.tensor([True, False, True])
    x_BI = torch.ones(3, 3, dtype=torch.float64)
    q_BN = torch.ones(3, net.width, dtype=torch.float64)
    x_BI[1], q_BN[1] = math.nan, math.nan
    bits = {name: state[1].view(torch.int64).clone() for name, state in net.lane_state.items()}
    net.forward(x_BI, live_B)
    gradients, dL_dx_BI = net.learn(q_BN, live_B)
    net.roll(x_BI, live_B)
    for name, state in net.lane_state.items():
        assert torch.equal(state[1].view(torch.int64), bits[name]), name
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert dL_dx_BI[live_B].isfinite().all()
    assert net.healthy().tolist() == [True, True, True]
    assert net.report()["influence_norm"].isfinite()


def test_lanes_know_nothing_of_each_other(kind: str, make: Make) -> None:
    net, other = warmed_up(make, kind), warmed_up(make, kind)
    for t in range(5):
        generator = torch.Generator().manual_seed(t)
        x_BI = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        q_BN = torch.randn(3, net.width, generator=generator, dtype=torch.float64)
        for which, factor in ((net, 1.0), (other, -3.0)):
            factors_B1 = torch.tensor([[1.0], [factor], [1.0]], dtype=torch.float64)
            which.forward(x_BI * factors_B1, EVERYBODY)
            which.learn(q_BN * factors_B1, EVERYBODY)
    for lane in (0, 2):
        assert_same(lane_of(net, lane), lane_of(other, lane))
    assert not torch.equal(net.lane_state["s_BKN"][1], other.lane_state["s_BKN"][1])


def test_a_reset_in_the_middle_touches_only_its_lane(kind: str, make: Make) -> None:
    net = warmed_up(make, kind)
    others = {lane: lane_of(net, lane) for lane in (0, 2)}
    net.reset(torch.tensor([False, True, False]))
    for lane, before in others.items():
        assert_same(before, lane_of(net, lane))
    fresh = make(kind)
    assert_same(lane_of(net, 1), lane_of(fresh, 1))
    tick(net)
    tick(fresh)
    assert_same(
        {k: v for k, v in lane_of(net, 1).items() if k != "ahead_BKN"},
        {k: v for k, v in lane_of(fresh, 1).items() if k != "ahead_BKN"},
    )


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_unsound_traces_restart_their_lane_and_cost_the_others_nothing(
    kind: str, poison: float, make: Make
) -> None:
    net, sound = warmed_up(make, kind), warmed_up(make, kind)
    net.lane_state["influence_BKQN"][0, ..., 0] = poison
    without_it = warmed_up(make, kind)
    gradients, _ = tick(net)
    tick(sound)
    # the gradient is what the others alone would give
    truth, _ = tick(without_it, live_B=torch.tensor([False, True, True]))
    for got, without in zip(gradients, truth, strict=True):
        assert torch.equal(got, without)
    assert net.healthy().tolist() == [False, True, True]
    for lane in (1, 2):
        assert_same(lane_of(net, lane), lane_of(sound, lane))
    assert not net.lane_state["influence_BKQN"][0].any()
    # the event is innocent: the hidden state goes on
    assert torch.equal(net.lane_state["s_BKN"], sound.lane_state["s_BKN"])
    tick(net)
    assert net.healthy().tolist() == [True, True, True]


@pytest.mark.parametrize("slope", [math.nan, math.inf, 1e20])
def test_an_unsound_gradient_restarts_its_lane(kind: str, slope: float, make: Make) -> None:
    net = warmed_up(make, kind)
    x_BI = torch.ones(3, 3, dtype=torch.float64)
    q_BN = torch.ones(3, net.width, dtype=torch.float64)
    q_BN[2] = slope
    net.forward(x_BI, EVERYBODY)
    gradients, _ = net.learn(q_BN, EVERYBODY)
    assert net.healthy().tolist() == [True, True, False]
    assert all(float(gradient.abs().max()) < 1e3 for gradient in gradients)
    assert not net.lane_state["influence_BKQN"][2].any()
    assert net.lane_state["influence_BKQN"][:2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_absurd_input_leaves_no_lasting_harm(kind: str, dtype: torch.dtype, make: Make) -> None:
    net = make(kind, dtype=dtype)
    for size in (1.0, 1e20, *[1.0] * 5):
        x_BI = torch.full((3, 3), size, dtype=dtype)
        x_BI[1:] = 1.0
        net.forward(x_BI, EVERYBODY)
        gradients, _ = net.learn(torch.ones(3, net.width, dtype=dtype), EVERYBODY)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert net.healthy().tolist()[1:] == [True, True]
        assert all(state.isfinite().all() for state in net.lane_state.values())
    net.reset(torch.tensor([True, False, False]))
    net.forward(x_BI, EVERYBODY)
    net.learn(torch.ones(3, net.width, dtype=dtype), EVERYBODY)
    assert net.healthy().all()


@pytest.mark.parametrize("logarithm", [-110.0, -60.0, -20.0, 5.0, 200.0])
def test_a_decay_learned_to_an_extreme_stays_finite(
    kind: str, logarithm: float, make: Make
) -> None:
    """In float32: exp(-110) is 0, and a memory without end; exp(200) is infinite."""
    net = make(kind, dtype=torch.float32)
    if kind == "elstm":
        net.parameters()[0][0, :, -1] = logarithm
    else:
        net.parameters()[1][0] = logarithm
    x_BI = torch.ones(3, 3)
    for _ in range(5):
        h_BN = net.forward(x_BI, EVERYBODY)
        gradients, _ = net.learn(torch.ones(3, net.width), EVERYBODY)
        assert h_BN.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert net.healthy().all()


def test_resuming_is_bit_exact(kind: str, make: Make) -> None:
    net, resumed = warmed_up(make, kind), make(kind, seed=99)
    resumed.load_state_dict({name: t.clone() for name, t in net.state_dict().items()})
    for t in range(4):
        for one, other in zip(tick(net, t)[0], tick(resumed, t)[0], strict=True):
            assert torch.equal(one, other)
        x_BI = torch.full((3, 3), float(t), dtype=torch.float64)
        assert torch.equal(net.roll(x_BI, EVERYBODY), resumed.roll(x_BI, EVERYBODY))
    assert_same(net.state_dict(), resumed.state_dict())


def test_a_state_with_a_gap_is_refused_by_name(kind: str, make: Make) -> None:
    net = make(kind)
    for name in net.state_dict():
        rest = {key: t for key, t in net.state_dict().items() if key != name}
        with pytest.raises(ValueError, match=re.escape(f"state {name!r} is missing")):
            make(kind).load_state_dict(rest)


def test_nothing_grows_with_time_and_traces_are_real(kind: str, make: Make) -> None:
    net = make(kind)
    shapes = {name: state.shape for name, state in net.state_dict().items()}
    assert all(len(state) == 3 and not state.any() for state in net.lane_state.values())
    for t in range(50):
        tick(net, t)
    assert {name: state.shape for name, state in net.state_dict().items()} == shapes
    assert all(state.dtype == torch.float64 for state in net.state_dict().values())


def test_the_second_state_rolls_like_the_first_and_is_not_learned_from(
    kind: str, make: Make
) -> None:
    net, still = make(kind), make(kind)
    x_BI = torch.ones(3, 3, dtype=torch.float64)
    for _ in range(3):
        h_BN = net.forward(x_BI, EVERYBODY)
        assert torch.equal(net.roll(x_BI, EVERYBODY), h_BN)
        net.learn(torch.zeros_like(h_BN), EVERYBODY)
        still.roll(x_BI, EVERYBODY)
    assert not still.lane_state["influence_BKQN"].any()
    assert not still.lane_state["s_BKN"].any()


def test_learning_without_a_forward_pass_is_refused(kind: str, make: Make) -> None:
    net = warmed_up(make, kind)
    with pytest.raises(RuntimeError, match=r"needs a forward\(\)"):
        net.learn(torch.zeros(3, net.width, dtype=torch.float64), EVERYBODY)


# --- inside the learner ---------------------------------------------------------------------------

BANNED = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"}
BANNED |= {"aten::lift_fresh", "aten::equal"}


class Watched(TorchDispatchMode):
    """Raises where a step would wait for the device; counts multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.n_multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        assert name not in BANNED, f"{name} synchronizes host and device"
        result = func(*args, **(kwargs or {}))
        if name in ("aten::mm", "aten::bmm"):
            self.n_multiply_adds += result.numel() * args[0].shape[-1]
        elif name in ("aten::mul", "aten::mul_", "aten::addcmul", "aten::addcmul_", "aten::lerp"):
            self.n_multiply_adds += result.numel()
        elif name == "aten::linalg_vector_norm":
            self.n_multiply_adds += args[0].numel()
        return result


def learner_of(net: Any, horizon: int) -> Learner:
    loss = SquaredError()
    V_PF = initial_readout(net.width, net.n_inputs, loss, torch.Generator().manual_seed(3)) * 10
    head = Head(net.width, net.n_inputs, loss, V_PF)
    return Learner(net, head, Adam(), Adam(), horizon)


@pytest.mark.parametrize("horizon", [0, 2])
def test_a_learner_steps_with_it_and_never_asks_the_device(
    kind: str, horizon: int, make: Make, frames_of: Callable[..., Any]
) -> None:
    net = make(kind)
    learner = learner_of(net, horizon)
    start = [p.clone() for p in net.parameters()]
    frames = frames_of(6, n_lanes=3, n_inputs=3, idle=0.2, unscored=0.2)
    for frame in frames[:3]:
        learner.step(frame)
    with Watched():
        for frame in frames[3:]:
            outcome = learner.step(frame)
    assert outcome.prediction_BP.isfinite().all()
    assert not outcome.restarted_B.any()
    assert "influence_norm" in learner.report()
    for parameter, before in zip(net.parameters(), start, strict=True):
        assert not torch.equal(parameter, before)


@pytest.mark.parametrize("n_inputs", [8, 64])
def test_learning_costs_a_constant_times_the_forward_pass(
    kind: str, n_inputs: int, make: Make
) -> None:
    n_units, n_lanes = 16, 4
    net = make(kind, n_inputs=n_inputs, n_units=n_units, n_lanes=n_lanes)
    x_BI = torch.ones(n_lanes, n_inputs, dtype=torch.float64)
    live_B = torch.ones(n_lanes, dtype=torch.bool)
    with Watched() as forward:
        h_BN = net.forward(x_BI, live_B)
    with Watched() as learning:
        net.learn(torch.ones_like(h_BN), live_B)
    # all kinds but the eLSTM have two rows of input weights per unit; it has two gates
    assert forward.n_multiply_adds >= 2 * n_inputs * n_units * n_lanes
    limit = {"lru": 8, "rtu-linear": 8, "rtu-tanh": 12, "rtu-relu": 12, "elstm": 6}[kind]
    assert learning.n_multiply_adds <= limit * forward.n_multiply_adds


# --- where they start -----------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_start_in_every_dtype() -> None:
    for build in (Lru, Rtu, Elstm):
        wide, narrow = (
            build(3, 5, 2, torch.Generator().manual_seed(4), dtype=dtype)
            for dtype in (torch.float64, torch.float32)
        )
        for one, other in zip(wide.parameters(), narrow.parameters(), strict=True):
            assert torch.equal(one.float(), other)


@pytest.mark.parametrize("build", [Lru, Rtu])
def test_decays_and_phases_start_inside_the_ring(build: Any) -> None:
    net = build(1, 4000, 1, torch.Generator().manual_seed(0), r_min=0.6, r_max=0.9, max_phase=1.0)
    r_N = torch.exp(-net.dynamics_PN[0].exp())
    assert 0.6 - 1e-6 <= float(r_N.min()) < 0.61
    assert 0.89 < float(r_N.max()) <= 0.9 + 1e-6
    # even in area: a 3-sigma interval of the mean of r^2
    middle, width = (0.6**2 + 0.9**2) / 2, 0.9**2 - 0.6**2
    assert float((r_N**2).mean()) == pytest.approx(middle, abs=3 * width / math.sqrt(12 * 4000))
    phase_N = net.dynamics_PN[1].exp()
    assert 0.0 < float(phase_N.min()) < 0.01
    assert 0.99 < float(phase_N.max()) <= 1.0 + 1e-6


@pytest.mark.parametrize("build", [Lru, lambda *args: Rtu(*args, activation="linear")])
def test_noise_of_unit_variance_gives_a_state_of_unit_variance(build: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    net = build(8, 64, 200, generator)
    live_B = torch.ones(200, dtype=torch.bool)
    for _ in range(60):
        h_BN = net.forward(torch.randn(200, 8, generator=generator), live_B)
        net.learn(torch.zeros_like(h_BN), live_B)
    # [Re, Im] together; the longest memories have not filled yet
    size = float(2 * h_BN.square().mean())
    assert 0.75 < size < 1.15


def test_the_elstm_starts_with_memories_of_every_length() -> None:
    net = Elstm(1, 2000, 1, torch.Generator().manual_seed(0), max_memory=50.0)
    memory_N = 1 / (1 - torch.sigmoid(net.W_GNU[0, :, -1]))
    assert 2 - 1e-3 <= float(memory_N.min()) < 2.5
    assert 49 < float(memory_N.max()) <= 50 + 1e-3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g: Lru(0, 1, 1, g), "n_inputs must be at least 1, got 0"),
        (lambda g: Rtu(1, 0, 1, g), "n_units must be at least 1, got 0"),
        (lambda g: Elstm(1, 1, 0, g), "n_lanes must be at least 1, got 0"),
        (lambda g: Lru(1, 1, 1, g, r_min=0.9, r_max=0.5), "expected 0 <= r_min < r_max <= 1"),
        (lambda g: Lru(1, 1, 1, g, r_max=1.5), "expected 0 <= r_min < r_max <= 1"),
        (
            lambda g: Rtu(1, 1, 1, g, max_phase=0.0),
            "max_phase must be in (0, 2 pi], radians per event, got 0.0",
        ),
        (lambda g: Rtu(1, 1, 1, g, activation="gelu"), "expected one of linear, tanh, relu"),
        (lambda g: Elstm(1, 1, 1, g, max_memory=1.0), "max_memory must be from 2"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_came(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(torch.Generator())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_what_a_cpu_learns_without_waiting_for_the_host(
    kind: str,
    make: Make,
    stream_for: Callable[..., Any],
    never_waiting: Callable[[], AbstractContextManager[None]],
) -> None:
    cpu, gpu = make(kind), make(kind, device="cuda")
    stream = stream_for(cpu)
    x_TBI, q_TBN, live_TB = (t.cuda() for t in (stream.x_TBI, stream.q_TBN, stream.live_TB))
    for t in range(len(stream)):
        truth, _, _ = stream.learn(cpu, t)
        with nullcontext() if t < 2 else never_waiting():
            gpu.forward(x_TBI[t], live_TB[t])
            gradients, _ = gpu.learn(q_TBN[t], live_TB[t])
        for got, expected in zip(gradients, truth, strict=True):
            torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-10)
