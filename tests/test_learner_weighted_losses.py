"""Weights of losses, and weights to predict with, through one online step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stream_rnn.frame import Frame
from stream_rnn.head import Bernoulli, CrossEntropy, Loss, SquaredError
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.update import Adam, Fptt, Sgd, Update

LearnerOf = Callable[..., Learner]
FramesOf = Callable[..., list[Frame]]
LOSSES: dict[str, Loss] = {"squared": SquaredError(), "cross-entropy": CrossEntropy(3)}
FPTT: Callable[[], Update] = lambda: Fptt(Adam(lr=0.05), 0.5)  # noqa: E731


def weighted(frame: Frame, *weights: float) -> Frame:
    return dataclasses.replace(frame, weight_B=torch.tensor(weights, dtype=frame.x_BI.dtype))


def copy_of(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.state_dict().items()}


def different(one: Learner | dict[str, Tensor], other: Learner | dict[str, Tensor]) -> list[str]:
    one = copy_of(one) if isinstance(one, Learner) else one
    other = copy_of(other) if isinstance(other, Learner) else other
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def frames_for(loss: Loss, frames: list[Frame]) -> list[Frame]:
    if isinstance(loss, CrossEntropy):
        return [dataclasses.replace(f, y_BQ=f.y_BQ.abs().floor().clamp(max=2)) for f in frames]
    return frames


@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_one_change_no_bit(
    name: str, horizon: int, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    loss = LOSSES[name]
    plain, other = (learner_of("gru", loss=loss, horizon=horizon) for _ in range(2))
    for frame in frames_for(loss, frames_of(8, idle=0.2, unscored=0.2)):
        plain.step(frame)
        other.step(weighted(frame, 1.0, 1.0))
    assert different(plain, other) == []


def test_a_weight_scales_its_lanes_part_of_the_gradient(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """With SGD the update is linear in the losses: w a + b = (1 - w) b-alone + w (a + b)."""
    (frame,) = frames_of(1)

    def moved(*weights: float) -> list[Tensor]:
        learner = learner_of("gru", update=lambda: Sgd(lr=0.1, clip=None))
        before = [p.clone() for p in learner.parameters()]
        learner.step(weighted(frame, *weights))
        return [p - b for p, b in zip(learner.parameters(), before, strict=True)]

    small = torch.finfo(torch.float64).tiny
    for got, both, alone in zip(moved(0.3, 1.0), moved(1.0, 1.0), moved(small, 1.0), strict=True):
        torch.testing.assert_close(got, 0.3 * both + 0.7 * alone, rtol=1e-10, atol=1e-14)
        assert not torch.equal(both, alone)


def test_a_squared_loss_of_weight_zero_is_an_event_without_target(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    frames = frames_of(6)
    one, other = learner_of("gru"), learner_of("gru")
    for frame in frames:
        outcome = one.step(weighted(frame, 0.0, 0.5))
        scored_B = torch.tensor([False, True])
        other.step(weighted(dataclasses.replace(frame, scored_B=scored_B), 0.5, 0.5))
    assert outcome.learned_B.tolist() == [False, True]
    assert different(one, other) == []


@pytest.mark.parametrize("loss", [CrossEntropy(3), Bernoulli()], ids=["three", "two"])
def test_a_class_of_weight_zero_teaches_to_have_no_preference(
    loss: Loss, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", loss=loss, update=lambda: Adam(lr=0.05))
    (frame,) = frames_of(1)
    frame = dataclasses.replace(frame, y_BQ=torch.zeros(2, 1).double())
    for _ in range(60):
        first = learner.step(weighted(frame, 1.0, 1.0)).prediction_BP
    for _ in range(200):
        last = learner.step(weighted(frame, 0.0, 0.0)).prediction_BP
    fair = 1 / 3 if isinstance(loss, CrossEntropy) else 0.5
    assert float((first - fair).abs().max()) > 0.3
    assert float((last - fair).abs().max()) < 0.02


@pytest.mark.parametrize("bad", [-0.1, 1.5, torch.nan, torch.inf])
def test_an_impossible_weight_rejects_its_lane_and_no_other(
    bad: float, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    frames = frames_of(4)
    one, other = learner_of("gru"), learner_of("gru")
    idle_B = torch.tensor([True, False])
    for frame in frames:
        outcome = one.step(weighted(frame, 0.5, bad))
        other.step(weighted(dataclasses.replace(frame, live_B=idle_B), 0.5, 1.0))
        assert outcome.rejected_B.tolist() == [False, True]
    assert different(one, other) == []


@pytest.mark.parametrize("name", LOSSES)
def test_the_weight_of_a_lane_without_event_or_target_may_be_anything(
    name: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    loss = LOSSES[name]
    clean, dirty = learner_of("gru", loss=loss), learner_of("gru", loss=loss)
    for t, frame in enumerate(frames_for(loss, frames_of(6))):
        one_B = torch.tensor([True, False])
        absent = {"live_B": one_B} if t % 2 else {"scored_B": one_B}
        frame = dataclasses.replace(frame, **absent)  # noqa: PLW2901
        clean.step(weighted(frame, 0.5, 1.0))
        outcome = dirty.step(weighted(frame, 0.5, torch.nan))
        assert not outcome.rejected_B.any()
    assert different(clean, dirty) == []


def test_a_readout_that_owns_its_update_refuses_weights(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    plain = learner_of("gru")
    head = LeastSquaresHead(3, 2, SquaredError(), plain.head.V_PF)
    learner = Learner(plain.recurrence, head, plain.update, Sgd())
    with pytest.raises(ValueError, match="takes no loss weights"):
        learner.step(weighted(frames_of(1)[0], 1.0, 1.0))


# Evaluation weights ---------------------------------------------------------------------------


def test_inside_predictions_are_made_with_the_running_means(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    frames = frames_of(9)
    learner = learner_of("gru", update=FPTT)
    for frame in frames[:8]:
        learner.step(frame)
    judge = learner_of("gru", update=FPTT)
    judge.load_state_dict(copy_of(learner))
    judge.teaches = "nothing"
    averaged = [*judge.update.evaluation_weights(), *judge.head_update.evaluation_weights()]
    for param, mean in zip(judge.parameters(), averaged, strict=True):
        assert not torch.equal(param, mean)
        param.copy_(mean)
    truth = judge.step(frames[8]).prediction_BP
    with learner.evaluation_weights():
        assert torch.equal(learner.step(frames[8]).prediction_BP, truth)


@pytest.mark.parametrize("error", [None, KeyError])
def test_on_leaving_everything_that_was_learned_is_as_it_was(
    error: type[Exception] | None, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    frames = frames_of(9)
    learner = learner_of("gru", update=FPTT)
    for frame in frames[:6]:
        learner.step(frame)
    before = copy_of(learner)
    try:
        with learner.evaluation_weights():
            for frame in frames[6:]:
                learner.step(frame)
            if error is not None:
                raise error
    except KeyError:
        pass
    learned = ("recurrence.W_ZM", "head.", "update.", "head_update.")
    assert not [name for name in different(before, learner) if name.startswith(learned)]
    assert learner.teaches == "all"
    assert learner.step(frames[0]).updated


@pytest.mark.parametrize("update", [Adam, FPTT], ids=["none kept", "none yet"])
def test_without_running_means_predictions_are_as_ever(
    update: Callable[[], Update], learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    (frame,) = frames_of(1)
    learner, other = (learner_of("gru", update=update) for _ in range(2))
    other.teaches = "nothing"
    with learner.evaluation_weights():
        got = learner.step(frame).prediction_BP
    assert torch.equal(got, other.step(frame).prediction_BP)
