"""One online step: what is learned is the gradient of the mean loss, and by whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.credit import RULES, Tbptt
from stream_rnn.frame import Frame
from stream_rnn.head import SquaredError
from stream_rnn.learner import Learner
from stream_rnn.update import Adam, Sgd

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


@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_an_idle_lane_keeps_every_tensor(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of(kind, resolved(rule), n_lanes=3)
    frames = frames_of(5, n_lanes=3)
    for frame in frames[:4]:  # 4: a locked window owes one loss, and does not pay at the fifth
        learner.step(frame)
    before = lane_of(learner, 2)
    learner.step(without_lane(frames[4], 2))
    assert_same(before, lane_of(learner, 2))


@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_reset_forgets_its_lane_and_touches_nothing_else(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of(kind, resolved(rule), n_lanes=3, horizon=2)
    for frame in frames_of(7, n_lanes=3):
        learner.step(frame)
    state, others = copy_of(learner), [lane_of(learner, lane) for lane in (0, 2)]
    learner.reset(torch.tensor([False, True, False]))
    assert not any(tensor.any() for tensor in lane_of(learner, 1).values())
    for lane, before in zip((0, 2), others, strict=True):
        assert_same(before, lane_of(learner, lane))
    per_lane = {id(tensor) for tensor in learner.lane_state.values()}
    shared = {k: v for k, v in learner.state_dict().items() if id(v) not in per_lane}
    assert_same(shared, {name: state[name] for name in shared})


def test_a_frozen_learner_predicts_and_learns_nothing(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", "ok")
    frames = frames_of(6)
    for frame in frames[:3]:
        learner.step(frame)
    learner.teaches = "nothing"
    parameters = [parameter.clone() for parameter in learner.parameters()]
    s_BS = learner.lane_state["s_BS"].clone()
    for frame in frames[3:]:
        outcome = learner.step(frame)
        assert not outcome.updated
        assert outcome.prediction_BP.isfinite().all()
        assert (outcome.loss_B > 0).all()
    assert all(torch.equal(a, b) for a, b in zip(parameters, learner.parameters(), strict=True))
    assert not torch.equal(s_BS, learner.lane_state["s_BS"])


def test_what_a_locked_window_owed_when_it_paid_frozen_is_not_owed_any_more(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", resolved("locked"))
    frames = frames_of(3)
    learner.step(frames[0])
    learner.teaches = "nothing"
    for frame in frames[1:]:
        learner.step(frame)  # the third pays, into nothing
    learner.teaches = "all"
    before = copy_of(learner)
    for frame in frames_of(3, unscored=1.0):
        assert not learner.step(frame).updated
    after = learner.state_dict()
    assert torch.equal(before["recurrence.W_ZM"], after["recurrence.W_ZM"])


def test_an_event_without_target_updates_nothing(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", "rtrl")
    learner.step(frames_of(1)[0])
    before = copy_of(learner)
    outcome = learner.step(frames_of(1, unscored=1.0)[0])
    assert not outcome.updated
    assert not outcome.loss_B.any()
    after = copy_of(learner)
    shared = ("recurrence.W_ZM", "head.V_PF", "update.", "head_update.")
    assert_same(
        *({k: v for k, v in state.items() if k.startswith(shared)} for state in (before, after))
    )
    assert not torch.equal(before["recurrence.s_BS"], after["recurrence.s_BS"])


def test_a_locked_window_updates_the_readout_at_every_tick_and_w_when_it_pays(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", resolved("locked"))
    for t, frame in enumerate(frames_of(9)):
        (W_ZM, V_PF) = (parameter.clone() for parameter in learner.parameters())
        outcome = learner.step(frame)
        pays = t % 3 == 2
        assert (outcome.updated is not None) == pays
        assert torch.equal(W_ZM, learner.parameters()[0]) != pays
        assert not torch.equal(V_PF, learner.parameters()[1])


@pytest.mark.parametrize("kind", CELLS)
def test_the_update_is_the_gradient_of_the_mean_loss_through_the_whole_net(
    kind: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """Central differences of the replayed stream, three lanes, one of them unscored at last."""
    frames = frames_of(6, n_lanes=3, n_targets=2)
    frames[-1] = dataclasses.replace(frames[-1], scored_B=torch.tensor([True, False, True]))

    def fresh() -> Learner:
        plain = {"loss": SquaredError(2), "update": lambda: Sgd(lr=1.0, clip=None)}
        return learner_of(kind, "rtrl", n_lanes=3, **plain)

    def loss_with(directions: list[Tensor], eps: float) -> float:
        learner = fresh()
        learner.teaches = "nothing"
        for parameter, direction in zip(learner.parameters(), directions, strict=True):
            parameter.add_(direction, alpha=eps)
        outcomes = [learner.step(frame) for frame in frames]
        return float(outcomes[-1].loss_B.sum() / 2)

    learner = fresh()
    learner.teaches = "nothing"
    for frame in frames[:-1]:
        learner.step(frame)
    learner.teaches = "all"
    before = [parameter.clone() for parameter in learner.parameters()]
    learner.step(frames[-1])
    gradients = [b - p for b, p in zip(before, learner.parameters(), strict=True)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        directions = [torch.randn(p.shape, generator=generator).double() for p in before]
        if (mask_ZM := learner.recurrence.cell.mask_ZM) is not None:
            directions[0] = torch.where(mask_ZM, directions[0], 0.0)
        slope = (loss_with(directions, 1e-5) - loss_with(directions, -1e-5)) / 2e-5
        product = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        assert product == pytest.approx(slope, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("kind", "rule"), EVERY_PAIR)
def test_metrics_may_be_read_at_any_time(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of(kind, resolved(rule))
    assert learner.report() == {}
    for frame in frames_of(3):
        learner.step(frame)
    report = learner.report()
    assert report["gradient_norm"] > 0
    assert all(isinstance(value, float) for value in report.values())


def test_senseless_parts_are_refused(learner_of: LearnerOf) -> None:
    learner = learner_of("tanh")
    recurrence, head, update = learner.recurrence, learner.head, learner.update
    with pytest.raises(ValueError, match="an update object each"):
        Learner(recurrence, head, update, update)
    with pytest.raises(ValueError, match="horizon must not be negative, got -1"):
        Learner(recurrence, head, update, Adam(), horizon=-1)


def test_a_state_of_another_shape_is_refused_by_name(learner_of: LearnerOf) -> None:
    state = learner_of("gru").state_dict()
    with pytest.raises(ValueError, match=r"state '\w+': expected"):
        learner_of("gru", n_units=4).load_state_dict(state)
    del state["recurrence.s_BS"]
    with pytest.raises(ValueError, match="state 's_BS' is missing"):
        learner_of("gru").load_state_dict(state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_report_tells_the_memory_it_takes(learner_of: Callable[..., Learner]) -> None:
    on_gpu = learner_of("tanh", device="cuda").report()["device_memory_bytes"]
    assert on_gpu >= sum(4 * p.numel() for p in learner_of("tanh").parameters())


def test_on_a_cpu_no_device_memory_is_made_up(learner_of: Callable[..., Learner]) -> None:
    assert "device_memory_bytes" not in learner_of("tanh").report()
