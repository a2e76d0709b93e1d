"""How many steps of backpropagation are enough (Aicher, Foti & Fox 2019), as a pure function.

phi_k = |dL_t/ds_{t-k}|, averaged over samples, says how much of a loss flows k steps back. From lag
tau on it is taken to decay geometrically, which bounds what a truncation leaves out
(docs/algorithms.md 4.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

Estimator = Literal["slope", "max"]

LOG_FLOOR = -50.0  # of log(phi_k / phi_0): what is smaller is rounding, and no part of any fit


@dataclass(frozen=True, slots=True)
class Truncation:
    """What the samples say.

    Attributes:
        window: K, steps to carry a loss back through (lags 0 .. K-1).
        beta: factor by which phi decays per lag beyond tau; 1 or more: no decay was seen.
        bias: bound on the relative bias of the gradient at that window; infinite if nothing bounds
            it. Above the tolerance if even the largest window allowed does not meet that.
    """

    window: int
    beta: float
    bias: float


def truncation(
    phi: Sequence[float],
    tolerance: float,
    k_min: int,
    k_max: int,
    tau: int,
    estimator: Estimator = "slope",
) -> Truncation:
    """The smallest window in [k_min, k_max] whose bound on the relative bias is below `tolerance`.

    Depends on ratios of phi only. Arguments are the caller's business (validated where they are
    set), but for phi itself.

    Args:
        phi: phi_k for k = 0 .. R: the mean over samples, or their sum.
        tolerance: delta, in (0, 1).
        k_min: smallest window, at least 1.
        k_max: largest window, also where no decay was seen or nothing bounds the bias.
        tau: lag from which on phi is taken to decay geometrically, at most R - 1.
        estimator: of beta: "slope": least squares on log phi; "max": the steepest secant from tau,
            which is never smaller than phi shows.

    Raises:
        ValueError: phi_0 is not positive, or a phi_k is not finite or negative.
    """
    if not phi or not phi[0] > 0:
        raise ValueError(f"phi_0 must be positive, got {phi[0] if phi else 'no phi at all'}")
    for k, value in enumerate(phi):
        if not 0 <= value < math.inf:
            raise ValueError(f"phi_{k} must be finite and not negative, got {value}")
    log_beta = _log_decay(phi, tau, estimator)
    beta = math.exp(min(log_beta, 700.0))
    if beta >= 1:
        return Truncation(k_max, beta, math.inf)
    scaled = [value / phi[0] for value in phi]
    kept = list(accumulate(scaled, initial=0.0))  # kept[K] = sum of the lags below K
    tail = scaled[tau] / (1 - beta)

    def left_out(K: int) -> float:
        """E(K), the bound on what a window of K leaves out."""
        return tail * beta ** (K - tau) if tau <= K else kept[tau] - kept[K] + tail

    # the least norm the whole gradient can have; NaN (phi beyond every float) is no bound either
    least = max((kept[K] - left_out(K) for K in range(1, len(kept))), default=0.0)
    if not 0 < least < math.inf:
        return Truncation(k_max, beta, math.inf)
    for K in range(k_min, k_max + 1):
        if left_out(K) / least < tolerance:
            return Truncation(K, beta, left_out(K) / least)
    return Truncation(k_max, beta, left_out(k_max) / least)


def _log_decay(phi: Sequence[float], tau: int, estimator: Estimator) -> float:
    """The logarithm of beta, from lags tau .. R; -inf where the tail sank below the floor."""
    log_phi_0 = math.log(phi[0])
    logs = [math.log(value) - log_phi_0 if value > 0 else -math.inf for value in phi[tau:]]
    seen = [(lag, log) for lag, log in enumerate(logs) if log >= LOG_FLOOR]
    if estimator == "max":
        start = max(logs[0], LOG_FLOOR)
        return max(((log - start) / lag for lag, log in seen if lag), default=-math.inf)
    if len(seen) < 2:  # one that stands alone beyond tau rose out of nothing: no decay
        return 0.0 if seen and seen[0][0] else -math.inf
    mean_lag = math.fsum(lag for lag, _ in seen) / len(seen)
    mean_log = math.fsum(log for _, log in seen) / len(seen)
    covariance = math.fsum((lag - mean_lag) * (log - mean_log) for lag, log in seen)
    return covariance / math.fsum((lag - mean_lag) ** 2 for lag, _ in seen)
