"""OK in float32, by torch and by the library: rounding adds no bias and next to no noise.

Gram sums square a condition number: in float32 they cost 1e-3 where a projection is built on their
eigenvectors. Ours is built on triangular factors and their inverses (docs/algorithms.md 6.6), and
1e-6 is a few roundings. The mean is over ALL signs; truth is float64, of the same float32 numbers.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Lstm, Tanh
from stream_rnn.credit import Ok
from stream_rnn.linearization import Linearization

CELL = Lstm(6, 4)
S, (Z, M) = CELL.n_state, CELL.weight_shape
DISTANCES = {"apart": 1.0, "near": 1e-2, "nearer": 1e-4, "as rounding": 1e-7}


def all_signs(n: int) -> Tensor:
    """(2^n, n)."""
    return 2 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1) - 1


def near(generator: torch.Generator, whom: Tensor, r: int, distance: float) -> Tensor:
    """(..., r) float32: multiples of `whom`, up to so much noise."""
    noise = torch.randn(*whom.shape, r, generator=generator)
    return whom[..., None] * (1 + torch.rand(r, generator=generator)) + distance * noise


def least_variance(sigma: list[float], r: int) -> float:
    """docs/algorithms.md 6.2."""
    p = next(p for p in range(r) if (r - p) * sigma[p] <= sum(sigma[p:]) * (1 + 1e-14))
    return sum(sigma[p:]) ** 2 / (r - p) - sum(value**2 for value in sigma[p:])


@pytest.mark.parametrize("nearness", DISTANCES)
@pytest.mark.parametrize("r", [1, 3, 8])
def test_the_mean_is_kept_and_the_variance_least(r: int, nearness: str, path: str) -> None:
    """The influence's factors are almost those of the new summand, as where little changes."""
    signs = all_signs(r + 1)
    many = len(signs)
    for seed in range(3):
        generator = torch.Generator().manual_seed(10 * r + seed)
        # nothing but the carry, the unit matrix, is between two ticks: J A = A to the bit
        carry_BKKN = torch.eye(2)[None, :, :, None].expand(many, 2, 2, 4)
        drive_BKGN = torch.randn(1, 2, 4, 4, generator=generator).expand(many, -1, -1, -1)
        u_BM = torch.randn(1, M, generator=generator).expand(many, -1)
        lin = Linearization(torch.zeros(Z, 4), drive_BKGN, carry_BKKN, u_BM)
        D_SZ, a_M = lin.dense_drive()[0], u_BM[0]
        U_MR = near(generator, a_M, r, DISTANCES[nearness])
        A_SZR = near(generator, D_SZ, r, DISTANCES[nearness])

        rule = Ok(CELL, many, rank=r, chunks="joint", signs=signs[:, None].expand)
        rule.lane_state["U_BCMR"].copy_(U_MR)
        rule.lane_state["A_BgSLR"].copy_(A_SZR)
        rule.observe(lin, torch.zeros(many, S), torch.ones(many, dtype=torch.bool))
        assert (rule._observer is not None) == (path == "native")

        def dense(U: Tensor, A: Tensor) -> Tensor:
            return torch.einsum("...mr,...szr->...msz", U.double(), A.double()).flatten(-2)

        kept_BMX = dense(rule.lane_state["U_BCMR"][:, 0], rule.lane_state["A_BgSLR"][:, 0])
        truth_MX = dense(
            torch.cat((U_MR, a_M[:, None]), dim=1), torch.cat((A_SZR, D_SZ[..., None]), dim=2)
        )
        size = float(truth_MX.norm())
        assert float((kept_BMX.mean(dim=0) - truth_MX).norm()) < 1e-6 * size
        variance = float((kept_BMX - truth_MX).square().sum(dim=(1, 2)).mean())
        bound = least_variance(torch.linalg.svdvals(truth_MX).tolist()[: r + 1], r)
        assert abs(variance - bound) < 1e-7 * size**2


@pytest.mark.parametrize("rank", [4, 8, 16])
def test_where_most_units_saturate_at_once_what_is_left_is_exact(path: str, rank: int) -> None:
    """Two rows of JA are left: r + 1 summands of rank 2, which r summands hold without an error.

    Every surplus column of a factorization made the next ones larger, up to infinity.
    """
    B, N, n_inputs = 200, 17, 20
    cell, noise = Tanh(n_inputs, N), torch.Generator().manual_seed(0)
    rule = Ok(cell, B, torch.Generator().manual_seed(0), rank=rank, chunks="row")
    for name, state in rule.lane_state.items():
        rule.lane_state[name] = torch.randn(state.shape, generator=noise)
    U_BCMR, A_BSCR = rule.lane_state["U_BCMR"].clone(), rule.lane_state["A_BgSLR"][:, 0].clone()
    drive_BN, u_BM = torch.zeros(B, N), torch.randn(B, n_inputs + N + 1, generator=noise)
    drive_BN[:, :2] = 0.5
    carry_BKKN = torch.zeros(B, 1, 1, N)
    W_h_ZN = torch.randn(N, N, generator=noise) / N**0.5
    lin = Linearization(W_h_ZN, drive_BN[:, None, None], carry_BKKN, u_BM)
    rule.observe(lin, torch.zeros(B, N), torch.ones(B, dtype=torch.bool))
    assert rule.healthy().all()
    JA_BSCR = torch.einsum("bst,btcr->bscr", lin.J_h_BSN(), A_BSCR)
    truth_BCMS = torch.einsum("bcmr,bscr->bcms", U_BCMR.double(), JA_BSCR.double())
    truth_BCMS += (torch.diag_embed(drive_BN)[:, :, None] * u_BM[:, None, :, None]).double()
    U_BCMR, A_BSCR = rule.lane_state["U_BCMR"].double(), rule.lane_state["A_BgSLR"][:, 0].double()
    got_BCMS = torch.einsum("bcmr,bscr->bcms", U_BCMR, A_BSCR)
    error_BC = (got_BCMS - truth_BCMS).flatten(2).norm(dim=2)
    assert float((error_BC / truth_BCMS.flatten(2).norm(dim=2)).max()) < 2e-4


@pytest.mark.parametrize("rank", [2, 4])
def test_summands_that_cancel_are_sound(path: str, rank: int) -> None:
    """Their sum is 0, and the sum of products of its square may be rounded below that."""
    B, N, n_inputs = 100, 7, 4
    cell, noise = Tanh(n_inputs, N), torch.Generator().manual_seed(0)
    rule = Ok(cell, B, torch.Generator().manual_seed(0), rank=rank, chunks="joint")
    U_BCMR, A_BgSLR = rule.lane_state["U_BCMR"], rule.lane_state["A_BgSLR"]
    for state, sign in ((U_BCMR, 1), (A_BgSLR, -1)):
        state.copy_(torch.randn(state.shape, generator=noise))
        state[..., rank // 2 :] = sign * state[..., : rank // 2]
    carry_BKKN = torch.ones(B, 1, 1, N)
    u_BM = torch.randn(B, n_inputs + N + 1, generator=noise)
    lin = Linearization(torch.zeros(N, N), torch.zeros(B, 1, 1, N), carry_BKKN, u_BM)
    rule.observe(lin, torch.zeros(B, N), torch.ones(B, dtype=torch.bool))
    assert rule.healthy().all()
    assert float(rule.report()["influence_norm"]) < 0.2  # of summands of size 20
