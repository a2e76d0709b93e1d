"""Units that see no other unit's state: exact RTRL at the cost of the forward pass.

Axes: B lanes, I inputs, N units, K state components of a unit (and L, those one tick earlier),
C rows of the input weights, Q parameters of a unit as traces (columns).

J_t falls apart into one K x K block per unit, so a parameter's influence lives in the K components
of its own unit, and all of RTRL (Williams & Zipser 1989) is one small matrix per unit:

    T_t = J_t T_tm1 + (immediate derivatives), (B, K, Q, N);     dL/dp = sum over B, K of q T

Exact for one layer at every tick, also while the parameters move: each tick enters with the
parameters it was taken with, never with a later one pulled out of the sum (docs/algorithms.md
12.1). Of layers stacked on one another, the last is exact.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.credit.base import is_sound, norms
from stream_rnn.lane_state import implies, reset_lanes, rows
from stream_rnn.recurrence.base import Recurrence
from stream_rnn.saved import take

Local = TypeVar("Local")  # what a step leaves behind for its own derivatives


class Elementwise(Recurrence, Generic[Local]):
    """What the element-wise recurrences share: everything but the step and its derivatives.

    Bad credit (docs/algorithms.md 11.2): a lane whose traces come out non-finite or with a norm
    above `EXPLODED`, or could give a gradient that is, contributes nothing, its traces restart at
    zero, and `healthy()` says so; its hidden state goes on.

    Args:
        n_inputs: I.
        n_units: N.
        n_lanes: B.
        n_components: K; `width` is K*N, component by component.
        n_columns: Q.
        parameters: name -> initial value, on the device and in the dtype to work in.
    """

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        n_lanes: int,
        n_components: int,
        n_columns: int,
        parameters: Mapping[str, Tensor],
    ) -> None:
        self.n_inputs, self.n_units, self.n_lanes = n_inputs, n_units, n_lanes
        self.width = n_components * n_units
        self._parameters = dict(parameters)
        zeros = next(iter(self._parameters.values())).new_zeros
        self.lane_state = {
            "s_BKN": zeros(n_lanes, n_components, n_units),
            "ahead_BKN": zeros(n_lanes, n_components, n_units),
            "influence_BKQN": zeros(n_lanes, n_components, n_columns, n_units),
        }
        self._new_BKQN = torch.zeros_like(self.lane_state["influence_BKQN"])
        self._tick: tuple[Tensor, Local] | None = None
        self._healthy_B = torch.ones(n_lanes, dtype=torch.bool, device=self._new_BKQN.device)
        self._norm_B: Tensor | None = None
        self._zero = zeros(())

    # --- what a subclass knows -------------------------------------------------------------------

    @abstractmethod
    def _step(self, x_BI: Tensor, s_BKN: Tensor) -> tuple[Tensor, Local]:
        """The next state (B, K, N), and what `_propagate` needs; changes nothing."""

    @abstractmethod
    def _propagate(self, local: Local, old_BKQN: Tensor, new_BKQN: Tensor) -> Tensor:
        """Write J T + immediate into `new_BKQN`.

        Returns:
            ds/d(W x), with C/N rows where the K state components broadcast: (B or 1, C/N, N).
        """

    @abstractmethod
    def _input_weights(self) -> Tensor:
        """The weights (C, I) that read x."""

    @abstractmethod
    def _gradients(self, q_BKN: Tensor, influence_BKQN: Tensor) -> list[Tensor]:
        """One for each of `parameters()`, summed over lanes."""

    # --- the rest is common ----------------------------------------------------------------------

    @override
    def parameters(self) -> list[Tensor]:
        return list(self._parameters.values())

    @override
    def forward(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        self._tick = self._step(x_BI, self.lane_state["s_BKN"])
        return self._tick[0].flatten(1)

    @override
    def learn(self, dL_dh_BN: Tensor, live_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """Commit and learn (see `Recurrence.learn`); never update-locked."""
        if self._tick is None:
            raise RuntimeError("learn() needs a forward() of the same tick before it")
        (candidate_BKN, local), self._tick = self._tick, None
        s_BKN, old_BKQN = self.lane_state["s_BKN"], self.lane_state["influence_BKQN"]
        new_BKQN, q_BKN = self._new_BKQN, dL_dh_BN.reshape(s_BKN.shape)
        # before the state is committed: `local` may look at the old one
        slope_BCN = self._propagate(local, old_BKQN, new_BKQN)
        norm_B = norms(new_BKQN)
        # |gradient| <= |q| |traces|
        sound_B = is_sound(norm_B) & is_sound(norm_B * norms(q_BKN))
        use_B = live_B & sound_B
        torch.where(rows(use_B, new_BKQN), new_BKQN, self._zero, out=new_BKQN)
        gradients = self._gradients(torch.where(rows(use_B, q_BKN), q_BKN, 0.0), new_BKQN)
        torch.where(rows(live_B, new_BKQN), new_BKQN, old_BKQN, out=old_BKQN)
        torch.where(rows(live_B, s_BKN), candidate_BKN, s_BKN, out=s_BKN)
        self._healthy_B = implies(live_B, sound_B)
        self._norm_B = torch.where(live_B, norm_B, 0.0)
        return gradients, (q_BKN * slope_BCN).flatten(1) @ self._input_weights()

    @override
    def roll(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        ahead_BKN = self.lane_state["ahead_BKN"]
        candidate_BKN, _ = self._step(x_BI, ahead_BKN)
        torch.where(rows(live_B, ahead_BKN), candidate_BKN, ahead_BKN, out=ahead_BKN)
        return ahead_BKN.flatten(1)

    @override
    def hidden(self, is_ahead: bool) -> list[Tensor]:
        return [self.lane_state["ahead_BKN" if is_ahead else "s_BKN"]]

    @override
    def healthy(self) -> Tensor:
        return self._healthy_B

    @override
    def report(self) -> dict[str, Tensor]:
        return {} if self._norm_B is None else {"influence_norm": self._norm_B.amax()}

    def adopt(self, healthy_B: Tensor, norm_B: Tensor) -> None:
        """A fused tick learned in this recurrence's place, on its state: what came out."""
        self._healthy_B, self._norm_B = healthy_B, norm_B

    @override
    def reset(self, lanes_B: Tensor) -> None:
        reset_lanes(self.lane_state, lanes_B)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._parameters | self.lane_state

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, mine in self.state_dict().items():
            take(mine, state, name)
        self._norm_B = None


def require_sizes(**sizes: int) -> None:
    """Raise ValueError naming a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def transport(J_BKLN: Tensor, old_BKQN: Tensor, new_BKQN: Tensor) -> None:
    """Write J T: K multiply-adds per number, in K operations. J may be shared by the lanes."""
    torch.mul(J_BKLN[:, :, 0, None], old_BKQN[:, 0:1], out=new_BKQN)
    for component in range(1, J_BKLN.shape[2]):
        earlier = slice(component, component + 1)
        new_BKQN.addcmul_(J_BKLN[:, :, component, None], old_BKQN[:, earlier])


def read(q_BKN: Tensor, influence_BKQN: Tensor) -> Tensor:
    """q^T T summed over lanes and components: (Q, N)."""
    return (q_BKN[:, :, None] * influence_BKQN).sum(dim=(0, 1))


# --- two components that turn and fade: a complex number, lam = exp(-decay + i phase) -------------

LONGEST_DECAY = 100.0  # exp(-100) is 0 in float32; keeps decay * exp(-decay) from inf * 0


def rotation(decay_N: Tensor, phase_N: Tensor) -> Tensor:
    """J of multiplying by lam, (1, K, L, N): [[Re, -Im], [Im, Re]]."""
    size_N = torch.exp(-decay_N)
    re_N, im_N = size_N * torch.cos(phase_N), size_N * torch.sin(phase_N)
    return torch.stack((re_N, -im_N, im_N, re_N)).view(1, 2, 2, -1)


def moved(J_1KLN: Tensor, s_BLN: Tensor) -> Tensor:
    """J s, (B, K, N)."""
    return (J_1KLN * s_BLN[:, None]).sum(dim=2)


def turned(s_BKN: Tensor) -> Tensor:
    """A quarter turn, i s: (a, b) -> (-b, a)."""
    a_BN, b_BN = s_BKN.unbind(1)
    return torch.stack((-b_BN, a_BN), dim=1)


def ring(
    n_units: int, generator: torch.Generator, r_min: float, r_max: float, max_phase: float
) -> tuple[Tensor, Tensor]:
    """Log decay and log phase (N), float64: lam spread evenly over a ring or a sector of it.

    Raises:
        ValueError: unless 0 <= r_min < r_max <= 1 and 0 < max_phase <= 2 pi.
    """
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(f"expected 0 <= r_min < r_max <= 1, got r_min {r_min}, r_max {r_max}")
    if not 0 < max_phase <= 2 * math.pi:
        raise ValueError(f"max_phase must be in (0, 2 pi], radians per event, got {max_phase}")
    area_N, turn_N = torch.rand(2, n_units, generator=generator, dtype=torch.float64)
    square_N = (r_min**2 + (r_max**2 - r_min**2) * area_N).clamp(min=1e-12, max=1 - 1e-12)
    return torch.log(-0.5 * torch.log(square_N)), torch.log(max_phase * turn_N.clamp(min=1e-6))
