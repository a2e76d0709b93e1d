"""With signs as the daemon draws them, the mean gradient of 12,000 replicas is that of exact RTRL.

The enumerations elsewhere replace the generator; here it is what is tried, with longer paths and
more units. Replicas are lanes; a rule tells the sum of their gradients only, so each one's own is
read from the influence it keeps. That the worst of at most 72 entries is beyond 4.5 standard errors
happens by chance to one seed in 2,000; the seed is fixed. float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Cell
from stream_rnn.credit import Kf, Ok, Rtrl, Uoro
from stream_rnn.linearization import Linearization

pytestmark = pytest.mark.slow  # 15 s; the enumerations are the fast ones

N_REPLICAS = 12_000
BUILD: dict[str, Callable[[Cell, torch.Generator], Kf | Ok | Uoro]] = {
    "uoro": lambda cell, signs: Uoro(cell, N_REPLICAS, signs),
    "kf": lambda cell, signs: Kf(cell, N_REPLICAS, signs),
    "ok-2": lambda cell, signs: Ok(cell, N_REPLICAS, signs, rank=2),
}


def gradients(rule: Kf | Ok | Uoro, q_S: Tensor) -> Tensor:
    """q^T of the influence each lane keeps, (B, Z, M)."""
    state = rule.lane_state
    if isinstance(rule, Uoro):
        return (state["st_BS"] @ q_S)[:, None, None] * state["th_BZM"]
    if isinstance(rule, Kf):
        return torch.einsum("s,bsz,bm->bzm", q_S, state["A_BSZ"], state["u_BM"])
    kept = torch.einsum("s,bgslr,bgmr->bglm", q_S, state["A_BgSLR"], state["U_BCMR"])
    return kept.flatten(1, 2)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("kind", ["tanh", "lstm"])
def test_the_mean_gradient_is_within_its_standard_error(
    kind: str, name: str, random_walk: Callable[..., Any]
) -> None:
    walk = random_walk(kind, n_inputs=2, n_units=4 if kind == "tanh" else 3, n_lanes=1, n_ticks=8)
    rule = BUILD[name](walk.cell, torch.Generator().manual_seed(0))
    exact, everybody = Rtrl(walk.cell, 1), torch.ones(N_REPLICAS, dtype=torch.bool)
    for lin, q_BS in walk:
        exact.observe(lin, q_BS, torch.tensor([True]))
        rows = (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM)
        many = Linearization(lin.W_h_ZN, *(t.expand(N_REPLICAS, *t.shape[1:]) for t in rows))
        rule.observe(many, q_BS.expand(N_REPLICAS, -1) / N_REPLICAS, everybody)
        own_ZM = rule.gradient()
    dW_BZM, truth_ZM = gradients(rule, q_BS[0]), exact.gradient()
    standard_error_ZM = dW_BZM.std(dim=0) / N_REPLICAS**0.5
    noisy_ZM = standard_error_ZM > 1e-9 * truth_ZM.abs().max()
    assert noisy_ZM.any()
    bound_ZM = torch.where(noisy_ZM, 4.5 * standard_error_ZM, 1e-10)
    assert ((dW_BZM.mean(dim=0) - truth_ZM).abs() <= bound_ZM).all()
    # what the rule itself tells is read before the reduction: the same mean, and less noise
    assert ((own_ZM - truth_ZM).abs() <= bound_ZM).all()
    # and the bound is so sharp that zero, e.g., would not pass for the mean
    assert float(bound_ZM.norm()) < 0.5 * float(truth_ZM.norm())
