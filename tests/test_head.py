"""The read-out and its losses: closed forms equal autograd; unscored lanes teach nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stream_rnn.head import (
    Bernoulli,
    CrossEntropy,
    Gaussian,
    Head,
    Loss,
    Quantile,
    SquaredError,
    initial_readout,
)

LOSSES: dict[str, Loss] = {
    "squared-1": SquaredError(),
    "squared-3": SquaredError(3),
    "median": Quantile(),
    "quantile-0.3": Quantile(2, tau=0.3),
    "gaussian-1": Gaussian(),
    "gaussian-2": Gaussian(2),
    "cross-entropy": CrossEntropy(4),
    "bernoulli-1": Bernoulli(),
    "bernoulli-2": Bernoulli(2),
}


def noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def targets_for(loss: Loss, n_lanes: int) -> Tensor:
    y_BQ = noise(1, n_lanes, loss.n_targets)
    if isinstance(loss, CrossEntropy):
        return torch.arange(n_lanes)[:, None].double() % loss.n_outputs
    return (y_BQ > 0).double() if isinstance(loss, Bernoulli) else y_BQ


@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_is_the_derivative_of_the_loss(name: str) -> None:
    loss = LOSSES[name]
    o_BP = (noise(2, 6, loss.n_outputs) * 2).requires_grad_()
    loss_B, slope_BP = loss.evaluate(o_BP, targets_for(loss, 6))
    (truth,) = torch.autograd.grad(loss_B.sum(), o_BP)
    torch.testing.assert_close(slope_BP, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_one_of_torch(name: str) -> None:
    loss = LOSSES[name]
    o_BP, y_BQ = noise(3, 6, loss.n_outputs), targets_for(loss, 6)
    functional = torch.nn.functional
    if isinstance(loss, SquaredError):
        truth = functional.mse_loss(o_BP, y_BQ, reduction="none").mean(dim=1)
    elif isinstance(loss, Quantile):
        error = y_BQ - o_BP
        truth = 2 * torch.maximum(loss.tau * error, (loss.tau - 1) * error).mean(dim=1)
    elif isinstance(loss, Gaussian):
        mean, log_std = o_BP.chunk(2, dim=1)
        truth = -torch.distributions.Normal(mean, log_std.exp()).log_prob(y_BQ).mean(dim=1)
    elif isinstance(loss, CrossEntropy):
        truth = functional.cross_entropy(o_BP, y_BQ[:, 0].long(), reduction="none")
    else:
        bce = functional.binary_cross_entropy_with_logits(o_BP, y_BQ, reduction="none")
        truth = bce.mean(dim=1)
    torch.testing.assert_close(loss.evaluate(o_BP, y_BQ)[0], truth, rtol=0, atol=1e-12)


def test_a_far_too_confident_gaussian_stays_finite_and_has_no_slope_there() -> None:
    loss = Gaussian()
    o_BP = torch.tensor([[0.5, -50.0], [0.5, 50.0]], dtype=torch.float64)
    loss_B, slope_BP = loss.evaluate(o_BP, torch.zeros(2, 1).double())
    assert loss_B.isfinite().all()
    assert slope_BP.isfinite().all()
    assert not slope_BP[:, 1].any()
    stds = loss.activate(o_BP)[:, 1].tolist()
    assert stds == pytest.approx([math.exp(-7), math.exp(7)])


def test_activation_makes_probabilities_stds_and_nothing_else() -> None:
    o_BP = noise(4, 3, 4)
    torch.testing.assert_close(CrossEntropy(4).activate(o_BP), o_BP.softmax(dim=1))
    torch.testing.assert_close(Bernoulli(4).activate(o_BP), o_BP.sigmoid())
    expected = torch.cat((o_BP[:, :2], o_BP[:, 2:].exp()), dim=1)
    torch.testing.assert_close(Gaussian(2).activate(o_BP), expected)
    assert torch.equal(SquaredError(4).activate(o_BP), o_BP)
    assert torch.equal(Quantile(4).activate(o_BP), o_BP)


@pytest.mark.parametrize("name", LOSSES)
def test_a_lesson_is_the_gradient_of_the_mean_loss_over_the_scored_lanes(name: str) -> None:
    loss = LOSSES[name]
    h_BN, x_BI, y_BQ = noise(5, 4, 3), noise(6, 4, 2), targets_for(loss, 4)
    scored_B = torch.tensor([True, False, True, True])
    head = Head(3, 2, loss, noise(7, loss.n_outputs, 6))
    lesson = head.loss(head.predict(h_BN, x_BI), y_BQ, scored_B)

    V_PF = head.V_PF.clone().requires_grad_()
    h_leaf = h_BN.clone().requires_grad_()
    o_BP = torch.cat((h_leaf, x_BI, torch.ones(4, 1).double()), dim=1) @ V_PF.T
    loss_B, _ = loss.evaluate(o_BP[scored_B], y_BQ[scored_B])
    dV, dh = torch.autograd.grad(loss_B.mean(), [V_PF, h_leaf])
    torch.testing.assert_close(lesson.gradients[0], dV, rtol=0, atol=1e-12)
    torch.testing.assert_close(lesson.dL_dh_BN, dh, rtol=0, atol=1e-12)
    torch.testing.assert_close(lesson.loss_B[scored_B], loss_B.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_an_unscored_lane_may_hold_anything(name: str) -> None:
    loss = LOSSES[name]
    h_BN, x_BI, y_BQ = noise(5, 3, 3), noise(6, 3, 2), targets_for(loss, 3)
    head = Head(3, 2, loss, noise(7, loss.n_outputs, 6))
    scored_B = torch.tensor([True, False, True])
    clean = head.loss(head.predict(h_BN, x_BI), y_BQ, scored_B)
    for rows in (h_BN, x_BI, y_BQ):
        rows[1] = torch.nan
    dirty = head.loss(head.predict(h_BN, x_BI), y_BQ, scored_B)
    assert torch.equal(clean.loss_B, dirty.loss_B)
    assert torch.equal(clean.dL_dh_BN, dirty.dL_dh_BN)
    assert torch.equal(clean.gradients[0], dirty.gradients[0])
    assert not dirty.dL_dh_BN[1].any()
    assert dirty.loss_B[1] == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_scales_loss_and_slope_and_one_changes_no_bit(name: str) -> None:
    loss = LOSSES[name]
    o_BP, y_BQ = noise(2, 4, loss.n_outputs), targets_for(loss, 4)
    plain_B, plain_BP = loss.evaluate(o_BP, y_BQ)
    ones = loss.evaluate_weighted(o_BP, y_BQ, torch.ones(4).double())
    assert torch.equal(ones[0], plain_B)
    assert torch.equal(ones[1], plain_BP)
    if isinstance(loss, CrossEntropy | Bernoulli):
        return
    w_B = torch.tensor([0.0, 0.25, 0.5, 1.0]).double()
    loss_B, slope_BP = loss.evaluate_weighted(o_BP, y_BQ, w_B)
    assert torch.equal(loss_B, plain_B * w_B)
    assert torch.equal(slope_BP, plain_BP * w_B[:, None])


def test_what_the_weight_leaves_of_a_cross_entropy_goes_to_no_preference() -> None:
    """As the authors of FPTT have it: the mean over the classes divides by their number again."""
    o_BP, w_B = noise(2, 3, 4) * 2, torch.tensor([0.0, 0.3, 1.0]).double()
    y_BQ = torch.tensor([[2.0], [0.0], [3.0]]).double()
    uniform_BP = torch.full((3, 4), 1 / 4).double()
    log_p_BP = o_BP.log_softmax(dim=1)
    nll_B = torch.nn.functional.cross_entropy(o_BP, y_BQ[:, 0].long(), reduction="none")
    truth_B = w_B * nll_B + (1 - w_B) * (-uniform_BP * log_p_BP).mean(dim=1)
    loss_B, _ = CrossEntropy(4).evaluate_weighted(o_BP, y_BQ, w_B)
    torch.testing.assert_close(loss_B, truth_B, rtol=0, atol=1e-12)


def test_a_weighted_bernoulli_is_the_weighted_cross_entropy_of_two_classes() -> None:
    logit_B1, w_B = noise(2, 5, 1) * 2, torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).double()
    y_BQ = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]]).double()
    both_BP = torch.cat((torch.zeros_like(logit_B1), logit_B1), dim=1)
    one, other = Bernoulli(), CrossEntropy(2)
    loss_B, slope_BP = one.evaluate_weighted(logit_B1, y_BQ, w_B)
    truth_B, truth_BP = other.evaluate_weighted(both_BP, y_BQ, w_B)
    torch.testing.assert_close(loss_B, truth_B, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope_BP[:, 0], truth_BP[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_weighted_slope_is_the_derivative_of_the_weighted_loss(name: str) -> None:
    loss = LOSSES[name]
    o_BP = (noise(2, 4, loss.n_outputs) * 2).requires_grad_()
    w_B = torch.tensor([0.0, 0.3, 0.7, 1.0]).double()
    loss_B, slope_BP = loss.evaluate_weighted(o_BP, targets_for(loss, 4), w_B)
    (truth,) = torch.autograd.grad(loss_B.sum(), o_BP)
    torch.testing.assert_close(slope_BP, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_do_not_change_by_how_many_lanes_the_mean_divides(name: str) -> None:
    loss = LOSSES[name]
    h_BN, x_BI, y_BQ = noise(5, 4, 3), noise(6, 4, 2), targets_for(loss, 4)
    scored_B, w_B = torch.tensor([True, False, True, True]), torch.tensor([0.5, 0.5, 1.0, 0.1])
    head = Head(3, 2, loss, noise(7, loss.n_outputs, 6))
    o_BP = head.predict(h_BN, x_BI)
    lesson = head.loss(o_BP, y_BQ, scored_B, w_B.double())
    loss_B, slope_BP = loss.evaluate_weighted(o_BP, y_BQ, w_B.double())
    slope_BP[1] = 0
    torch.testing.assert_close(lesson.gradients[0], slope_BP.T @ head.features() / 3)
    torch.testing.assert_close(lesson.loss_B[scored_B], loss_B[scored_B])
    assert lesson.loss_B[1] == 0


def test_a_tick_without_targets_teaches_exact_zeros() -> None:
    head = Head(3, 2, SquaredError(), noise(7, 1, 6))
    o_BP = head.predict(noise(5, 3, 3), noise(6, 3, 2))
    lesson = head.loss(o_BP, torch.full((3, 1), torch.nan), torch.zeros(3, dtype=torch.bool))
    for tensor in (lesson.loss_B, lesson.dL_dh_BN, lesson.gradients[0]):
        assert not tensor.any()


def test_the_readout_starts_as_persistence_where_asked() -> None:
    V_PF = initial_readout(4, 3, SquaredError(2), torch.Generator().manual_seed(0), {0: 2})
    assert V_PF[0, 4:].tolist() == [0, 0, 1, 0]
    assert V_PF[1, 4:].tolist() == [0, 0, 0, 0]
    assert 0 < float(V_PF[:, :4].abs().max()) <= 0.1 / 2


def test_a_loss_before_any_prediction_is_refused() -> None:
    head = Head(2, 1, SquaredError(), torch.zeros(1, 4))
    with pytest.raises(RuntimeError, match=r"a predict\(\) of the same tick must come first"):
        head.loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([True]))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"V: expected \(1, 4\), got \(1, 5\)"):
        Head(2, 1, SquaredError(), torch.zeros(1, 5))
    head = Head(2, 1, SquaredError(), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"'V_PF': expected .*\(1, 4\), got .*\(2, 4\)"):
        head.load_state_dict({"V_PF": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="'V_PF' is missing"):
        head.load_state_dict({})


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.1])
def test_an_impossible_quantile_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="tau must be between 0 and 1"):
        Quantile(tau=tau)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        CrossEntropy(1)
