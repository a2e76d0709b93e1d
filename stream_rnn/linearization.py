"""The narrow waist between cells and credit rules: one cell step, to first order.

Axes: B lanes, I inputs, N units, K state blocks, G gates, S = K*N, Z = G*N, M = I+N+1, R columns.

Every gated cell is `s_t = f(s_tm1, z_t)` with `z_t = W u_t` and `u_t = [x_t, h_tm1, 1]`. The gates
act unit by unit, so four tensors say all there is to say about the step to first order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Products = Literal["float32", "tf32"]
"""Of float32 tensors on a GPU: exact to rounding, or from factors of 10 bits, faster."""


@contextmanager
def products_in(kind: Products) -> Iterator[None]:
    """Meanwhile a GPU multiplies matrices of float32 so, whatever it does elsewhere."""
    settings: Any = torch.backends.cuda.matmul
    value: str | bool = kind == "tf32"
    name = "allow_tf32"
    if hasattr(settings, "fp32_precision"):  # from torch 2.9 on
        name, value = "fp32_precision", "tf32" if kind == "tf32" else "ieee"
    before = getattr(settings, name)
    if value == before:
        yield
        return
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)


@dataclass(frozen=True, slots=True)
class Linearization:
    """First-order picture of one cell step, for B lanes that share W.

    Valid until the next `Cell.step`; who keeps one copies it, `W_h_ZN` included.

    Attributes:
        W_h_ZN: the columns of W that read h_tm1.
        drive_BKGN: ds_t[k, n] / dz_t[g, n] at fixed s_tm1.
        carry_BKKN: ds_t[k, n] / ds_tm1[l, n], the part that does not pass through z_t.
        u_BM: the vector the weight matrix multiplied, `[x_t, h_tm1, 1]`.
    """

    W_h_ZN: Tensor
    drive_BKGN: Tensor
    carry_BKKN: Tensor
    u_BM: Tensor
    _J_h: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def n_lanes(self) -> int:
        """B."""
        return self.drive_BKGN.shape[0]

    @property
    def n_units(self) -> int:
        """N."""
        return self.drive_BKGN.shape[3]

    @property
    def n_state(self) -> int:
        """S = K*N."""
        return self.drive_BKGN.shape[1] * self.n_units

    def J_h_BSN(self) -> Tensor:
        """ds_t/dh_tm1 (B, S, N), all paths; formed once per tick."""
        if not self._J_h:
            B, K, G, N = self.drive_BKGN.shape
            W_h_GNN = self.W_h_ZN.view(G, N, N)
            # one product per gate: (B, K, N, 1) * (N, N), summed over the gates
            J_BKNN = self.drive_BKGN[:, :, 0, :, None] * W_h_GNN[0]
            for g in range(1, G):
                J_BKNN.addcmul_(self.drive_BKGN[:, :, g, :, None], W_h_GNN[g])
            J_BKNN.diagonal(dim1=2, dim2=3).add_(self.carry_BKKN[:, :, 0])
            self._J_h.append(J_BKNN.view(B, K * N, N))
        return self._J_h[0]

    def push(self, X_BSR: Tensor, products: Products = "float32") -> Tensor:
        """J X with J = ds_t/ds_tm1; (B, S, R) -> (B, S, R).

        One batched matrix product of S*N*R multiply-adds through J_h (instead of Z*N*R through
        W_h: half for an LSTM, a quarter for a GRU), plus the carries of the other blocks.
        """
        B, S, R = X_BSR.shape
        N = self.n_units
        K = S // N
        with products_in(products):
            Y_BSR = torch.bmm(self.J_h_BSN(), X_BSR[:, :N])
        if K > 1:
            Y_BKNR = Y_BSR.view(B, K, N, R)
            X_BKNR = X_BSR.reshape(B, K, N, R)
            for block in range(1, K):
                Y_BKNR.addcmul_(self.carry_BKKN[:, :, block, :, None], X_BKNR[:, None, block])
        return Y_BSR

    def pull(self, q_BS: Tensor) -> Tensor:
        """J^T q; (B, S) -> (B, S). Through W_h, without forming J_h: Z*N multiply-adds a lane."""
        B, S = q_BS.shape
        N = self.n_units
        q_BKN = q_BS.view(B, S // N, N)
        back_BKN = torch.einsum("bkln,bkn->bln", self.carry_BKKN, q_BKN)
        back_BKN[:, 0] += self.pull_drive(q_BS) @ self.W_h_ZN
        return back_BKN.reshape(B, S)

    def pull_drive(self, q_BS: Tensor) -> Tensor:
        """(ds_t/dz_t)^T q; (B, S) -> (B, Z)."""
        B, K, G, N = self.drive_BKGN.shape
        z_BKGN = self.drive_BKGN * q_BS.view(B, K, 1, N)
        z_BGN = z_BKGN.sum(dim=1) if K > 1 else z_BKGN
        return z_BGN.view(B, G * N)

    def dense_drive(self) -> Tensor:
        """ds_t/dz_t as a dense (B, S, Z) tensor: a K x G grid of diagonals."""
        B, K, G, N = self.drive_BKGN.shape
        dense_BKNGN = torch.diag_embed(self.drive_BKGN).permute(0, 1, 3, 2, 4)
        return dense_BKNGN.reshape(B, K * N, G * N)
