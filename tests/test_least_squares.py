"""The read-out that owns its update: recursive least squares beside its closed form. float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.head import Bernoulli, CrossEntropy, Gaussian, Loss, Quantile, SquaredError
from stream_rnn.least_squares import LeastSquaresHead

N, INPUTS = 3, 2  # so F = 6
F = N + INPUTS + 1
LINE = torch.linspace(-1, 1, F, dtype=torch.float64)


def noise(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def head_of(
    n_targets: int = 1,
    dtype: torch.dtype = torch.float64,
    loss: Loss | None = None,
    **settings: Any,
) -> LeastSquaresHead:
    V_PF = noise(9)(n_targets, F).to(dtype)
    return LeastSquaresHead(N, INPUTS, loss or SquaredError(n_targets), V_PF, **settings)


def take_in(head: LeastSquaresHead, f_BF: Tensor, y_BQ: Tensor, scored_B: Tensor) -> None:
    """One tick with the features `f_BF`, whose last column is 1."""
    head.predict(f_BF[:, :N], f_BF[:, N:-1])
    head.refit(y_BQ, scored_B)


def features(draw: Callable[..., Tensor], n: int) -> Tensor:
    return torch.cat((draw(n, F - 1), torch.ones(n, 1, dtype=torch.float64)), dim=1)


def closed_form(
    V_PF: Tensor, prior: float, forgetting: float, f_TF: Tensor, y_TQ: Tensor
) -> tuple[Tensor, Tensor]:
    """argmin of sum_t l^(n-t) |y_t - V f_t|^2 + l^n |V - V_0|^2 / prior, and its covariance."""
    n = len(f_TF)
    weight_T1 = forgetting ** torch.arange(n - 1, -1, -1, dtype=torch.float64)[:, None]
    ridge_FF = torch.eye(F, dtype=torch.float64) * (forgetting**n / prior)
    C_FF = torch.linalg.inv(f_TF.T @ (weight_T1 * f_TF) + ridge_FF)
    residual_TQ = y_TQ - f_TF @ V_PF.T
    return V_PF + (C_FF @ (f_TF.T @ (weight_T1 * residual_TQ))).T, C_FF


@pytest.mark.parametrize("forgetting", [1.0, 0.97])
@pytest.mark.parametrize("lanes", [1, 3])
def test_it_equals_the_discounted_ridge_solution(lanes: int, forgetting: float) -> None:
    """Lanes of one tick count as events one after another."""
    draw = noise(0)
    head = head_of(2, forgetting=forgetting, prior=0.7, reach=math.inf)
    V_PF, (f_TF, y_TQ) = head.V_PF.clone(), (features(draw, 60), draw(60, 2))
    for f_BF, y_BQ in zip(f_TF.split(lanes), y_TQ.split(lanes), strict=True):
        take_in(head, f_BF, y_BQ, torch.ones(lanes, dtype=torch.bool))
    V_truth, C_truth = closed_form(V_PF, 0.7, forgetting, f_TF, y_TQ)
    torch.testing.assert_close(head.V_PF, V_truth, rtol=0, atol=1e-8)
    torch.testing.assert_close(head.state_dict()["C_FF"], C_truth, rtol=0, atol=1e-8)


def test_a_read_out_in_float32_stays_close_to_the_solution_in_float64() -> None:
    draw = noise(1)
    head = head_of(dtype=torch.float32, forgetting=1.0, prior=0.7, reach=math.inf)
    V_PF, (f_TF, y_TQ) = head.V_PF.double(), (features(draw, 500).float(), draw(500, 1).float())
    for f_1F, y_1Q in zip(f_TF.split(1), y_TQ.split(1), strict=True):
        take_in(head, f_1F, y_1Q, torch.tensor([True]))
    V_truth, C_truth = closed_form(V_PF, 0.7, 1.0, f_TF.double(), y_TQ.double())
    assert head.V_PF.dtype == torch.float32
    # 500 roundings of 6e-8 each
    torch.testing.assert_close(head.V_PF.double(), V_truth, rtol=0, atol=3e-5)
    torch.testing.assert_close(head.state_dict()["C_FF"], C_truth, rtol=0, atol=1e-8)


SPOILED = {
    "not scored": (0.5, 0.5, False),
    "not scored, full of nan": (math.nan, math.nan, False),
    "target nan": (0.5, math.nan, True),
    "feature nan": (math.nan, 0.5, True),
    "feature inf": (math.inf, 0.5, True),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_lane_that_teaches_nothing_changes_nothing(case: str) -> None:
    """Bitwise, and its neighbors teach as if it were not there."""
    feature, target, is_scored = SPOILED[case]
    draw, (head, alone) = noise(2), (head_of() for _ in range(2))
    f_BF, y_BQ = features(draw, 3), draw(3, 1)
    take_in(alone, f_BF[[0, 2]], y_BQ[[0, 2]], torch.tensor([True, True]))
    f_BF[1, 0], y_BQ[1, 0] = feature, target
    take_in(head, f_BF, y_BQ, torch.tensor([True, is_scored, True]))
    truth = {name: tensor.clone() for name, tensor in alone.state_dict().items()}
    assert not [name for name, t in head.state_dict().items() if not torch.equal(t, truth[name])]
    take_in(head, f_BF[1:2], y_BQ[1:2], torch.tensor([is_scored]))
    assert not [name for name, t in head.state_dict().items() if not torch.equal(t, truth[name])]


def moved_by_an_outlier(reach: float) -> float:
    draw, head = noise(3), head_of(reach=reach)
    for f_1F in features(draw, 300).split(1):
        take_in(head, f_1F, (f_1F @ LINE)[:, None] + 0.1 * draw(1, 1), torch.tensor([True]))
    before = head.V_PF.clone()
    take_in(head, features(draw, 1), torch.full((1, 1), 1e6).double(), torch.tensor([True]))
    return float((head.V_PF - before).norm())


def test_an_outlier_moves_the_weights_no_further_than_its_bound() -> None:
    assert moved_by_an_outlier(reach=2.0) < 0.01  # |psi| |k|: 2 x 0.1 x (a few hundredths)
    assert moved_by_an_outlier(reach=math.inf) > 1000.0


def errors_after(head: LeastSquaresHead, n: int, wandering: float, dead: int | None) -> Tensor:
    """Absolute errors on a line whose weights wander; the feature `dead` never occurs."""
    draw, w_F = noise(4), LINE.clone()
    f_TF, errors = features(draw, n), []
    if dead is not None:
        f_TF[:, dead] = 0.0
    steps_TF, noise_T = wandering * draw(n, F), 0.1 * draw(n)
    for f_1F, step_F, e in zip(f_TF.split(1), steps_TF, noise_T, strict=True):
        w_F += step_F
        y_1Q = (f_1F @ w_F + e)[:, None]
        errors.append((head.predict(f_1F[:, :N], f_1F[:, N:-1]) - y_1Q).abs().amax())
        head.refit(y_1Q, torch.tensor([True]))
    return torch.stack(errors)


def test_a_feature_that_never_occurs_does_not_stop_the_others_from_forgetting() -> None:
    """Capping the covariance as a whole did: the errors here became eight times as large."""
    plain, crippled = (
        errors_after(head_of(forgetting=0.95), 1500, wandering=0.02, dead=dead)[-700:].mean()
        for dead in (None, 1)
    )
    assert float(crippled) < 1.1 * float(plain)


def test_a_signal_that_stood_still_is_learned_when_it_moves_again() -> None:
    """The mean size of an innovation is then zero; a bound made of it alone would stay zero."""
    head = head_of(forgetting=0.999)
    with torch.no_grad():
        head.V_PF.zero_()
    still_1F = torch.full((1, F), 0.5, dtype=torch.float64)
    still_1F[:, -1] = 1.0
    for _ in range(100):
        take_in(head, still_1F, torch.zeros(1, 1).double(), torch.tensor([True]))
    head.state_dict()["size_P"].zero_()  # what 40,000 such events come to, denormals flushed
    errors = errors_after(head, 1500, wandering=0.0, dead=None)
    assert float(errors[:50].mean()) > 0.5
    assert float(errors[-200:].mean()) < 0.1  # the noise itself has a mean size of 0.08


@pytest.mark.parametrize(
    ("n", "forgetting"),
    [(4000, 0.99), (500, 0.5), pytest.param(50_000, 0.9995, marks=pytest.mark.slow)],
)
def test_constant_inputs_leave_the_covariance_finite_symmetric_and_positive(
    n: int, forgetting: float
) -> None:
    """No excitation in all directions but one; unlimited, it would grow by 1/forgetting a tick."""
    draw, head = noise(5), head_of(forgetting=forgetting)
    f_1F = features(draw, 1)
    y_TQ = f_1F @ LINE + 0.1 * draw(n, 1)
    for y_1Q in y_TQ.split(1):
        take_in(head, f_1F, y_1Q, torch.tensor([True]))
    C_FF = head.state_dict()["C_FF"]
    assert 1e3 < float(C_FF.diagonal().max()) < 1e5  # prior 0.1 x 1e4, and what a few ticks add
    assert torch.equal(C_FF, C_FF.T)
    assert float(torch.linalg.eigvalsh(C_FF).min()) > 0
    errors = errors_after(head, 400, wandering=0.0, dead=None)
    assert float(errors[:20].mean()) > 0.25
    assert float(errors[-100:].mean()) < 0.2  # and it learns as soon as there is more to learn


def test_inputs_at_the_very_edge_leave_the_covariance_positive() -> None:
    """1e6 is the largest input a learner lets pass."""
    draw, head = noise(6), head_of(forgetting=0.99)
    for t in range(400):
        f_1F = features(draw, 1)
        if t % 3 == 0:
            f_1F[:, :-1] *= 1e6
        take_in(head, f_1F, draw(1, 1), torch.tensor([True]))
    C_FF = head.state_dict()["C_FF"]
    assert C_FF.isfinite().all()
    assert float(C_FF.diagonal().min()) > 0
    assert float(head.V_PF.abs().max()) < 1e3


def test_a_saved_state_goes_on_bit_for_bit_and_is_not_shared() -> None:
    draw, (one, other) = noise(7), (head_of(2) for _ in range(2))
    ticks = [(features(draw, 2), draw(2, 2), draw(2) > -0.5) for _ in range(20)]
    for tick in ticks[:10]:
        take_in(one, *tick)
    saved = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    other.load_state_dict(saved)
    for tick in ticks[10:]:
        take_in(one, *tick)
        take_in(other, *tick)
    truth = one.state_dict()
    assert not [name for name, t in other.state_dict().items() if not torch.equal(t, truth[name])]
    assert not torch.equal(saved["C_FF"], truth["C_FF"])


@pytest.mark.parametrize("name", ["C_FF", "size_P", "V_PF"])
def test_a_state_that_does_not_fit_is_refused_by_name(name: str) -> None:
    head = head_of()
    state = dict(head.state_dict())
    with pytest.raises(ValueError, match=f"state '{name}' is missing"):
        head.load_state_dict({key: t for key, t in state.items() if key != name})
    with pytest.raises(ValueError, match=f"state '{name}': expected torch.float64"):
        head.load_state_dict(state | {name: torch.zeros(7, 7)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forgetting": 0.0}, r"forgetting must be in \(0, 1\], got 0.0"),
        ({"forgetting": 1.1}, r"forgetting must be in \(0, 1\], got 1.1"),
        ({"forgetting": math.nan}, r"forgetting must be in \(0, 1\], got nan"),
        ({"prior": 0.0}, "prior must be positive and finite, got 0.0"),
        ({"prior": math.inf}, "prior must be positive and finite, got inf"),
        ({"reach": 1.0}, r"reach must be above 1 \(2 or 3 is usual\), got 1.0"),
        ({"reach": math.nan}, "reach must be above 1"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_of(**settings)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (Quantile(tau=0.9), r"Quantile\(tau=0.9\)"),
        (Bernoulli(), "Bernoulli"),
        (Gaussian(), "Gaussian"),
        (CrossEntropy(3), "CrossEntropy"),
    ],
    ids=["quantile", "bernoulli", "gaussian", "cross-entropy"],
)
def test_a_loss_whose_minimum_is_elsewhere_is_refused(loss: Loss, named: str) -> None:
    V_PF = torch.zeros(loss.n_outputs, F)
    with pytest.raises(ValueError, match=f"fits squared or l1 loss .*, not {named}; use"):
        LeastSquaresHead(N, INPUTS, loss, V_PF)
    assert LeastSquaresHead(N, INPUTS, Quantile(), torch.zeros(1, F)).owns_update
