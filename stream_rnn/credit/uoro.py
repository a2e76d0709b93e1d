"""UORO: the influence as one outer product (Tallec & Ollivier 2018). A baseline, very noisy.

Axes: B lanes, G gates, N units, S = K*N, Z = G*N, M = I+N+1.

    G_t ~ st (x) th.    st' = r0 J st + r1 nu,    th' = th / r0 + (D^T nu) u^T / r1,
    r0 = sqrt(|th| / |J st|),  r1 = sqrt(|D^T nu| |u| / |nu|),  nu fair signs.
    (docs/algorithms.md 5.1)

A summand of norm zero is dropped exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Noisy, Signs, is_sound, norms, outer_sum
from stream_rnn.lane_state import rows
from stream_rnn.linearization import Linearization


class Uoro(Noisy):
    """Unbiased for frozen W, of huge variance; memory S + Z*M a lane, time that of a forward pass.

    The gradient is read before the two summands are mixed: still unbiased, and without the newest
    mixing's noise (docs/algorithms.md 6.4).

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        generator: where the signs come from.
        signs: replaces the generator; called with shape (B, S).
    """

    def __init__(
        self,
        cell: Cell,
        n_lanes: int,
        generator: torch.Generator | None = None,
        *,
        signs: Signs | None = None,
    ) -> None:
        super().__init__(cell, n_lanes, generator, signs)
        self.lane_state = {
            "st_BS": torch.zeros(n_lanes, cell.n_state),
            "th_BZM": torch.zeros(n_lanes, *cell.weight_shape),
        }

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        st_BS, th_BZM, u_BM = self.lane_state["st_BS"], self.lane_state["th_BZM"], lin.u_BM
        J_st_BS = lin.push(st_BS[:, :, None])[:, :, 0]
        nu_BS = self._signs((self.n_lanes, lin.n_state)).to(J_st_BS)
        D_nu_BZ = lin.pull_drive(nu_BS)  # nu^T (D (x) u) = (D^T nu) u^T, never formed as S x Z

        norm_th, norm_J_st = norms(th_BZM), norms(J_st_BS)
        norm_F, norm_nu = norms(D_nu_BZ) * norms(u_BM), norms(nu_BS)
        old_B, new_B = norm_th * norm_J_st, norm_F * norm_nu
        norm_B = torch.where(live_B, old_B + new_B, 0.0)
        sound_B = is_sound(norm_B)

        # dW = sum over lanes of (q . J st) th + (D^T q) u^T; where: masked lanes may hold NaN
        use_B = live_B & sound_B
        of_old_B = torch.where(use_B, (q_BS * J_st_BS).sum(dim=1), 0.0)
        th_used_BZM = torch.where(rows(use_B, th_BZM), th_BZM, 0.0)
        old_ZM = torch.mv(th_used_BZM.flatten(1).T, of_old_B).view(self.cell.weight_shape)
        new_ZM = outer_sum(lin.pull_drive(q_BS)[:, None], u_BM[:, None], use_B)
        self._gradient_ZM = old_ZM + new_ZM

        is_old, is_new = old_B > 0, new_B > 0  # else 0/0: selected away below
        r0, r1 = (norm_th / norm_J_st).sqrt(), (norm_F / norm_nu).sqrt()
        st_new_BS = torch.where(is_old, r0, 0.0)[:, None] * J_st_BS
        st_new_BS.addcmul_(torch.where(is_new, r1, 0.0)[:, None], nu_BS)
        th_new_BZM = torch.where(is_old, 1 / r0, 0.0)[:, None, None] * th_BZM
        of_new_BZ = torch.where(is_new, 1 / r1, 0.0)[:, None] * D_nu_BZ
        th_new_BZM.addcmul_(of_new_BZ[:, :, None], u_BM[:, None, :])
        self._commit("st_BS", st_new_BS, live_B, sound_B)
        self._commit("th_BZM", th_new_BZM, live_B, sound_B)
        self._healthy_B = sound_B
        self._facts = {"influence_norm": norm_B}
