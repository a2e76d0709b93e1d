"""What every cell is: a pure function of (W, x, s) and the linearization of its step.

Axes: B lanes, I inputs, N units, K state blocks, G gates, S = K*N, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from stream_rnn.linearization import Linearization


class Cell(ABC):
    """One recurrent step `s_t = f(s_tm1, W [x_t, h_tm1, 1])` whose gates act unit by unit.

    The rows of W are ordered gate by gate (row g*N + n), its columns `[x | h | bias]`. h is the
    first block of the state.

    Attributes:
        blocks: K, the number of state blocks (1: h; 2: h and c).
        gates: G, the number of gates.
        n_inputs: I.
        n_units: N.
        mask_ZM: True where W may be non-zero, or None if everywhere. Structural zeros stay zero
            because whoever holds W ignores the gradient there.
    """

    blocks: ClassVar[int]
    gates: ClassVar[int]

    def __init__(self, n_inputs: int, n_units: int) -> None:
        if n_inputs < 1:
            raise ValueError(f"n_inputs must be at least 1, got {n_inputs}")
        if n_units < 1:
            raise ValueError(f"units must be at least 1, got {n_units}")
        self.n_inputs = n_inputs
        self.n_units = n_units
        self.mask_ZM: Tensor | None = None

    @property
    def n_state(self) -> int:
        """S = K*N."""
        return self.blocks * self.n_units

    @property
    def weight_shape(self) -> tuple[int, int]:
        """(Z, M)."""
        return self.gates * self.n_units, self.n_inputs + self.n_units + 1

    @abstractmethod
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        """Return s_t (B, S) and the linearization of this step. Changes none of its arguments."""

    def initial_weight(self, generator: torch.Generator | None = None) -> Tensor:
        """A fresh W (Z, M) in float64 on the CPU; the same for the same generator state.

        Inputs uniform with variance 1/(3 I) (bounded drive), the recurrent matrix of each gate
        orthogonal, biases zero. Cells with a forget gate open it.
        """
        N, columns = self.n_units, self.n_inputs
        W_ZM = torch.zeros(self.weight_shape, dtype=torch.float64)
        bound = columns**-0.5
        for g in range(self.gates):
            rows = slice(g * N, (g + 1) * N)
            W_ZM[rows, :columns] = (
                torch.rand(N, columns, generator=generator, dtype=torch.float64) * 2 - 1
            ) * bound
            square_NN = torch.randn(N, N, generator=generator, dtype=torch.float64)
            Q_NN, upper_NN = torch.linalg.qr(square_NN)
            W_ZM[rows, columns : columns + N] = Q_NN * upper_NN.diagonal().sign()
        if self.mask_ZM is not None:
            W_ZM = torch.where(self.mask_ZM, W_ZM, 0.0)
        return W_ZM

    def _assemble(self, x_BI: Tensor, s_BS: Tensor) -> Tensor:
        """u_t = [x_t, h_tm1, 1], (B, M)."""
        h_BN = s_BS if self.blocks == 1 else s_BS[:, : self.n_units]
        return torch.cat((x_BI, h_BN, h_BN.new_ones(len(h_BN), 1)), dim=1)

    def _recurrent_columns(self, W_ZM: Tensor) -> Tensor:
        return W_ZM[:, self.n_inputs : self.n_inputs + self.n_units]
