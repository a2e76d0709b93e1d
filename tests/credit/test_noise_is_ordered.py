"""Over 300 steps of a frozen net: OK(1) < KF < UORO, less with every rank, and no growth in time.

Replicas are lanes: all live through the same stream, each with its own signs. float64. Errors are
relative, |G' - G|^2 / |G|^2, both summed over ticks and averaged over replicas. A comparison of two
rules holds by several standard errors, estimated from the replicas' own totals.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Kf, Ok, Rtrl, Uoro
from stream_rnn.linearization import Linearization

NETS = ["tanh", "lstm", "rhn"]
N_TICKS, N_REPLICAS = 300, 32
EVERY = 3  # ticks from one look at the influence to the next
COPIES = 4  # KF copies with the memory of OK(4)
Noisy = Kf | Ok | Uoro
RULES: dict[str, Callable[[Cell, int, torch.Generator], Noisy]] = {
    "uoro": Uoro,
    "kf": Kf,
    **{
        f"ok-{r}": lambda cell, n, signs, r=r: Ok(cell, n, signs, rank=r, chunks="joint")
        for r in (1, 2, 4, 8)
    },
}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "ok-8" else name for name in RULES]


@dataclass(frozen=True)
class Errors:
    """Of each replica (B): squares summed over time, relative to those of the truth."""

    influence_B: Tensor
    middle: float  # of the influence, in the second and the last third
    last: float
    before_B: Tensor  # of the gradient as the rule reads it: before its summands are reduced
    after_B: Tensor  # of the gradient that its reduced influence would give


def influence_of(rule: Noisy) -> tuple[Tensor, Tensor]:
    """The factors U (B, M, R) and A (B, S*Z, R); of UORO, st (B, S, 1) and th (B, Z*M, 1)."""
    state = rule.lane_state
    if isinstance(rule, Uoro):
        return state["st_BS"][:, :, None], state["th_BZM"].flatten(1)[:, :, None]
    if isinstance(rule, Kf):
        return state["u_BM"][:, :, None], state["A_BSZ"].flatten(1)[:, :, None]
    return state["U_BCMR"][:, 0], state["A_BgSLR"][:, 0].flatten(1, 2)


def dense(rule: Noisy, shape: tuple[int, int, int]) -> Tensor:
    """The influence of each replica, (B, S, Z, M)."""
    S, Z, M = shape
    U, A = influence_of(rule)
    if isinstance(rule, Uoro):
        return torch.einsum("bsr,bqr->bsq", U, A).view(-1, S, Z, M)
    return torch.einsum("bpr,bmr->bpm", A, U).view(-1, S, Z, M)


def repeated(lin: Linearization, n: int) -> Linearization:
    rows = [t.expand(n, *t.shape[1:]) for t in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM)]
    return Linearization(lin.W_h_ZN, *rows)


@functools.cache
def stream(kind: str) -> list[tuple[Linearization, Tensor, Tensor, Tensor]]:
    """Linearization, q, exact influence (S, Z, M) and exact gradient of each tick."""
    generator = torch.Generator().manual_seed(11)
    cell = CELLS[kind](4, 5 if kind == "lstm" else 8)
    W_ZM = cell.initial_weight(generator)
    W_ZM[:, cell.n_inputs : -1] *= 0.95
    exact, s_BS, ticks = Rtrl(cell, 1), torch.zeros(1, cell.n_state).double(), []
    for _ in range(N_TICKS):
        x_BI = torch.randn(1, cell.n_inputs, generator=generator, dtype=torch.float64)
        q_BS = torch.randn(1, cell.n_state, generator=generator, dtype=torch.float64)
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        exact.observe(lin, q_BS, torch.tensor([True]))
        ticks.append((lin, q_BS, exact.lane_state["G_BSZM"][0].clone(), exact.gradient()))
    return ticks


@functools.cache
def errors(kind: str, name: str) -> Errors:
    """What `name` makes of the stream, in every replica."""
    cell = CELLS[kind](4, 5 if kind == "lstm" else 8)
    rule = RULES[name](cell, N_REPLICAS, torch.Generator().manual_seed(12))
    everybody = torch.ones(N_REPLICAS, dtype=torch.bool)
    ticks = stream(kind)
    shape = ticks[0][2].shape
    influence_TB, before_B, after_B = [], 0.0, 0.0
    sizes, size_of_dW = [], 0.0
    for t, (lin, q_BS, G_SZM, dW_ZM) in enumerate(ticks):
        if t >= N_TICKS // 3:
            U, A = (factor.clone() for factor in influence_of(rule))
        rule.observe(repeated(lin, N_REPLICAS), q_BS.expand(N_REPLICAS, -1), everybody)
        if t < N_TICKS // 3 or t % EVERY:
            continue
        error_BSZM = dense(rule, shape) - G_SZM
        influence_TB.append(error_BSZM.square().sum(dim=(1, 2, 3)))
        sizes.append(float(G_SZM.square().sum()))
        after_B += torch.einsum("s,bszm->bzm", q_BS[0], error_BSZM).square().sum(dim=(1, 2))
        before_B += (own_gradient(rule, lin, q_BS, U, A) - dW_ZM).square().sum(dim=(1, 2))
        size_of_dW += float(dW_ZM.square().sum())
    half = len(sizes) // 2
    stacked_TB = torch.stack(influence_TB)
    return Errors(
        stacked_TB.sum(dim=0) / sum(sizes),
        float(stacked_TB[:half].mean(dim=1).sum()) / sum(sizes[:half]),
        float(stacked_TB[half:].mean(dim=1).sum()) / sum(sizes[half:]),
        before_B / size_of_dW,
        after_B / size_of_dW,
    )


def own_gradient(rule: Noisy, lin: Linearization, q_BS: Tensor, U: Tensor, A: Tensor) -> Tensor:
    """dW (B, Z, M) of each replica by its influence of one tick ago; a rule tells the sum only.

    Asserts that the rule's own gradient is their sum.
    """
    Z, M = rule.cell.weight_shape
    pulled_S = lin.pull(q_BS)[0]
    if isinstance(rule, Uoro):
        old_BZM = torch.einsum("s,bsr,bqr->bq", pulled_S, U, A).view(-1, Z, M)
    else:
        A_BSZR = A.view(len(A), -1, Z, A.shape[2])
        old_BZM = torch.einsum("s,bszr,bmr->bzm", pulled_S, A_BSZR, U)
    dW_BZM = old_BZM + lin.pull_drive(q_BS)[0, :, None] * lin.u_BM[0]
    torch.testing.assert_close(rule.gradient(), dW_BZM.sum(dim=0), rtol=1e-9, atol=1e-9)
    return dW_BZM


def z_score(more_B: Tensor, less_B: Tensor) -> float:
    """By how many standard errors the mean of the one exceeds that of the other."""
    variance = (more_B.var() + less_B.var()) / N_REPLICAS
    return float((more_B.mean() - less_B.mean()) / variance.sqrt())


@pytest.mark.parametrize("kind", NETS)
def test_ok_of_rank_one_is_less_noisy_than_kf_and_kf_than_uoro(kind: str) -> None:
    uoro, kf, ok = (errors(kind, name) for name in ("uoro", "kf", "ok-1"))
    assert z_score(uoro.influence_B, kf.influence_B) > 3
    assert z_score(kf.influence_B, ok.influence_B) > 3


@pytest.mark.slow  # 8 s a net
@pytest.mark.parametrize("kind", NETS)
def test_the_noise_of_ok_falls_with_its_rank(kind: str) -> None:
    by_rank = [errors(kind, f"ok-{r}") for r in (1, 2, 4, 8)]
    for less_rank, more_rank in itertools.pairwise(by_rank):
        assert z_score(less_rank.influence_B, more_rank.influence_B) > 3
        assert float(more_rank.influence_B.mean()) < 0.6 * float(less_rank.influence_B.mean())


@pytest.mark.parametrize("kind", NETS)
def test_ok_of_rank_four_beats_the_average_of_four_kf(kind: str) -> None:
    """The same memory. Copies are independent: the noise of their average is a quarter of one's."""
    kf, ok = errors(kind, "kf"), errors(kind, "ok-4")
    assert z_score(kf.influence_B / COPIES, ok.influence_B) > 3
    assert z_score(kf.before_B / COPIES, ok.before_B) > 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NETS)
def test_the_noise_does_not_grow_with_time(kind: str, name: str) -> None:
    measured = errors(kind, name)
    assert 0 < measured.last < 3 * measured.middle


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NETS)
def test_the_gradient_read_before_the_reduction_is_less_noisy(kind: str, name: str) -> None:
    measured = errors(kind, name)
    difference_B = measured.after_B - measured.before_B
    standard_error = float(difference_B.std()) / N_REPLICAS**0.5
    assert float(difference_B.mean()) > 3 * standard_error
