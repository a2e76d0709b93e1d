"""ObGD never overshoots: what its bounds promise of a linear prediction, and what they need.

Letters as in docs/algorithms.md 8.4: features f, kappa, the gradient g. float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.head import Bernoulli, CrossEntropy, Head, Loss, SquaredError
from stream_rnn.update import Obgd, Sgd

YES = torch.tensor(True)
KAPPAS = [1.0, 2.0, 5.0]
SIZES = [10.0**decade for decade in range(-6, 4)]  # of errors; targets have a deviation of 1


def noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def features(seed: int, n: int, largest: float) -> Tensor:
    """(n,), the last one being the constant 1 of a bias; few large ones or many, by the seed."""
    f = noise(seed, n) ** (1 + 2 * (seed % 3))
    return torch.cat((f / f.abs().max() * largest, torch.ones(1, dtype=torch.float64)))


class OneEvent:
    """A read-out that meets one event, and meets it again once it has learned."""

    def __init__(self, loss: Loss, f: Tensor, y_Q: Tensor, seed: int = 0) -> None:
        self.V_PF = noise(seed, loss.n_outputs, len(f)) * 0.3
        self.head = Head(1, len(f) - 2, loss, self.V_PF)
        self.h_BN, self.x_BI, self.y_BQ = f[None, :1], f[None, 1:-1], y_Q[None]

    def meet(self) -> tuple[Tensor, float, list[Tensor]]:
        """Outputs, loss and the read-out's gradient."""
        o_BP = self.head.predict(self.h_BN, self.x_BI)
        lesson = self.head.loss(o_BP, self.y_BQ, torch.tensor([True]))
        return o_BP[0], float(lesson.loss_B[0]), lesson.gradients


def shares(update: Obgd, f: Tensor, errors_Q: Tensor) -> Tensor:
    """Which share of each error one step takes away: above 1 it overshoots."""
    y_Q = noise(1, len(errors_Q))
    event = OneEvent(SquaredError(len(y_Q)), f, y_Q)
    outputs, _, _ = event.meet()
    event.y_BQ = (outputs - errors_Q)[None]
    _, _, gradients = event.meet()
    update.step([event.V_PF], gradients, YES)
    moved = outputs - event.meet()[0]
    return moved / errors_Q


@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_no_output_passes_its_target_while_features_are_below_kappa(
    kappa: float, n_targets: int
) -> None:
    for seed in range(60):
        size = SIZES[seed % len(SIZES)]
        f = features(seed, (1, 3, 20, 200)[seed % 4], kappa)
        taken = shares(Obgd(lr=1e3, kappa=kappa), f, noise(seed, n_targets) * size)
        assert (taken > 0).all()
        assert (taken <= 1 + 1e-9).all()


def test_with_larger_features_it_overshoots() -> None:
    """So the bound on the features is needed, and the test above can fail."""
    errors = [noise(seed, 1) * 0.1 for seed in range(60)]
    taken = [shares(Obgd(kappa=2.0), features(s, 3, 6.0), e) for s, e in enumerate(errors)]
    assert max(float(each) for each in taken) > 2


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("size", [1e-6, 0.3, 1.0])
@pytest.mark.parametrize("kappa", KAPPAS)
def test_no_longer_step_would_do(kappa: float, size: float, n: int) -> None:
    """All features of size kappa: the target is hit, so that any longer step would pass it."""
    w, f = torch.zeros(n, dtype=torch.float64), noise(0, n).sign() * kappa
    Obgd(lr=1e9, kappa=kappa).step([w], [2 * (w @ f - size) * f], YES)
    assert float(w @ f) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_no_event_moves_a_prediction_by_more_than_one(kappa: float) -> None:
    """However far off the target is: the sum of all steps' sizes is at most 1 / kappa."""
    params = [torch.zeros(4, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)]
    Obgd(kappa=kappa).step(params, [noise(1, 4, 5) * 1e9, noise(2, 3) * 1e9], YES)
    moved = sum(float(param.abs().sum()) for param in params)
    assert moved == pytest.approx(1 / kappa, rel=1e-12)
    taken = shares(Obgd(kappa=kappa), features(0, 20, kappa), torch.tensor([1e6]).double())
    assert 0 < float(taken) * 1e6 <= 1


def test_lanes_move_no_further_than_their_mean_error() -> None:
    """The gradient is that of the mean loss over the lanes."""
    for seed in range(30):
        f_BF = torch.stack([features(100 * seed + b, 6, 2.0) for b in range(5)])
        V_PF, errors_B1 = noise(seed, 1, 7), noise(seed + 1, 5, 1) * 0.2
        head = Head(3, 3, SquaredError(), V_PF)
        before = head.predict(f_BF[:, :3], f_BF[:, 3:-1])
        lesson = head.loss(before, before - errors_B1, torch.ones(5, dtype=torch.bool))
        Obgd().step([V_PF], lesson.gradients, YES)
        moved = head.predict(f_BF[:, :3], f_BF[:, 3:-1]) - before
        assert 0 < float(moved.abs().max()) <= float(errors_B1.abs().mean()) * (1 + 1e-12)


@pytest.mark.parametrize("loss", [SquaredError(2), Bernoulli(2), CrossEntropy(3)])
def test_the_loss_of_the_event_falls_where_the_loss_has_a_bounded_curvature(loss: Loss) -> None:
    for seed in range(60):
        f = features(seed, (1, 3, 20, 200)[seed % 4], 2.0)
        y_Q = (noise(seed, loss.n_targets) > 0).double()
        event = OneEvent(loss, f, y_Q, seed)
        _, before, gradients = event.meet()
        Obgd(lr=1e3).step([event.V_PF], gradients, YES)
        assert event.meet()[1] < before or before < 1e-12  # there is rounding


def test_a_small_rate_is_that_of_plain_descent() -> None:
    ours, theirs, grads = [noise(0, 5)], [noise(0, 5)], [noise(1, 5)]
    Obgd(lr=1e-4).step(ours, grads, YES)
    Sgd(lr=1e-4, clip=None).step(theirs, grads, YES)
    assert torch.equal(ours[0], theirs[0])


def test_a_gradient_of_zero_moves_nothing() -> None:
    param, before = noise(0, 5), noise(0, 5)
    assert Obgd().step([param], [torch.zeros(5).double()], YES)
    assert torch.equal(param, before)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_a_linear_target_is_learned_without_a_rate_to_choose(scale: float) -> None:
    """Features of very different sizes, as long as none is above kappa."""
    truth, w = noise(0, 8), torch.zeros(8, dtype=torch.float64)
    inputs = noise(1, 4000, 8).clamp(-2, 2)
    inputs[:, 4:] *= 0.3
    update, errors = Obgd(), []
    for f in inputs:
        error = w @ f - scale * (truth @ f)
        update.step([w], [2 * error * f], YES)
        errors.append(float(error.abs()))
    assert max(errors[-100:]) < 1e-6 * max(errors[:100])
