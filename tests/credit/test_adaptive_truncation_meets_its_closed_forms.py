"""The estimator alone: for phi_k = phi_0 a^k its beta is a, and its window has a closed form."""

from __future__ import annotations

import math

import pytest

from stream_rnn.credit.truncation import Estimator, Truncation, truncation

R = 60
TAU = 48


def geometric(a: float, phi_0: float = 1.0, r: int = R) -> list[float]:
    return [phi_0 * a**k for k in range(r + 1)]


def found(phi: list[float], tolerance: float = 0.1, **more: object) -> Truncation:
    settings: dict[str, object] = {"k_min": 1, "k_max": R + 1, "tau": TAU} | more
    return truncation(phi, tolerance, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["slope", "max"])
@pytest.mark.parametrize("phi_0", [1e-9, 7.0])
@pytest.mark.parametrize("tolerance", [0.9, 0.5, 0.1, 0.03])
@pytest.mark.parametrize("a", [0.4, 0.7, 0.9, 0.95])
def test_a_geometric_decay_gives_its_own_ratio_and_the_closed_form_of_the_window(
    a: float, tolerance: float, phi_0: float, estimator: Estimator
) -> None:
    """delta(K) = a^K / (1 - 2 a^(R+1)), the largest lower bound being that of K = R + 1."""
    got = found(geometric(a, phi_0), tolerance, estimator=estimator)
    share = 1 - 2 * a ** (R + 1)
    K = math.floor(math.log(tolerance * share) / math.log(a)) + 1
    if a**TAU > math.exp(-50):
        assert got.beta == pytest.approx(a, rel=1e-9)
    assert got.window == min(K, R + 1)
    assert got.bias == pytest.approx(a**got.window / share, rel=1e-9)


def test_a_large_window_is_bounded_by_the_decay_beyond_what_was_seen() -> None:
    """The window is longer than the history (R + 1 = 11): only beta knows about the lags there."""
    a = 0.85
    got = truncation(geometric(a, r=10), 0.05, k_min=1, k_max=100, tau=7)
    share = 1 - 2 * a**11
    assert got.window == math.floor(math.log(0.05 * share) / math.log(a)) + 1 > 11


def test_the_lag_tau_is_counted_once() -> None:
    """By hand, R = 5, tau = 3, beta = 1/2 from lags 3..5.

    E(1) = 1/2 + 1/4 + (1/4)/(1 - 1/2) = 5/4;  E(2) = 1/4 + 1/2 = 3/4;  E(3) = 1/2;  E(4) = 1/4;
    E(5) = 1/8;  E(6) = 1/16.  C(6) = 4 + 1/2 + 1/4 + 1/4 + 1/8 + 1/16 = 83/16, so G_low = 82/16.
    """
    phi = [4.0, 0.5, 0.25, 0.25, 0.125, 0.0625]
    bounds = {1: 5 / 4, 2: 3 / 4, 3: 1 / 2, 4: 1 / 4, 5: 1 / 8}
    for K, left_out in bounds.items():
        bias = left_out / (82 / 16)
        got = truncation(phi, bias * 1.001, k_min=1, k_max=6, tau=3)
        assert got.window == K
        assert got.bias == pytest.approx(bias, rel=1e-12)
        assert got.beta == pytest.approx(0.5, rel=1e-12)


def test_lags_before_tau_do_not_enter_the_decay() -> None:
    phi = [1.0] * TAU + [0.8**k for k in range(R + 1 - TAU)]
    assert found(phi).beta == pytest.approx(0.8, rel=1e-9)


def test_the_steepest_secant_is_never_below_the_decay_that_was_seen() -> None:
    """A tail that ends slower than it starts: the line through it is below, the secant is not."""
    tail = [1.0, 0.9, 0.81, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002]
    phi = [1.0] * (R + 1 - len(tail)) + tail
    slope, most = (found(phi, estimator=estimator) for estimator in ("slope", "max"))
    assert most.beta == pytest.approx(0.9)
    assert slope.beta < 0.7
    assert most.bias >= slope.bias


@pytest.mark.parametrize("estimator", ["slope", "max"])
@pytest.mark.parametrize("a", [1.0, 1.05, 40.0])
def test_no_decay_gives_the_largest_window_and_no_bound(a: float, estimator: Estimator) -> None:
    got = found(geometric(a), k_max=37, estimator=estimator)
    assert got.window == 37
    assert got.beta == pytest.approx(a)
    assert got.bias == math.inf


@pytest.mark.parametrize("estimator", ["slope", "max"])
def test_a_tail_that_rises_out_of_nothing_is_no_decay(estimator: Estimator) -> None:
    """What happened long ago counts, and nothing in between: no short window is enough."""
    got = found([1.0] + [0.0] * (R - 1) + [0.5], estimator=estimator)
    assert got.window == R + 1
    assert got.bias == math.inf


def test_a_decay_too_slow_for_the_history_gives_the_largest_window() -> None:
    """a^(R+1) > 1/2: what is left out may be as large as what is seen."""
    got = found(geometric(0.995), k_max=50)
    assert (got.window, got.bias) == (50, math.inf)
    assert got.beta == pytest.approx(0.995)


@pytest.mark.parametrize("estimator", ["slope", "max"])
@pytest.mark.parametrize("tail", [0.0, 1e-30])
def test_a_tail_below_rounding_has_decayed_and_gives_a_small_window(
    tail: float, estimator: Estimator
) -> None:
    got = found([1.0] + [tail] * R, estimator=estimator)
    assert got.beta == 0.0
    assert got.window == 1
    assert got.bias < 1e-20


def test_what_is_below_rounding_is_no_part_of_the_slope() -> None:
    """a^48 = e^-45 stands, a^54 < e^-50 was flushed to zero or is noise."""
    a = math.exp(-45 / TAU)
    phi = [
        value if value > math.exp(-50) else 1e-40 * (k % 2) for k, value in enumerate(geometric(a))
    ]
    assert found(phi).beta == pytest.approx(a, rel=1e-9)


@pytest.mark.parametrize("k_max", [3, 10])
def test_the_window_stays_within_its_limits(k_max: int) -> None:
    slow = found(geometric(0.9), k_min=2, k_max=k_max)
    assert slow.window == k_max
    assert slow.bias > 0.1  # and the report says that the tolerance is missed
    assert found(geometric(0.1), k_min=2, k_max=k_max, tolerance=0.5).window == 2


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    assert found(geometric(0.9, scale)).window == found(geometric(0.9)).window


@pytest.mark.parametrize(
    "phi", [[1e-300] + [1e300] * R, [1e-300] + [1e300 * 0.5**k for k in range(R)]]
)
def test_sums_beyond_every_float_bound_nothing(phi: list[float]) -> None:
    got = found(phi)
    assert (got.window, got.bias) == (R + 1, math.inf)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ([], "no phi at all"),
        ([0.0] * 5, "phi_0 must be positive, got 0.0"),
        ([math.nan, 1.0], "phi_0 must be positive, got nan"),
        ([1.0, math.nan, 1.0], "phi_1 must be finite and not negative, got nan"),
        ([1.0, 1.0, math.inf], "phi_2 must be finite and not negative, got inf"),
        ([1.0, -1.0], "phi_1 must be finite and not negative, got -1.0"),
    ],
)
def test_senseless_samples_are_refused(phi: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncation(phi, 0.1, k_min=1, k_max=2, tau=0)
