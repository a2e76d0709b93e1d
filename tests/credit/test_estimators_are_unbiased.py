"""KF, OK and UORO are unbiased: the mean over ALL signs is exact RTRL, at every tick.

No sampling: the sign sequences are enumerated, one in each lane of a single rule, through the
`signs` seam. Chunks of OK use the same signs here; each chunk's rows depend on its own signs only,
so their mean over all sequences is that over the chunk's own. Frozen W, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.credit import Kf, Ok, Rtrl, Uoro


class AllSigns:
    """Gives lane b the b-th of all sequences of `per_tick` signs over `n_ticks` ticks."""

    def __init__(self, per_tick: int, n_ticks: int) -> None:
        self.n_lanes = 2 ** (per_tick * n_ticks)
        places = torch.arange(per_tick * n_ticks)
        bits = torch.arange(self.n_lanes)[:, None] >> places & 1
        self._signs_TBr = (2 * bits - 1).view(self.n_lanes, n_ticks, per_tick).transpose(0, 1)
        self._t = -1

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        self._t += 1
        signs = self._signs_TBr[self._t]
        return signs.view(len(signs), *([1] * (len(shape) - 2)), shape[-1]).expand(shape)


def influence_of(rule: Kf | Ok | Uoro) -> Tensor:
    """The influence each lane stands for, (B, S, Z, M)."""
    state = rule.lane_state
    if isinstance(rule, Uoro):
        return torch.einsum("bs,bzm->bszm", state["st_BS"], state["th_BZM"])
    if isinstance(rule, Kf):
        return torch.einsum("bm,bsz->bszm", state["u_BM"], state["A_BSZ"])
    U_BCMR, A_BgSLR = state["U_BCMR"], state["A_BgSLR"]
    if rule.chunks == "row":
        return torch.einsum("bzmr,bszr->bszm", U_BCMR, A_BgSLR[:, 0])
    return torch.einsum("bgmr,bgslr->bsglm", U_BCMR, A_BgSLR).flatten(2, 3)


CASES: dict[str, Any] = {
    "kf": (2, 5, lambda cell, n, signs: Kf(cell, n, signs=signs)),
    "ok-1-joint": (2, 5, lambda cell, n, signs: Ok(cell, n, rank=1, chunks="joint", signs=signs)),
    "ok-1-gate": (2, 5, lambda cell, n, signs: Ok(cell, n, rank=1, chunks="gate", signs=signs)),
    "ok-1-row": (2, 4, lambda cell, n, signs: Ok(cell, n, rank=1, chunks="row", signs=signs)),
    "ok-2-joint": (3, 4, lambda cell, n, signs: Ok(cell, n, rank=2, chunks="joint", signs=signs)),
    "ok-2-gate": (3, 4, lambda cell, n, signs: Ok(cell, n, rank=2, chunks="gate", signs=signs)),
    "ok-2-row": (3, 4, lambda cell, n, signs: Ok(cell, n, rank=2, chunks="row", signs=signs)),
}


def assert_the_mean_is_exact(
    walk: Any,
    signs: AllSigns,
    rule: Kf | Ok | Uoro,
    relative_error: Callable[..., float],
    is_noisy: bool = True,
) -> None:
    exact = Rtrl(walk.cell, 1)
    everybody = torch.ones(signs.n_lanes, dtype=torch.bool)
    s_1S = torch.zeros_like(walk.q_TBS[0])
    for x_1I, q_1S in zip(walk.x_TBI, walk.q_TBS, strict=True):
        x_BI, s_BS = x_1I.expand(signs.n_lanes, -1), s_1S.expand(signs.n_lanes, -1)
        rule.observe(
            walk.cell.step(walk.W_ZM, x_BI, s_BS)[1],
            q_1S.expand(signs.n_lanes, -1) / signs.n_lanes,
            everybody,
        )
        s_1S, lin = walk.cell.step(walk.W_ZM, x_1I, s_1S)
        exact.observe(lin, q_1S, torch.tensor([True]))
        assert relative_error(rule.gradient(), exact.gradient()) < 1e-10
    G_BSZM, truth = influence_of(rule), exact.lane_state["G_BSZM"]
    assert relative_error(G_BSZM.mean(dim=0, keepdim=True), truth) < 1e-10
    if is_noisy:
        assert relative_error(G_BSZM[:1], truth) > 1e-3  # or there was nothing to average


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", CELLS)
def test_the_mean_over_all_signs_is_exact(
    kind: str,
    case: str,
    random_walk: Callable[..., Any],
    relative_error: Callable[..., float],
) -> None:
    per_tick, n_ticks, build = CASES[case]
    walk = random_walk(kind, n_inputs=1, n_units=2, n_lanes=1, n_ticks=n_ticks, seed=3)
    signs = AllSigns(per_tick, n_ticks)
    rule = build(walk.cell, signs.n_lanes, signs)
    is_noisy = "row" not in case or "1" in case  # at rank 2 a row's influence may be exact
    assert_the_mean_is_exact(walk, signs, rule, relative_error, is_noisy)


@pytest.mark.parametrize("n_units", [1, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_the_mean_of_uoro_over_all_signs_is_exact(
    kind: str,
    n_units: int,
    random_walk: Callable[..., Any],
    relative_error: Callable[..., float],
) -> None:
    """One sign for every number of the state: 4096 sequences each, over 12 / S ticks."""
    n_state = CELLS[kind](1, n_units).n_state
    walk = random_walk(kind, n_inputs=1, n_units=n_units, n_lanes=1, n_ticks=12 // n_state, seed=3)
    signs = AllSigns(n_state, 12 // n_state)
    assert signs.n_lanes == 4096
    rule = Uoro(walk.cell, signs.n_lanes, signs=signs)
    assert_the_mean_is_exact(walk, signs, rule, relative_error, is_noisy=n_state > 1)
