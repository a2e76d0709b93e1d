"""FPTT on quadratic losses, where all it promises has a closed form. float64.

Loss t is (W - c_t)^T H_t (W - c_t) / 2. Letters as in docs/algorithms.md 8.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from stream_rnn.update import Adam, Fptt, Sgd, Update

YES, NO = torch.tensor(True), torch.tensor(False)
N = 3


class Newton(Update):
    """Solves each step's quadratic problem exactly: W becomes the argmin."""

    def __init__(self, alpha: float) -> None:
        super().__init__(lr=1.0, clip=None)
        self.alpha = alpha
        self.H: Tensor = torch.eye(N, dtype=torch.float64)

    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        return {}

    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        curvature = self.H + self.alpha * torch.eye(N, dtype=torch.float64)
        params[0].sub_(torch.linalg.solve(curvature, grads[0]))


class Quadratics:
    """A cycle of losses, each with its own curvature and minimum."""

    def __init__(self, n: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        roots = torch.randn(n, N, N, generator=generator, dtype=torch.float64)
        self.H = roots @ roots.mT / N + 0.2 * torch.eye(N, dtype=torch.float64)
        self.c = torch.randn(n, N, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.H)

    def gradient(self, t: int, W: Tensor) -> Tensor:
        """Of the loss whose turn it is."""
        i = t % len(self)
        slope: Tensor = self.H[i] @ (W - self.c[i])
        return slope

    def minimum(self) -> Tensor:
        """Of the mean of all losses."""
        moments: Tensor = (self.H @ self.c[..., None]).sum(0)
        solved: Tensor = torch.linalg.solve(self.H.sum(0), moments)
        return solved[:, 0]


def start(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, generator=generator, dtype=torch.float64)


def mean_and_lam(update: Fptt) -> tuple[Tensor, Tensor]:
    state = update.state_dict()
    return state["mean.0"].clone(), state["lam.0"].clone()


@pytest.mark.parametrize("beta", [0.5, 0.3])
def test_at_the_exact_argmin_lambda_is_the_gradient_there(beta: float) -> None:
    losses, inner, alpha = Quadratics(4), Newton(0.7), 0.7
    update, W = Fptt(inner, alpha, beta), start()
    mean = W.clone()
    for t in range(12):
        inner.H = losses.H[t % 4]
        update.step([W], [losses.gradient(t, W)], YES)
        new_mean, lam = mean_and_lam(update)
        torch.testing.assert_close(lam, losses.gradient(t, W), rtol=0, atol=1e-12)
        expected = (1 - beta) * mean + beta * W - beta / alpha * lam
        torch.testing.assert_close(new_mean, expected, rtol=0, atol=1e-12)
        mean = new_mean


def test_at_the_exact_argmin_the_mean_follows_the_gradient_with_rate_half_over_alpha() -> None:
    losses, inner, alpha = Quadratics(4), Newton(0.7), 0.7
    update, W = Fptt(inner, alpha, 0.5), start()
    mean, lam = W.clone(), torch.zeros_like(W)
    for t in range(12):
        inner.H = losses.H[t % 4]
        update.step([W], [losses.gradient(t, W)], YES)
        mean = mean - (losses.gradient(t, W) - lam / 2) / alpha
        lam = losses.gradient(t, W)
        torch.testing.assert_close(mean_and_lam(update)[0], mean, rtol=0, atol=1e-11)


@pytest.mark.parametrize("beta", [0.5, 0.3])
@pytest.mark.parametrize("form", ["argmin", "sgd", "momentum"])
def test_along_the_limit_cycle_the_mean_gradient_is_zero(form: str, beta: float) -> None:
    losses, alpha = Quadratics(3), 0.8
    newton = Newton(alpha)
    momentum = 0.5 if form == "momentum" else 0.0
    inner = newton if form == "argmin" else Sgd(lr=0.1, momentum=momentum, clip=None)
    update, W = Fptt(inner, alpha, beta), start()
    gradients = []
    for t in range(3000):
        newton.H = losses.H[t % 3]
        before = W.clone()
        update.step([W], [losses.gradient(t, W)], YES)
        at = W if form == "argmin" else before
        gradients.append(losses.gradient(t, at))
    last = torch.stack(gradients[-3:])
    assert float(last.norm(dim=1).min()) > 0.1  # no single loss is at rest
    torch.testing.assert_close(last.mean(0), torch.zeros_like(W), rtol=0, atol=1e-12)


def test_the_limit_cycle_nears_the_minimum_of_the_mean_loss_as_one_over_alpha() -> None:
    losses, distances = Quadratics(3), []
    for alpha in (4.0, 8.0, 16.0):
        inner = Newton(alpha)
        update, W, seen = Fptt(inner, alpha), start(), []
        for t in range(1500):
            inner.H = losses.H[t % 3]
            update.step([W], [losses.gradient(t, W)], YES)
            seen.append(W.clone())
        cycle = torch.stack(seen[-3:])
        assert float((cycle[0] - seen[-6]).norm()) < 1e-10
        distances.append(float((cycle.mean(0) - losses.minimum()).norm()))
    for near, far in itertools.pairwise(reversed(distances)):
        assert near / far == pytest.approx(0.5, rel=0.25)


@pytest.mark.parametrize("beta", [0.5, 0.3, 0.7])
@pytest.mark.parametrize(("lr", "alpha"), [(0.1, 0.5), (0.3, 1.0), (0.05, 2.0)])
def test_a_constant_gradient_drifts_as_the_formula_says(
    lr: float, alpha: float, beta: float
) -> None:
    update, W, g = Fptt(Sgd(lr=lr, clip=None), alpha, beta), start(), start(2)
    for _ in range(2000):
        update.step([W], [g], YES)
    before, (mean, lam) = W.clone(), mean_and_lam(update)
    update.step([W], [g], YES)
    pull = lr * alpha * (1 / beta - 1)
    torch.testing.assert_close(W - before, -lr * g / (1 + pull), rtol=1e-9, atol=0)
    force = alpha * (before - mean) - lam
    # the pull is an lr * alpha part of the gradient: nearly inert with plain SGD
    assert float(force.norm() / g.norm()) == pytest.approx(pull / (1 + pull), rel=1e-9)


@pytest.mark.parametrize("make", [lambda: Sgd(lr=0.1), Adam], ids=["sgd", "adam"])
def test_the_minimum_is_a_fixed_point_bitwise(make: Callable[[], Update]) -> None:
    losses = Quadratics(1)
    update, W = Fptt(make()), losses.c[0].clone()
    for t in range(5):
        update.step([W], [losses.gradient(t, W)], YES)
    mean, lam = mean_and_lam(update)
    assert torch.equal(W, losses.c[0])
    assert torch.equal(mean, W)
    assert not lam.any()


def matrix(lr: float, alpha: float, h: float, beta: float = 0.5) -> Tensor:
    """(W, mean, lam) -> after one step of SGD on h W^2 / 2, in closed form."""
    W = torch.tensor([1 - lr * (h + alpha), lr * alpha, lr], dtype=torch.float64)
    mean, lam = torch.eye(3, dtype=torch.float64)[1:]
    lam = lam - alpha * (W - mean)
    mean = (1 - beta) * mean + beta * W - beta / alpha * lam
    return torch.stack((W, mean, lam))


def stepped(lr: float, alpha: float, h: float, beta: float = 0.5) -> Tensor:
    """The same, of the update as it is: the images of the three axes."""
    columns = []
    for axis in torch.eye(3, dtype=torch.float64):
        W, update = axis[:1].clone(), Fptt(Sgd(lr=lr, clip=None), alpha, beta)
        update.load_state_dict([W], {"mean.0": axis[1:2], "lam.0": axis[2:]})
        update.step([W], [h * W], YES)
        columns.append(torch.cat((W, *mean_and_lam(update))))
    return torch.stack(columns, dim=1)


def radius(matrix: Tensor) -> float:
    return float(torch.linalg.eigvals(matrix).abs().max())


GRID = [
    (lr, alpha, share * 1 / lr - alpha)
    for lr, alpha, share in itertools.product([1e-3, 0.05, 0.3, 1.0], [0.1, 0.5], [0.6, 0.9, 1.0])
    if share / lr > alpha
]


@pytest.mark.parametrize(("lr", "alpha", "h"), GRID)
def test_the_step_is_the_matrix_and_stable_where_rate_times_curvature_is_at_most_one(
    lr: float, alpha: float, h: float
) -> None:
    got = stepped(lr, alpha, h)
    torch.testing.assert_close(got, matrix(lr, alpha, h), rtol=1e-12, atol=1e-12)
    assert radius(got) < 1


@pytest.mark.parametrize(
    ("h", "stable", "unstable"), [(1e-3, 1.65, 1.69), (1.0, 0.81, 0.85)], ids=["flat", "curved"]
)
def test_the_first_instability_is_where_it_is_known_to_be(
    h: float, stable: float, unstable: float
) -> None:
    """At lr = 1: alpha about 1.67 where the loss is flat, 0.83 where lr h = 1."""
    assert radius(stepped(1.0, stable, h)) < 1 < radius(stepped(1.0, unstable, h))


def test_around_adam_it_is_adam_on_the_whole_gradient() -> None:
    losses, alpha, beta = Quadratics(3), 0.5, 0.4
    update, W = Fptt(Adam(lr=0.05, clip=None), alpha, beta), start()
    theirs = W.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.05)
    mean, lam = W.clone(), torch.zeros_like(W)
    for t in range(60):
        gradient = losses.gradient(t, W)
        theirs.grad = gradient - lam + alpha * (theirs.detach() - mean)
        optimizer.step()
        lam = lam - alpha * (theirs.detach() - mean)
        mean = (1 - beta) * mean + beta * theirs.detach() - beta / alpha * lam
        update.step([W], [gradient], YES)
        torch.testing.assert_close(W, theirs.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(mean_and_lam(update)[0], mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 0.02])
@pytest.mark.parametrize("beta", [0.5, 0.25, 0.75])
def test_around_adam_a_constant_gradient_moves_w_by_lr_or_by_its_share(
    alpha: float, beta: float
) -> None:
    lr, n = 1e-3, 4000
    pull = alpha * (1 / beta - 1)
    slow = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)  # g, in lr pull
    g = torch.cat((slow, slow.new_tensor([2.0, 20.0]))) * lr * pull
    W, update = torch.zeros_like(g), Fptt(Adam(lr, clip=None, eps=1e-15), alpha, beta)
    for _ in range(n):
        update.step([W], [g], YES)
    half_way = W.clone()
    for _ in range(n):
        update.step([W], [g], YES)
    speed = (half_way - W) / n / lr
    torch.testing.assert_close(speed[3:], torch.ones_like(speed[3:]), rtol=0.01, atol=0)
    # where pull and gradient cancel, and Adam swings about that
    assert (speed[:3] < slow).all()
    assert (speed[:3] > 0.87 * slow).all()


def test_what_is_clipped_is_the_gradient_with_its_pull() -> None:
    update, W = Fptt(Sgd(lr=1.0, clip=1.0), alpha=1e3), torch.zeros(1).double()
    state = {"mean.0": torch.ones(1).double(), "lam.0": torch.zeros(1).double()}
    update.load_state_dict([W], state)
    update.step([W], [torch.full((1,), 3.0).double()], YES)
    assert float(update.report()["gradient_norm"]) == 997.0  # 3 + 1000 (0 - 1)
    assert float(W) == 1.0


def test_it_keeps_the_means_to_evaluate_with_and_tells_the_drift() -> None:
    update, params = Fptt(Sgd(lr=0.1, clip=None), 0.5), [start(1), start(2)]
    assert update.evaluation_weights() == []
    assert Sgd().evaluation_weights() == []
    assert "fptt_drift" not in update.report()
    for t in range(4):
        update.step(params, [start(3 + t), start(9 + t)], YES)
    means = update.evaluation_weights()
    state = update.state_dict()
    assert [torch.equal(a, state[f"mean.{i}"]) for i, a in enumerate(means)] == [True, True]
    gap = torch.cat([p - m for p, m in zip(params, means, strict=True)]).norm()
    assert float(gap) > 0
    assert float(update.report()["fptt_drift"]) == pytest.approx(float(gap), rel=1e-12)
    assert "gradient_norm" in update.report()


def test_a_step_the_inner_update_refuses_moves_nothing() -> None:
    """The loss's own gradient is finite, the pull is not."""
    update, W = Fptt(Sgd(lr=1.0)), torch.zeros(1)
    update.load_state_dict([W], {"mean.0": torch.full((1,), 1e38), "lam.0": torch.zeros(1)})
    update.alpha = 1e3
    before = {name: tensor.clone() for name, tensor in update.state_dict().items()}
    assert not update.step([W], [torch.ones(1)], YES)
    assert not W.any()
    assert all(torch.equal(before[name], tensor) for name, tensor in update.state_dict().items())


def test_the_state_is_nested_and_another_one_is_refused() -> None:
    update, W = Fptt(Adam()), start()
    update.step([W], [start(2)], YES)
    state = update.state_dict()
    assert sorted(state) == ["inner.count", "inner.m.0", "inner.v.0", "lam.0", "mean.0"]
    bare = {name: tensor for name, tensor in state.items() if "inner" not in name}
    with pytest.raises(ValueError, match=r"within 'inner\.', got \[\]"):
        Fptt(Adam()).load_state_dict([W], bare)
    with pytest.raises(ValueError, match="update state: expected"):
        Fptt(Adam()).load_state_dict([W], Adam().state_dict() | {"m.0": W})
    fresh = Fptt(Adam())
    fresh.load_state_dict([W], state)
    fresh.load_state_dict([W], {})
    assert fresh.state_dict() == {}
