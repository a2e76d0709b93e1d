"""KF-RTRL: the influence as one Kronecker product (Mujika, Meier & Steger 2018).

Axes: B lanes, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1.

    G_t ~ u (x) A.    u' = c1 p1 u + c2 p2 a,    A' = c1 JA / p1 + c2 D / p2,
    p1 = sqrt(|JA| / |u|),  p2 = sqrt(|D| / |a|),  c1, c2 fair signs.   (docs/algorithms.md 5)

A summand of norm zero is dropped exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Noisy, Signs, is_sound, known_products, norms, outer_sum
from stream_rnn.linearization import Linearization, Products, products_in
from stream_rnn.native.observe import Shape


class Kf(Noisy):
    """Unbiased for frozen W; one-step variance 2|u||a||JA||D| + 2<u,a><JA,D>.

    The gradient is read before the two summands are mixed: still unbiased, and without the newest
    mixing's noise (docs/algorithms.md 6.4).

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        generator: where the signs come from.
        products: of the push, on a GPU: "tf32" is faster and good to three digits; the mixing
            stays in float32.
        signs: replaces the generator; called with shape (B, 2).
    """

    def __init__(
        self,
        cell: Cell,
        n_lanes: int,
        generator: torch.Generator | None = None,
        *,
        products: Products = "float32",
        signs: Signs | None = None,
    ) -> None:
        super().__init__(cell, n_lanes, generator, signs)
        self.products = known_products(products)
        Z, M = cell.weight_shape
        self.lane_state = {
            "u_BM": torch.zeros(n_lanes, M),
            "A_BSZ": torch.zeros(n_lanes, cell.n_state, Z),
        }
        sizes = (n_lanes, cell.blocks, cell.gates, cell.n_units, M)
        self.signs_shape = (n_lanes, 2)
        self.native_shape = Shape("kf", *sizes, u="u_BM", A="A_BSZ")

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        B = self.n_lanes
        native = self._natively(lin, q_BS, live_B)
        if native is not None:  # the same tick, faster
            self._facts = {"influence_norm": native.norm_B}
            return
        K, G, N = lin.drive_BKGN.shape[1:]
        u_BM, a_BM = self.lane_state["u_BM"], lin.u_BM
        JA_BSZ = lin.push(self.lane_state["A_BSZ"], self.products)

        # both summands side by side: the old one, J (u (x) A), and the new one, a (x) D
        v_B2M = torch.stack((u_BM, a_BM), dim=1)
        p_old_B1Z = torch.bmm(q_BS[:, None], JA_BSZ)
        p_B2Z = torch.cat((p_old_B1Z, lin.pull_drive(q_BS)[:, None]), dim=1)
        norm_v_B2 = torch.linalg.vector_norm(v_B2M, dim=2)
        norm_A_B2 = torch.stack((norms(JA_BSZ), norms(lin.drive_BKGN)), dim=1)
        norm_B2 = norm_v_B2 * norm_A_B2
        norm_B = torch.where(live_B, norm_B2.sum(dim=1), 0.0)
        sound_B = is_sound(norm_B)
        self._gradient_ZM = outer_sum(p_B2Z, v_B2M, live_B & sound_B)

        is_there_B2 = norm_B2 > 0
        c_B2 = torch.where(is_there_B2, self.draw_signs().to(JA_BSZ), 0.0)
        p_B2 = torch.where(is_there_B2, (norm_A_B2 / norm_v_B2).sqrt_(), 1.0)
        with products_in("float32"):
            u_new_B1M = torch.bmm((c_B2 * p_B2)[:, None], v_B2M)
        old_B, new_B = (c_B2 / p_B2).unbind(1)
        A_new_BSZ = old_B[:, None, None] * JA_BSZ
        A_diagonal = A_new_BSZ.view(B, K, N, G, N).diagonal(dim1=2, dim2=4)
        A_diagonal.addcmul_(new_B[:, None, None, None], lin.drive_BKGN)
        self._commit("u_BM", u_new_B1M, live_B, sound_B)
        self._commit("A_BSZ", A_new_BSZ, live_B, sound_B)
        self._healthy_B = sound_B
        self._facts = {"influence_norm": norm_B}
