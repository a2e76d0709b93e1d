"""The noise of an estimate of the influence, measured against exact RTRL on frozen random nets.

Axes: B lanes (replicas), C chunks, L rows of W in a chunk, R columns, T ticks; otherwise as in
stream_rnn.linearization.

Replicas are the lanes of one rule: all see the same linearizations and differ in their signs only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Credit, Kf, Ok, Rtrl, Uoro
from stream_rnn.credit.small_matrices import floored_cholesky, jacobi_svd, mixing
from stream_rnn.linearization import Linearization


@dataclass(frozen=True)
class Tick:
    """One step of the frozen net, one lane wide, with the truth about it.

    `influence_SZM` is there at sampled ticks only: it is S*Z*M numbers.
    """

    lin: Linearization
    q_1S: Tensor
    gradient_ZM: Tensor
    influence_SZM: Tensor | None
    counted: bool


@dataclass(frozen=True)
class Truth:
    """A random net's walk, and the exact influence and gradient along it."""

    cell: Cell
    ticks: list[Tick]


@dataclass(frozen=True)
class Noise:
    """Relative squared errors of each replica: sums of |error|^2 over sums of |truth|^2.

    `restarts` counts the replicas' explosions: their errors are underestimated from then on.
    """

    influence_B: Tensor
    gradient_B: Tensor
    restarts: int

    def mean(self, what: str) -> float:
        """Over the replicas; `what` is "influence" or "gradient"."""
        return float(self._of(what).mean())

    def standard_error(self, what: str) -> float:
        """Of that mean, from the scatter of the replicas; NaN where there is but one."""
        errors_B = self._of(what)
        if len(errors_B) == 1:
            return float("nan")
        return float(errors_B.std() / len(errors_B) ** 0.5)

    def _of(self, what: str) -> Tensor:
        return {"influence": self.influence_B, "gradient": self.gradient_B}[what]


def exact(
    kind: str,
    n_units: int,
    rho: float,
    n_ticks: int,
    *,
    n_inputs: int = 4,
    sampled_every: int = 1,
    counted_from: int = 50,
    seed: int = 0,
) -> Truth:
    """Walk a random net through white noise, float64.

    W is the cell's initial one with the recurrent matrix of every gate replaced by a Gaussian one
    of spectral radius `rho`; dL/dh is white noise at every tick, dL/dc zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    cell = CELLS[kind](n_inputs, n_units)
    W_ZM = cell.initial_weight(generator)
    for g in range(cell.gates):
        square_NN = gaussian(n_units, n_units)
        square_NN *= rho / torch.linalg.eigvals(square_NN).abs().max()
        W_ZM[g * n_units : (g + 1) * n_units, n_inputs : n_inputs + n_units] = square_NN
    if cell.mask_ZM is not None:
        W_ZM = torch.where(cell.mask_ZM, W_ZM, 0.0)
    rule, live_1 = Rtrl(cell, 1), torch.ones(1, dtype=torch.bool)
    s_1S, ticks = torch.zeros(1, cell.n_state, dtype=torch.float64), []
    for t in range(n_ticks):
        s_1S, lin = cell.step(W_ZM, gaussian(1, n_inputs), s_1S)
        q_1S = torch.zeros_like(s_1S)
        q_1S[:, :n_units] = gaussian(1, n_units)
        rule.observe(lin, q_1S, live_1)
        counted = t >= counted_from
        sampled = counted and (t - counted_from) % sampled_every == 0
        G_SZM = rule.lane_state["G_BSZM"][0].clone() if sampled else None
        ticks.append(Tick(lin, q_1S, rule.gradient(), G_SZM, counted))
    return Truth(cell, ticks)


def replicas(lin: Linearization, n_lanes: int, dtype: torch.dtype) -> Linearization:
    """The same step for every lane."""
    every = (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM)
    drive, carry, u = (t.to(dtype).expand(n_lanes, *t.shape[1:]) for t in every)
    return Linearization(lin.W_h_ZN.to(dtype), drive, carry, u)


def factors(rule: Credit) -> tuple[Tensor, Tensor]:
    """U (B, C, M, R) and A (B, C, S, L, R) of what the rule holds, in float64.

    The estimate of the influence of chunk c on state s is `sum_r A[c, s, l, r] U[c, m, r]`.
    """
    state = {name: tensor.double() for name, tensor in rule.lane_state.items()}
    if isinstance(rule, Ok):
        U_BCMR, A = state["U_BCMR"], state["A_BgSLR"]
        if rule.chunks == "row":
            A = A[:, 0].transpose(1, 2)[:, :, :, None]
        return U_BCMR, A
    if isinstance(rule, Kf):
        return state["u_BM"][:, None, :, None], state["A_BSZ"][:, None, :, :, None]
    assert isinstance(rule, Uoro)
    # one row of W a chunk, all with the same A
    Z = rule.cell.weight_shape[0]
    return state["th_BZM"][..., None], state["st_BS"][:, None, :, None, None].expand(
        -1, Z, -1, 1, 1
    )


def gradients(rule: Credit, tick: Tick) -> Tensor:
    """The gradient of each lane (B, Z, M) that the rule will give for this tick.

    Call it before `observe`: the gradient is read before the projection, so it is the old estimate
    pushed once, `(J^T q) G + (D^T q) (x) u` (docs/algorithms.md 6.4).
    """
    U_BCMR, A_BCSLR = factors(rule)
    back_S = tick.lin.pull(tick.q_1S)[0]
    p_BCLR = torch.einsum("s,bcslr->bclr", back_S, A_BCSLR)
    old_BZM = torch.einsum("bclr,bcmr->bclm", p_BCLR, U_BCMR).flatten(1, 2)
    return old_BZM + tick.lin.pull_drive(tick.q_1S)[0, :, None] * tick.lin.u_BM[0]


def influence_errors(rule: Credit, G_SZM: Tensor) -> Tensor:
    """|estimate - G|^2 of each lane (B,), never forming the estimate."""
    U_BCMR, A_BCSLR = factors(rule)
    B, C, S, L, R = A_BCSLR.shape
    G_SCLM = G_SZM.view(S, C, L, -1)
    gram_U = torch.einsum("bcmi,bcmj->bcij", U_BCMR, U_BCMR)
    flat = A_BCSLR.reshape(B * C, S * L, R)
    gram_A = torch.bmm(flat.transpose(1, 2), flat).view(B, C, R, R)
    G_CQM = G_SCLM.transpose(0, 1).reshape(C, S * L, -1)
    U_CMQ = U_BCMR.permute(1, 2, 0, 3).reshape(C, -1, B * R)
    GU_BCQR = torch.bmm(G_CQM, U_CMQ).view(C, S * L, B, R).permute(2, 0, 1, 3)
    cross_B = (GU_BCQR * flat.view(B, C, S * L, R)).sum(dim=(1, 2, 3))
    return (gram_U * gram_A).sum(dim=(1, 2, 3)) - 2 * cross_B + G_SZM.square().sum()


def noise(rule: Credit, truth: Truth, dtype: torch.dtype = torch.float64) -> Noise:
    """Run `rule` along the walk; gradients at every counted tick, influences where sampled."""
    B, mask_ZM = rule.n_lanes, truth.cell.mask_ZM
    live_B = torch.ones(B, dtype=torch.bool)
    influence_B, gradient_B = torch.zeros(2, B, dtype=torch.float64).unbind()
    influence, gradient, restarts = 0.0, 0.0, 0
    for tick in truth.ticks:
        if tick.counted:
            # structural zeros of W have no gradient that anybody uses
            used_ZM = 1.0 if mask_ZM is None else mask_ZM.double()
            errors_BZM = (gradients(rule, tick) - tick.gradient_ZM) * used_ZM
            gradient_B = gradient_B + errors_BZM.square().sum(dim=(1, 2))
            gradient += float((tick.gradient_ZM * used_ZM).square().sum())
        q_BS = tick.q_1S.to(dtype).expand(B, -1)
        rule.observe(replicas(tick.lin, B, dtype), q_BS, live_B)
        restarts += int((~rule.healthy()).sum())
        if tick.influence_SZM is not None:
            influence_B = influence_B + influence_errors(rule, tick.influence_SZM)
            influence += float(tick.influence_SZM.square().sum())
    return Noise(influence_B / influence, gradient_B / gradient, restarts)


class PublishedOk(Ok):
    """OK with the asymmetric split of the authors' program (docs/algorithms.md 6.3), to compare.

    U' = Q_v P diag(sigma)^-1/2 L and A' = Q_b Z diag(sigma)^1/2 L. Everything else is `Ok`'s.
    """

    @override
    def _reduce(self, gram: Tensor, V_QMr: Tensor, P_QPr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        R_v, T_v = _orthogonal(V_QMr)
        R_b, T_b = _orthogonal(P_QPr)
        P, sigma, Z = jacobi_svd(torch.bmm(R_v, R_b.transpose(1, 2)))
        signs = self._signs((self.n_lanes, self._n_chunks, self.rank + 1))
        L, variance_Q = mixing(sigma, signs.to(sigma).view(sigma.shape), rtol=1e-13)
        root = torch.where(sigma > 1e-13 * sigma[:, :1], sigma.sqrt(), 1.0)[:, :, None]
        return (
            torch.bmm(T_v, torch.bmm(P, L / root)),
            torch.bmm(T_b, torch.bmm(Z, L * root)),
            variance_Q,
        )


def _orthogonal(V_QMr: Tensor) -> tuple[Tensor, Tensor]:
    """R and T with V T orthonormal and V = (V T) R: Cholesky of the Gram sums, twice."""
    V_QMr = V_QMr.double().nan_to_num(0.0, 0.0, 0.0)
    R, T = floored_cholesky(torch.bmm(V_QMr.transpose(1, 2), V_QMr), 1e-15)
    W_QMr = torch.bmm(V_QMr, T)
    R_2, T_2 = floored_cholesky(torch.bmm(W_QMr.transpose(1, 2), W_QMr), 1e-15)
    return torch.bmm(R_2, R), torch.bmm(T, T_2)
