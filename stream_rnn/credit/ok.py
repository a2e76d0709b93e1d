"""OK: the optimal Kronecker-sum estimate of the influence (Benzing et al. 2019), improved.

Axes: B lanes, C chunks, Q = B*C problems, K blocks, G gates, N units, S = K*N, Z = G*N, g groups of
rows of W that are pushed together, L rows of a group, P entries of A in a chunk, M = I+N+1,
R = rank, r = R+1 summands before the projection.

    G_t ~ sum_i u_i (x) A_i, i = 1..r.  Each tick adds the summand a_t (x) D_t to the pushed ones
    (exactly), then reduces r + 1 summands to r: unbiased, and of the least variance possible.

Better than the published method in three ways (docs/algorithms.md 6.3): the symmetric split (the
released code's split is unbiased but not minimal), the gradient read before the projection, and
chunks: one rank-r sum for each group of rows of W. Equations: docs/algorithms.md 6.1; small
matrices: docs/algorithms.md 6.6.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Noisy, Signs, is_sound, known_products
from stream_rnn.credit.small_matrices import floored_cholesky, jacobi_svd, mixing
from stream_rnn.credit.small_matrices_on_gpu import launches, reduced
from stream_rnn.linearization import Linearization, Products, products_in
from stream_rnn.native.observe import Shape

Chunks = Literal["joint", "gate", "row"]
RANK = 4
CHUNKS: Chunks = "gate"
"""The defaults: benchmarks/RESULTS.md, "Which rank and chunks are worth their cost?"."""


class Ok(Noisy):
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
        products: of the push, on a GPU: "tf32" is faster and good to three digits; the projection
            stays in float32 and float64.
        signs: replaces the generator; called with shape (B, C, r+1).
    """

    def __init__(
        self,
        cell: Cell,
        n_lanes: int,
        generator: torch.Generator | None = None,
        rank: int = RANK,
        chunks: Chunks = CHUNKS,
        *,
        products: Products = "float32",
        signs: Signs | None = None,
    ) -> None:
        super().__init__(cell, n_lanes, generator, signs)
        self.products = known_products(products)
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        if chunks not in ("joint", "gate", "row"):
            raise ValueError(f'chunks must be "joint", "gate" or "row", got {chunks!r}')
        Z, M = cell.weight_shape
        self.rank = rank
        self.chunks = chunks
        self._n_chunks = {"joint": 1, "gate": cell.gates, "row": Z}[chunks]
        # A is stored in blocks that one matrix product pushes: whole, or gate by gate
        groups = cell.gates if chunks == "gate" else 1
        self.lane_state = {
            "U_BCMR": torch.zeros(n_lanes, self._n_chunks, M, rank),
            "A_BgSLR": torch.zeros(n_lanes, groups, cell.n_state, Z // groups, rank),
        }
        sizes = (n_lanes, cell.blocks, cell.gates, cell.n_units, M)
        self.signs_shape = (n_lanes, self._n_chunks, rank + 1)
        self.native_shape = Shape(
            "ok", *sizes, "U_BCMR", "A_BgSLR", rank, chunks, n_chunks=self._n_chunks
        )

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        native = self._natively(lin, q_BS, live_B)
        if native is not None:  # the same tick, faster
            self._facts = {"influence_norm": native.norm_B, "variance": native.variance_Q}
            return
        # r + 1 summands, exactly J G + D (x) a
        V_BCMr = self._append_input(lin)
        A_BgSLr = self._push_and_append_drive(lin)
        V_QMr, P_QPr = V_BCMr.flatten(0, 1), self._by_problem(A_BgSLr)

        with products_in("float32"):  # the projection, whatever the push is made of
            V64 = V_QMr.double()
            gram_V = torch.bmm(V64.transpose(1, 2), V64)
            gram_A = torch.bmm(P_QPr.transpose(1, 2), P_QPr).double()
            squares_B = (gram_V * gram_A).view(self.n_lanes, -1).sum(dim=1)
            # sums that cancel may be rounded below 0
            norm_B = torch.where(live_B, squares_B.clamp_(min=0.0).sqrt(), 0.0)
            sound_B = is_sound(norm_B)
            use_B = live_B & sound_B

            self._gradient_ZM = self._read_gradient(A_BgSLr, V_BCMr, q_BS, use_B)

            # the Gram matrices of lanes that hold NaN become zero: nothing to reduce
            gram = torch.cat((gram_V, gram_A)).view(2, self.n_lanes, -1)
            gram = torch.where(use_B[:, None], gram, 0.0).view(-1, *gram_V.shape[1:])
            mix_V, mix_A, variance_Q = self._reduce(gram, V_QMr, P_QPr)
            U_QMR = torch.bmm(V_QMr, mix_V.to(V_QMr.dtype))
            A_QPR = torch.bmm(P_QPr, mix_A.to(V_QMr.dtype))
        self._commit("U_BCMR", U_QMR.view_as(self.lane_state["U_BCMR"]), live_B, sound_B)
        self._store("A_BgSLR", self._by_group(A_QPR), live_B)  # zero of what is unsound
        self._healthy_B = sound_B
        self._facts = {"influence_norm": norm_B, "variance": variance_Q}

    @override
    def report(self) -> dict[str, Tensor]:
        if not self._facts:
            return {}
        norm_B, variance_Q = self._facts["influence_norm"], self._facts["variance"]
        variance_B = variance_Q.view(self.n_lanes, -1).sum(dim=1)
        share_B = variance_B / norm_B.square().clamp(min=1e-300)
        return {"influence_norm": norm_B.amax(), "noise": share_B.amax()}

    # The steps of docs/algorithms.md 6.1 ----------------------------------------------------------

    def _append_input(self, lin: Linearization) -> Tensor:
        """V = [U, a], (B, C, M, R+1)."""
        U_BCMR = self.lane_state["U_BCMR"]
        a_BCM1 = lin.u_BM[:, None, :, None].expand(-1, self._n_chunks, -1, 1)
        return torch.cat((U_BCMR, a_BCM1), dim=3)

    def _push_and_append_drive(self, lin: Linearization) -> Tensor:
        """[J A_1 .. J A_r, D], (B, g, S, L, R+1).

        What is not finite becomes the largest number: it makes the lane unsound as well, and an
        unsound lane's mixing, which is zero, makes zero of it.
        """
        A_BgSLR = self.lane_state["A_BgSLR"]
        B, groups, S, L, R = A_BgSLR.shape
        out = A_BgSLR.new_empty(B, groups, S, L, R + 1)
        for g in range(groups):
            pushed_BSX = lin.push(A_BgSLR[:, g].reshape(B, S, L * R), self.products)
            finite(pushed_BSX.view(B, S, L, R), out[:, g, ..., :R])
        D_BgSL = out[..., R].zero_()
        K, G, N = lin.drive_BKGN.shape[1:]
        diagonals = D_BgSL.view(B, groups, K, N, G // groups, N).diagonal(dim1=3, dim2=5)
        finite(lin.drive_BKGN.view(B, K, groups, G // groups, N).transpose(1, 2), diagonals)
        return out

    def _by_problem(self, A_BgSLr: Tensor) -> Tensor:
        """(B, g, S, L, r) -> (Q, P, r): the entries of each chunk of each lane."""
        B, _, S, L, r = A_BgSLr.shape
        if self.chunks == "row":
            return A_BgSLr.view(B, S, L, r).transpose(1, 2).flatten(0, 1)
        return A_BgSLr.view(B * self._n_chunks, S * L, r)

    def _by_group(self, A_QPR: Tensor) -> Tensor:
        """The inverse of `_by_problem`."""
        shape = self.lane_state["A_BgSLR"].shape
        if self.chunks == "row":
            A_QPR = A_QPR.view(shape[0], shape[3], shape[2], shape[4]).transpose(1, 2)
        return A_QPR.reshape(shape)

    def _read_gradient(
        self, A_BgSLr: Tensor, V_BCMr: Tensor, q_BS: Tensor, use_B: Tensor
    ) -> Tensor:
        """The sum dW = sum_i (A_i^T q) v_i^T over all r + 1 summands, before the projection."""
        B, groups, S, L, r = A_BgSLr.shape
        p_BgLr = q_BS[:, None, None, :] @ A_BgSLr.view(B, groups, S, L * r)
        # chunk by chunk one product over lanes and summands; where: a masked lane may hold NaN
        mask_B11 = use_B[:, None, None, None]
        p_BCLr = torch.where(mask_B11, p_BgLr.view(B, self._n_chunks, -1, r), 0.0)
        V_BCMr = torch.where(mask_B11, V_BCMr, 0.0)
        p_CLQ = p_BCLr.permute(1, 2, 0, 3).flatten(2)
        V_CQM = V_BCMr.permute(1, 0, 3, 2).flatten(1, 2)
        return torch.bmm(p_CLQ, V_CQM).view(self.cell.weight_shape)

    def _reduce(self, gram: Tensor, V_QMr: Tensor, P_QPr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The (r+1) x r mixing matrices of both sides, and the variance they cost.

        `gram` holds the Gram matrices of all V, then those of all P, (2Q, r+1, r+1).
        """
        Q = V_QMr.shape[0]
        double = V_QMr.dtype == torch.float64
        if not double and launches(gram):
            mixed, variance_Q = reduced(gram, self.draw_signs().float().view(Q, -1))
            return mixed[:Q], mixed[Q:], variance_Q
        floor = gram.new_full((2 * Q, 1), 1e-15)  # filled on the device: nothing is copied
        if not double:
            floor[Q:].fill_(1e-6)
        R, T = floored_cholesky(gram, floor)
        if double:
            # Gram sums square the condition; a second pass over the orthogonalized columns brings
            # float64 data back to rounding, so that dependent columns are seen as such
            V_QMr, P_QPr = torch.bmm(V_QMr, T[:Q]), torch.bmm(P_QPr, T[Q:])
            again = torch.cat(
                (torch.bmm(V_QMr.transpose(1, 2), V_QMr), torch.bmm(P_QPr.transpose(1, 2), P_QPr))
            )
            R_2, T_2 = floored_cholesky(torch.nan_to_num(again, 0.0, 0.0, 0.0), floor)
            R, T = torch.bmm(R_2, R), torch.bmm(T, T_2)
        P, sigma, Z = jacobi_svd(torch.bmm(R[:Q], R[Q:].transpose(1, 2)))
        signs_Qr = self.draw_signs().to(sigma).view(sigma.shape)
        L, variance_Q = mixing(sigma, signs_Qr, rtol=1e-13 if double else 1e-6)
        mixed = torch.bmm(T, torch.bmm(torch.cat((P, Z)), torch.cat((L, L))))
        return mixed[:Q], mixed[Q:], variance_Q


def finite(tensor: Tensor, out: Tensor) -> None:
    """Copy it, the largest number in place of what is not finite."""
    torch.nan_to_num(tensor, nan=torch.finfo(tensor.dtype).max, out=out)
