"""OK: the optimal Kronecker-sum estimate of the influence (Benzing et al. 2019), improved.

Axes: B lanes, C chunks, K blocks, G gates, N units, S = K*N, Z = G*N, L columns of a chunk,
M = I+N+1, R = rank.

    G_t ~ sum_i u_i (x) A_i, i = 1..r.  Each tick adds the summand a_t (x) D_t to the pushed ones
    (exactly), then reduces r + 1 summands to r: unbiased, and of the least variance possible.

Better than the published method in three ways (algorithms.md 6.4): the symmetric split (the
released code's split is unbiased but not minimal), the gradient read before the projection, and
chunks: one rank-r sum for each group of rows of W. Equations: algorithms.md 6.1; small matrices:
speed.md 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, Randomness, Signs, is_sound
from stream_rnn.credit.small_matrices import floored_cholesky, jacobi_svd, mixing
from stream_rnn.linearization import Linearization

Chunks = Literal["joint", "gate", "row"]


class Ok(Credit):
    """Unbiased for frozen W with the least variance of all rank-r reductions at every step.

    Exact while the influence's rank is at most r: the first r ticks after a reset, and always if
    r >= M.

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        generator: where the signs come from.
        rank: r, summands kept in each chunk.
        chunks: "joint": one sum for all of W; "gate": one per gate (less noise, nearly free);
            "row": one per row of W (least noise, Z small factorizations a tick).
        signs: replaces the generator; called with shape (B, C, r+1).
    """

    def __init__(
        self,
        cell: Cell,
        n_lanes: int,
        generator: torch.Generator | None = None,
        rank: int = 8,
        chunks: Chunks = "gate",
        *,
        signs: Signs | None = None,
    ) -> None:
        super().__init__(cell, n_lanes)
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if chunks not in ("joint", "gate", "row"):
            raise ValueError(f'chunks must be "joint", "gate" or "row", got {chunks!r}')
        Z, M = cell.weight_shape
        self.rank = rank
        self.chunks = chunks
        self._randomness = Randomness(generator, signs)
        self._n_chunks = {"joint": 1, "gate": cell.gates, "row": Z}[chunks]
        # A is stored in blocks that one matrix product pushes: whole, or gate by gate
        groups = cell.gates if chunks == "gate" else 1
        self.lane_state = {
            "U_BCMR": torch.zeros(n_lanes, self._n_chunks, M, rank),
            "A_BgSLR": torch.zeros(n_lanes, groups, cell.n_state, Z // groups, rank),
        }
        self._gradient_ZM = torch.zeros(Z, M)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        lin = lin.where_live(live_B)
        # r + 1 summands, exactly J G + D (x) a
        V_BCMr = self._append_input(lin)
        A_BgSLr = self._push_and_append_drive(lin)
        P_BCPr = self._by_chunk(A_BgSLr)

        gram_A = (P_BCPr.transpose(-1, -2) @ P_BCPr).double()
        V64 = V_BCMr.double()
        gram_V = V64.transpose(-1, -2) @ V64
        norm_squared_B = (gram_A * gram_V).sum(dim=(1, 2, 3))
        sound_B = is_sound(norm_squared_B)
        sound_B1 = sound_B[:, None, None, None]

        q_BS = torch.where((live_B & sound_B)[:, None], q_BS, 0.0)
        self._gradient_ZM = self._read_gradient(A_BgSLr, V_BCMr, q_BS, sound_B1)

        gram = torch.where(sound_B1, torch.stack((gram_V, gram_A)), 0.0)
        mix_V, mix_A, variance_BC = self._reduce(gram, V_BCMr, P_BCPr)
        U_BCMR = V_BCMr @ mix_V.to(V_BCMr.dtype)
        A_BCPR = P_BCPr @ mix_A.to(V_BCMr.dtype)
        self._commit("U_BCMR", U_BCMR, live_B, sound_B)
        self._commit("A_BgSLR", self._by_group(A_BCPR), live_B, sound_B)
        self._healthy_B = sound_B | ~live_B
        share_B = variance_BC.sum(dim=1) / norm_squared_B.clamp(min=torch.finfo(torch.float64).tiny)
        self._report = {"influence_norm": norm_squared_B.amax().sqrt(), "noise": share_B.amax()}

    @override
    def gradient(self) -> Tensor:
        return self._gradient_ZM

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | self._randomness.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._randomness.load_state_dict(state)

    # The steps of algorithms.md 6.1 ---------------------------------------------------------------

    def _append_input(self, lin: Linearization) -> Tensor:
        """V = [U, a], (B, C, M, R+1)."""
        U_BCMR = self.lane_state["U_BCMR"]
        a_BCM1 = lin.u_BM[:, None, :, None].expand(-1, self._n_chunks, -1, 1)
        return torch.cat((U_BCMR, a_BCM1), dim=3)

    def _push_and_append_drive(self, lin: Linearization) -> Tensor:
        """[J A_1 .. J A_r, D], (B, g, S, L, R+1)."""
        A_BgSLR = self.lane_state["A_BgSLR"]
        B, groups, S, L, R = A_BgSLR.shape
        D_BgSL = lin.dense_drive().view(B, S, groups, L).transpose(1, 2)
        out = A_BgSLR.new_empty(B, groups, S, L, R + 1)
        for g in range(groups):
            out[:, g, ..., :R] = lin.push(A_BgSLR[:, g].reshape(B, S, L * R)).view(B, S, L, R)
        out[..., R] = D_BgSL
        return out

    def _by_chunk(self, A_BgSLr: Tensor) -> Tensor:
        """(B, g, S, L, r) -> (B, C, P, r), P the entries of a chunk."""
        B, groups, S, L, r = A_BgSLr.shape
        if self.chunks == "row":
            return A_BgSLr.view(B, S, L, r).transpose(1, 2)
        return A_BgSLr.view(B, groups, S * L, r)

    def _by_group(self, A_BCPR: Tensor) -> Tensor:
        """The inverse of `_by_chunk`."""
        if self.chunks == "row":
            A_BCPR = A_BCPR.transpose(1, 2).contiguous()
        return A_BCPR.view(self.lane_state["A_BgSLR"].shape)

    def _read_gradient(
        self, A_BgSLr: Tensor, V_BCMr: Tensor, q_BS: Tensor, sound_B1: Tensor
    ) -> Tensor:
        """The sum dW = sum_i (A_i^T q) v_i^T over all r + 1 summands, before the projection."""
        B, groups, S, L, r = A_BgSLr.shape
        p_BgLr = q_BS[:, None, None, :] @ A_BgSLr.view(B, groups, S, L * r)
        p_BCLr = p_BgLr.view(B, self._n_chunks, -1, r)
        p_BCLr = torch.where(sound_B1, p_BCLr, 0.0)
        V_BCMr = torch.where(sound_B1, V_BCMr, 0.0)
        dW_CLM = torch.einsum("bclr,bcmr->clm", p_BCLr, V_BCMr)
        return dW_CLM.reshape(self.cell.weight_shape)

    def _reduce(
        self, gram_2BCrr: Tensor, V_BCMr: Tensor, P_BCPr: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The (r+1) x r mixing matrices of both sides, and the variance they cost."""
        double = V_BCMr.dtype == torch.float64
        floor = gram_2BCrr.new_full((2, 1, 1, 1), 1e-15)  # filled on the device: nothing is copied
        if not double:
            floor[1].fill_(1e-6)
        R, T = floored_cholesky(gram_2BCrr, floor)
        if double:
            # Gram sums square the condition; a second pass over the orthogonalized columns brings
            # float64 data back to rounding, so that dependent columns are seen as such
            Q_V, Q_P = V_BCMr @ T[0], P_BCPr @ T[1]
            again = torch.stack((Q_V.transpose(-1, -2) @ Q_V, Q_P.transpose(-1, -2) @ Q_P))
            R_2, T_2 = floored_cholesky(torch.nan_to_num(again, 0.0, 0.0, 0.0), floor)
            R, T = R_2 @ R, T @ T_2
        P, sigma, Z = jacobi_svd(R[0] @ R[1].transpose(-1, -2))
        signs_BCr = self._randomness.draw(sigma.shape).to(sigma)
        L, variance_BC = mixing(sigma, signs_BCr, rtol=1e-13 if double else 1e-6)
        return T[0] @ (P @ L), T[1] @ (Z @ L), variance_BC
