"""The batched steps of KF, UORO and OK are the equations, one lane and one number at a time.

The slow side takes J and D from automatic differentiation of the cell's step, and decompositions
from torch.linalg. KF and UORO: the same signs, the same numbers at every tick. OK: a decomposition
is free in the signs of its pairs of vectors, and turning a pair is turning the sign drawn for it:
each draw gives the product of one draw of the slow side, all of them by the same turns. float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Kf, Ok, Uoro

N_LANES = 2
ALL = torch.ones(N_LANES, dtype=torch.bool)
CHUNKS = ["joint", "gate", "row"]


def drawn(per_tick: int, n_ticks: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 2, (n_ticks, N_LANES, per_tick), generator=generator) * 2 - 1


def derivatives(cell: Cell, W_ZM: Tensor, x_I: Tensor, s_S: Tensor) -> tuple[Tensor, Tensor]:
    """J (S, S) and D (S, Z) of one lane; the last column of W is a bias, so ds/dbias = D."""

    def step(s: Tensor, bias: Tensor) -> Tensor:
        W_biased_ZM = torch.cat((W_ZM[:, :-1], bias[:, None]), dim=1)
        return cell.step(W_biased_ZM, x_I[None], s[None])[0][0]

    J_SS: Tensor = jacrev(step, argnums=0)(s_S, W_ZM[:, -1])
    D_SZ: Tensor = jacrev(step, argnums=1)(s_S, W_ZM[:, -1])
    return J_SS, D_SZ


def lane_by_lane(walk: Any, lane: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """J, D, u, q of each tick of a lane."""
    s_S, ticks = torch.zeros(walk.cell.n_state, dtype=torch.float64), []
    one = torch.ones(1, dtype=torch.float64)
    for x_BI, q_BS in zip(walk.x_TBI, walk.q_TBS, strict=True):
        J, D = derivatives(walk.cell, walk.W_ZM, x_BI[lane], s_S)
        u = torch.cat((x_BI[lane], s_S[: walk.cell.n_units], one))
        ticks.append((J, D, u, q_BS[lane]))
        s_S = walk.cell.step(walk.W_ZM, x_BI[lane][None], s_S[None])[0][0]
    return ticks


def size(tensor: Tensor) -> float:
    return math.sqrt(sum(value * value for value in tensor.flatten().tolist()))


@pytest.mark.parametrize("kind", CELLS)
def test_kf_is_its_equations(kind: str, random_walk: Callable[..., Any]) -> None:
    walk = random_walk(kind, n_lanes=N_LANES)
    signs = drawn(2, len(walk.x_TBI))
    queue = iter(signs)
    rule, slow = Kf(walk.cell, N_LANES, signs=lambda _: next(queue)), []
    for lane in range(N_LANES):
        u, A = torch.zeros(1), torch.zeros(1)
        path = []
        for t, (J, D, a, q) in enumerate(lane_by_lane(walk, lane)):
            c_old, c_new = signs[t, lane].tolist()
            p_new = math.sqrt(size(D) / size(a))
            dW, u_new, A_new = torch.outer(D.T @ q, a), c_new * p_new * a, c_new / p_new * D
            if t:
                JA = J @ A
                p_old = math.sqrt(size(JA) / size(u))
                dW = dW + torch.outer(JA.T @ q, u)
                u_new, A_new = u_new + c_old * p_old * u, A_new + c_old / p_old * JA
            u, A = u_new, A_new
            path.append((dW, u, A))
        slow.append(path)
    for t, (lin, q_BS) in enumerate(walk):
        rule.observe(lin, q_BS, ALL)
        torch.testing.assert_close(rule.gradient(), sum(p[t][0] for p in slow), rtol=0, atol=1e-10)
        for lane in range(N_LANES):
            _, u, A = slow[lane][t]
            torch.testing.assert_close(rule.lane_state["u_BM"][lane], u, rtol=0, atol=1e-10)
            torch.testing.assert_close(rule.lane_state["A_BSZ"][lane], A, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", CELLS)
def test_uoro_is_its_equations(kind: str, random_walk: Callable[..., Any]) -> None:
    """With nu^T F formed from the full immediate Jacobian F (S, Z, M)."""
    walk = random_walk(kind, n_lanes=N_LANES)
    signs = drawn(walk.cell.n_state, len(walk.x_TBI))
    queue = iter(signs)
    rule, slow = Uoro(walk.cell, N_LANES, signs=lambda _: next(queue)), []
    for lane in range(N_LANES):
        st, th = torch.zeros(1), torch.zeros(1)
        path = []
        for t, (J, D, a, q) in enumerate(lane_by_lane(walk, lane)):
            nu = signs[t, lane].double()
            F = D[:, :, None] * a
            nu_F = torch.einsum("s,szm->zm", nu, F)
            r1 = math.sqrt(size(nu_F) / math.sqrt(len(nu)))
            dW = torch.einsum("s,szm->zm", q, F)
            st_new, th_new = r1 * nu, nu_F / r1
            if t:
                J_st = J @ st
                r0 = math.sqrt(size(th) / size(J_st))
                dW = dW + float(q @ J_st) * th
                st_new, th_new = st_new + r0 * J_st, th_new + th / r0
            st, th = st_new, th_new
            path.append((dW, st, th))
        slow.append(path)
    for t, (lin, q_BS) in enumerate(walk):
        rule.observe(lin, q_BS, ALL)
        torch.testing.assert_close(rule.gradient(), sum(p[t][0] for p in slow), rtol=0, atol=1e-10)
        for lane in range(N_LANES):
            _, st, th = slow[lane][t]
            torch.testing.assert_close(rule.lane_state["st_BS"][lane], st, rtol=0, atol=1e-10)
            torch.testing.assert_close(rule.lane_state["th_BZM"][lane], th, rtol=0, atol=1e-10)


def all_signs(n: int) -> Tensor:
    """(2^n, n)."""
    return 2 * (torch.arange(2**n)[:, None] >> torch.arange(n) & 1) - 1


def projected(V: Tensor, B: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Steps 3 to 9 of docs/algorithms.md 6.1 for one chunk: (M, r+1), (P, r+1) -> one r less."""
    r = V.shape[1] - 1
    (Q_v, R_v), (Q_b, R_b) = torch.linalg.qr(V), torch.linalg.qr(B)
    P, sigma, Zt = torch.linalg.svd(R_v @ R_b.T)
    sigma = torch.where(sigma < 1e-13 * sigma[0], 0.0, sigma)
    p = next(p for p in range(r) if (r - p) * sigma[p] <= sigma[p:].sum())
    q, s = r - p, sigma[p:].sum()
    z, d = torch.zeros(r + 1).double(), sigma.sqrt()
    z[p:] = (1 - q * sigma[p:] / s).clamp(min=0).sqrt()
    z = z / z.norm()
    d[p:] = signs[p:] * (s / q).sqrt()
    w = z.clone()
    w[-1] += 1
    H = torch.eye(r + 1).double() - torch.outer(w, w) / (1 + z[-1])
    L = d[:, None] * H[:, :r]
    return Q_v @ P @ L, Q_b @ Zt.T @ L


def apart(fast_BX: Tensor, slow_BX: Tensor) -> float:
    """The largest difference over all draws, for the pairs of vectors turned as fits best.

    Draws stand in the order of `all_signs`: to turn pairs is to flip these bits of their number.
    """
    draws = torch.arange(len(slow_BX))
    return min(float((fast_BX[draws ^ turned] - slow_BX).abs().max()) for turned in draws.tolist())


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_one_step_of_ok_is_its_equations_draw_by_draw(
    kind: str, r: int, chunks: Any, random_walk: Callable[..., Any]
) -> None:
    """From the same influence, for all draws. Each chunk by itself: theirs are independent."""
    walk = random_walk(kind, n_inputs=2, n_units=2, n_lanes=N_LANES, n_ticks=7)
    before = Ok(walk.cell, N_LANES, torch.Generator().manual_seed(1), rank=r, chunks=chunks)
    for lin, q_BS in list(walk)[:-1]:
        before.observe(lin, q_BS, ALL)
    U_CMR = before.lane_state["U_BCMR"][0].clone()
    A_gSLR = before.lane_state["A_BgSLR"][0].clone()
    lin, q_BS = list(walk)[-1]
    J, D, a, _ = lane_by_lane(walk, 0)[-1]

    draws = all_signs(r + 1)
    many = len(draws)
    rule = Ok(
        walk.cell,
        many,
        rank=r,
        chunks=chunks,
        signs=draws[:, None, :].expand,
    )
    rule._like(q_BS)
    rule.lane_state["U_BCMR"].copy_(U_CMR)
    rule.lane_state["A_BgSLR"].copy_(A_gSLR)
    same = [t[:1].repeat_interleave(many, 0) for t in (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM)]
    rule.observe(
        type(lin)(lin.W_h_ZN, *same), q_BS[:1].expand(many, -1), torch.ones(many, dtype=torch.bool)
    )
    U_after, A_after = rule.lane_state["U_BCMR"], rule.lane_state["A_BgSLR"]

    Z = len(walk.W_ZM)
    for c in range(len(U_CMR)):
        L = Z // len(U_CMR)
        if chunks == "row":
            A_SLR, A_of = A_gSLR[0, :, c : c + 1], A_after[:, 0, :, c : c + 1]
        else:
            A_SLR, A_of = A_gSLR[c], A_after[:, c]
        JA = torch.einsum("st,tlr->slr", J, A_SLR).flatten(0, 1)
        V = torch.cat((U_CMR[c], a[:, None]), dim=1)
        B = torch.cat((JA, D[:, c * L : (c + 1) * L].flatten()[:, None]), dim=1)
        if len(B) > r:
            slow = [U @ A.T for U, A in (projected(V, B, signs) for signs in draws)]
        else:  # a chunk with fewer entries than columns: of rank r at most, and nothing is mixed
            slow = [V @ B.T] * many
        fast = torch.einsum("bmr,bpr->bmp", U_after[:, c], A_of.flatten(1, 2))
        assert apart(fast.flatten(1), torch.stack(slow).flatten(1)) < 1e-10
