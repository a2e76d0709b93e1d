"""One step of OK costs exactly the least variance any unbiased rank-r reduction can have.

docs/algorithms.md 6.2: with the singular values sigma of the r+1 summands' matrix, sorted, and the
first p of them kept, the variance is `s^2/q - sum of the mixed sigma^2`, q = r - p, s = sum of the
mixed.
The truth here is torch.linalg.svd of the dense matrix, and the mean over ALL signs. That nothing
unbiased has less is a second number, found without this formula: the largest lower bound that any
matrix Y gives. float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Cell, Tanh
from stream_rnn.credit import Kf, Ok
from stream_rnn.credit.ok import Chunks
from stream_rnn.linearization import Linearization


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def all_signs(n: int) -> Tensor:
    """(2^n, n)."""
    return 2 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1) - 1


def least_variance(M: Tensor, r: int) -> float:
    """The bound of docs/algorithms.md 6.2 for the matrix M, word for word."""
    sigma = torch.linalg.svdvals(M).tolist()[: r + 1]
    p = next(p for p in range(r) if (r - p) * sigma[p] <= sum(sigma[p:]) * (1 + 1e-14))
    s, q = sum(sigma[p:]), r - p
    return s * s / q - sum(value * value for value in sigma[p:])


def lower_bound(Y: Tensor, M: Tensor, r: int) -> float:
    """Of E|M'|^2 for every random M' of mean M and rank r at most (docs/algorithms.md 6.2)."""
    return float(2 * (Y * M).sum() - torch.linalg.svdvals(Y)[:r].square().sum())


def largest_lower_bound(M: Tensor, r: int) -> tuple[float, Tensor]:
    """By search, and the Y of it.

    The bound is concave in Y, and with singular vectors y = those of M nothing is lost (von
    Neumann). With a price for each square above it, sum of the r largest y^2 = min over prices of
    r * price + sum of (y^2 - price)+, and for one price the best y is max(sigma, sqrt(price)).
    That leaves one number to search for, in which the bound is concave again.
    """
    P, sigma, Zt = torch.linalg.svd(M, full_matrices=False)

    def Y_of(price: float) -> Tensor:
        return P @ torch.diag(sigma.clamp(min=math.sqrt(price))) @ Zt

    low, high = 0.0, float(sigma.sum()) ** 2
    for _ in range(100):
        third = (high - low) / 3
        lower, upper = (lower_bound(Y_of(low + k * third), M, r) for k in (1, 2))
        low, high = (low + third, high) if lower < upper else (low, high - third)
    Y = Y_of((low + high) / 2)
    return lower_bound(Y, M, r), Y


def one_tick(
    generator: torch.Generator, cell: Cell, n_problems: int = 1, scale: float = 1.0
) -> Linearization:
    W_ZM = noise(generator, *cell.weight_shape) * 0.6
    x_BI, s_BS = noise(generator, n_problems, cell.n_inputs), noise(generator, n_problems, 4)
    return cell.step(W_ZM, x_BI * scale, s_BS * 0.5)[1]


def repeated(lin: Linearization, n: int) -> Linearization:
    """Each lane n times in a row."""

    def rep(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(n, dim=0)

    return Linearization(lin.W_h_ZN, rep(lin.drive_BKGN), rep(lin.carry_BKKN), rep(lin.u_BM))


def summands(lin: Linearization, U_BMR: Tensor, A_BSZR: Tensor) -> Tensor:
    """J G + D (x) a of each lane, dense: (B, M, S*Z)."""
    B, S, Z, R = A_BSZR.shape
    JA = lin.push(A_BSZR.reshape(B, S, Z * R)).view(B, S, Z, R)
    old = torch.einsum("bmr,bszr->bmsz", U_BMR, JA)
    new = torch.einsum("bm,bsz->bmsz", lin.u_BM, lin.dense_drive())
    return (old + new).flatten(2)


def after(rule: Ok | Kf) -> Tensor:
    """What each lane kept, dense: (B, M, S*Z)."""
    state = rule.lane_state
    if isinstance(rule, Kf):
        return torch.einsum("bm,bsz->bmsz", state["u_BM"], state["A_BSZ"]).flatten(2)
    if rule.chunks == "row":
        kept = torch.einsum("bzmr,bszr->bmsz", state["U_BCMR"], state["A_BgSLR"][:, 0])
    else:
        kept = torch.einsum("bgmr,bgslr->bmsgl", state["U_BCMR"], state["A_BgSLR"]).flatten(3)
    return kept.flatten(2)


def observe(rule: Ok | Kf, lin: Linearization) -> None:
    q_BS = torch.zeros(rule.n_lanes, lin.n_state, dtype=torch.float64)
    rule._like(q_BS)
    rule.observe(lin, q_BS, torch.ones(rule.n_lanes, dtype=torch.bool))


def ok_of(cell: Cell, signs_Br: Tensor, r: int, chunks: Chunks = "joint") -> Ok:
    """An OK whose lanes draw the given signs, alike in all chunks."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        return signs_Br[:, None, :].expand(shape)

    return Ok(cell, len(signs_Br), rank=r, chunks=chunks, signs=draw)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("r", [1, 2, 3, 4, 5])
def test_the_mean_is_exact_and_the_variance_least(r: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(100 * r + seed)
    cell = Tanh(3, 4)
    lin = one_tick(generator, cell, scale=(0.1, 0.5, 1.0, 2.0)[seed % 4])
    # graded factors, so that both cases occur: some summands kept, or all of them mixed
    grades = 10.0 ** (-(seed % 3) * torch.arange(r, dtype=torch.float64) / 2)
    U, A = noise(generator, 1, 8, r) * grades, noise(generator, 1, 4, 4, r)
    M = summands(lin, U, A)[0]
    signs = all_signs(r + 1)
    rule = ok_of(cell, signs, r)
    rule.lane_state = {"U_BCMR": U[:, None], "A_BgSLR": A[:, None]}
    rule.lane_state = {k: v.repeat_interleave(len(signs), 0) for k, v in rule.lane_state.items()}
    observe(rule, repeated(lin, len(signs)))
    kept = after(rule)
    size, bound = float(M.square().sum()), least_variance(M, r)
    assert float((kept.mean(dim=0) - M).norm()) < 1e-11 * math.sqrt(size)
    variance = float((kept - M).square().sum(dim=(1, 2)).mean())
    assert variance == pytest.approx(bound, rel=1e-9, abs=1e-13 * size)
    assert float(rule.report()["noise"]) == pytest.approx(bound / size, rel=1e-9, abs=1e-13)
    assert variance == pytest.approx(
        largest_lower_bound(M, r)[0] - size, rel=1e-7, abs=1e-12 * size
    )


@pytest.mark.parametrize("r", [1, 2, 3])
def test_no_other_matrix_gives_a_larger_lower_bound(r: int) -> None:
    """The search kept the singular vectors: in no direction of all matrices is there a better Y."""
    generator = torch.Generator().manual_seed(r)
    for _ in range(5):
        M = noise(generator, 6, r + 1) @ noise(generator, r + 1, 8)
        best, Y = largest_lower_bound(M, r)
        for distance in (1e-4, 1e-2, 1.0):
            for _ in range(20):
                other = Y + distance * noise(generator, *Y.shape)
                assert lower_bound(other, M, r) < best + 1e-12 * float(M.square().sum())


def test_rank_one_is_never_noisier_than_kf() -> None:
    n = 300
    generator = torch.Generator().manual_seed(7)
    cell = Tanh(3, 4)
    lin = one_tick(generator, cell, n)
    u, A = noise(generator, n, 8), noise(generator, n, 4, 4)
    M = summands(lin, u[..., None], A[..., None])
    pairs = all_signs(2)
    signs = pairs.repeat(n, 1)
    u, A = u.repeat_interleave(4, 0), A.repeat_interleave(4, 0)

    def variance(rule: Ok | Kf) -> Tensor:
        observe(rule, repeated(lin, 4))
        errors = (after(rule) - M.repeat_interleave(4, 0)).square().sum(dim=(1, 2))
        return errors.view(n, 4).mean(dim=1)

    ok = ok_of(cell, signs, 1)
    ok.lane_state = {"U_BCMR": u[:, None, :, None].clone(), "A_BgSLR": A[:, None, ..., None]}
    kf = Kf(cell, 4 * n, signs=lambda _: signs)
    kf.lane_state = {"u_BM": u, "A_BSZ": A}
    v_ok, v_kf = variance(ok), variance(kf)
    assert (v_ok <= v_kf * (1 + 1e-12)).all()
    assert float((v_kf / v_ok).max()) > 1.2  # and it is not the same thing


def test_the_variance_of_kf_is_the_one_promised() -> None:
    """2|u||a||JA||D| + 2<u,a><JA,D> (docs/algorithms.md 5)."""
    generator = torch.Generator().manual_seed(8)
    cell = Tanh(3, 4)
    lin = one_tick(generator, cell)
    u, A = noise(generator, 1, 8), noise(generator, 1, 4, 4)
    kf = Kf(cell, 4, signs=lambda _: all_signs(2))
    kf.lane_state = {"u_BM": u.repeat(4, 1), "A_BSZ": A.repeat(4, 1, 1)}
    observe(kf, repeated(lin, 4))
    M = summands(lin, u[..., None], A[..., None])
    variance = float((after(kf) - M).square().sum(dim=(1, 2)).mean())
    JA, D, a = lin.push(A), lin.dense_drive(), lin.u_BM
    promised = 2 * u.norm() * a.norm() * JA.norm() * D.norm() + 2 * (u * a).sum() * (JA * D).sum()
    assert variance == pytest.approx(float(promised), rel=1e-12)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_chunks_are_never_noisier_than_the_joint_sum(
    r: int, random_walk: Callable[..., Any]
) -> None:
    """One step from the same influence: joint >= per gate >= per row."""
    for seed in range(10):
        walk = random_walk("lstm", n_inputs=3, n_units=2, n_lanes=1, n_ticks=4, seed=seed)
        lin = list(walk)[-1][0]
        generator = torch.Generator().manual_seed(seed)
        U, A = noise(generator, 1, 6, r), noise(generator, 1, 4, 8, r)
        M = summands(lin, U, A)
        signs = all_signs(r + 1)
        variances = []
        for chunks, n_chunks in (("joint", 1), ("gate", 4), ("row", 8)):
            rule = ok_of(walk.cell, signs, r, chunks)
            grouped = A.view(1, 4, 4, 2, r).transpose(1, 2) if chunks == "gate" else A[:, None]
            rule.lane_state = {
                "U_BCMR": U[:, None].repeat(len(signs), n_chunks, 1, 1),
                "A_BgSLR": grouped.repeat(len(signs), 1, 1, 1, 1),
            }
            observe(rule, repeated(lin, len(signs)))
            kept = after(rule)
            assert float((kept.mean(dim=0) - M[0]).norm() / M.norm()) < 1e-11
            variances.append(float((kept - M).square().sum(dim=(1, 2)).mean()))
        joint, gate, row = variances
        assert row <= gate * (1 + 1e-12)
        assert gate <= joint * (1 + 1e-12)
