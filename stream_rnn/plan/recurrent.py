"""The recurrence of a plan: what the library is told of it, and what it is told of each tick.

Axes: B lanes, I inputs, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1, C chunks, Q
parameters of an element-wise unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from stream_rnn.credit import Ok, Rtrl, Tbptt
from stream_rnn.credit.base import MANY, Noisy
from stream_rnn.native import loading
from stream_rnn.native.loading import Observation, Tick
from stream_rnn.native.observe import Shape, observation_of
from stream_rnn.plan.parts import ACTIVATIONS, UNITS, Rule, Units, active_rule, units_of
from stream_rnn.recurrence import Dense, Feedforward, Recurrence, Stack

ROOM = 16  # numbers of the widest vector


class Recurrent(Protocol):
    """One recurrence's share in a plan.

    Attributes:
        gradients: where the library writes those of the parameters.
    """

    gradients: Sequence[Tensor]

    def describe(self, plan: loading.Plan) -> None:
        """Fill in what does not change from tick to tick."""

    def fits(self, recurrence: Recurrence) -> bool:
        """Whether every tensor is where it was."""

    def calm_ticks(self) -> int:
        """How many coming ticks differ in their events alone, at least 1."""

    def ready(self, tick: Tick, frozen: bool, n: int) -> bool:
        """Fill in what belongs to the `n` coming ticks; False: they are not the library's."""

    def adopt(self, pays: bool, taken: int, n: int) -> None:
        """Of `n` ticks that were made ready, `taken` were taken."""


class DenseRecurrent:
    """A dense cell and its credit rule."""

    def __init__(self, recurrence: Dense, rule: Rule) -> None:
        self._recurrence, self._rule = recurrence, rule
        self._cell, self._W_ZM = recurrence.cell, recurrence.W_ZM
        B = recurrence.n_lanes
        # results that the rule reports of the last tick
        self.gradients: Sequence[Tensor] = (torch.zeros(recurrence.cell.weight_shape),)
        self._healthy_B = torch.ones(B, dtype=torch.bool)
        self._facts = {} if isinstance(rule, Tbptt) else {"influence_norm": _doubles(B)}
        if isinstance(rule, Ok):
            self._facts["variance"] = _doubles(B * rule.native_shape.n_chunks)
        mask_ZM = recurrence.cell.mask_ZM
        self._fixed_R2 = None if mask_ZM is None else _runs(~mask_ZM)
        # pointers into these stay valid as long as these are the tensors in use
        self._kept = list(rule.lane_state.values())
        self._ids = _ids(self._kept)

    def describe(self, plan: loading.Plan) -> None:
        cell, rule, lanes = self._cell, self._rule, self._recurrence.lane_state
        sizes = (
            *(self._recurrence.n_lanes, cell.blocks, cell.gates, cell.n_units),
            cell.weight_shape[1],
        )
        state = {name: tensor.data_ptr() for name, tensor in rule.lane_state.items()}
        if isinstance(rule, Tbptt):
            o = observation_of(Shape("tbptt", *sizes, u="", A=""))
            o.window, o.every = rule.window, rule.every
            o.u, o.J_h, o.owed = state["u_BTM"], state["J_h_BTSN"], state["owed_BTS"]
            o.carries, o.drives = state["carry_BTKKN"], state["drive_BTKGN"]
            o.newest, o.begins = state["newest_B"], state.get("begins_B")
        elif isinstance(rule, Rtrl):
            o = observation_of(Shape("rtrl", *sizes, u="", A="G_BSZM"))
            o.A = state["G_BSZM"]
        else:
            o = observation_of(rule.native_shape)
            o.u, o.A = state[rule.native_shape.u], state[rule.native_shape.A]
        o.W_h = self._W_ZM[:, cell.n_inputs :].data_ptr()
        o.W_stride = self._W_ZM.stride(0)
        _results(o, self.gradients[0], self._healthy_B, self._facts.get("influence_norm"))
        if "variance" in self._facts:
            o.variance = self._facts["variance"].data_ptr()
        plan.credit = o
        plan.s, plan.ahead = lanes["s_BS"].data_ptr(), lanes["ahead_BS"].data_ptr()
        if self._fixed_R2 is not None:
            plan.fixed, plan.n_fixed = self._fixed_R2.data_ptr(), len(self._fixed_R2)

    def fits(self, recurrence: Recurrence) -> bool:
        if recurrence is not self._recurrence or self._recurrence.W_ZM is not self._W_ZM:
            return False
        credit = self._recurrence.credit
        if credit is not self._rule and active_rule(credit) is not self._rule:
            return False
        return _ids(self._rule.lane_state.values()) == self._ids

    def calm_ticks(self) -> int:
        rule, fidelity = self._rule, self._recurrence.fidelity
        calm = rule.calm_ticks() if isinstance(rule, Noisy | Tbptt) else MANY
        return calm if fidelity is None else min(calm, fidelity.unseen_ticks)

    def ready(self, tick: Tick, frozen: bool, n: int) -> bool:
        rule = self._rule
        tick.pays = True
        if isinstance(rule, Noisy):
            tick.signs = rule.sign_address(n)
            tick.n_signs = rule.signs_per_tick
        elif isinstance(rule, Tbptt):
            if frozen and rule.every > 1:
                return False  # losses that are not to be taught must not wait in the window
            tick.pays = rule.pays_next()
        return True

    def adopt(self, pays: bool, taken: int, n: int) -> None:
        rule, fidelity = self._rule, self._recurrence.fidelity
        if fidelity is not None:
            fidelity.pass_over(taken)
        if isinstance(rule, Noisy) and taken < n:
            rule.give_back(n - taken)
        rule.adopt(self.gradients[0] if pays else None, self._healthy_B, self._facts, taken)


class UnitsRecurrent:
    """Element-wise units, whose traces are their credit; perhaps under a feedforward layer."""

    def __init__(self, recurrence: Recurrence, units: Units) -> None:
        self._recurrence, self._units = recurrence, units
        self._stack = recurrence if isinstance(recurrence, Stack) else None
        above = self._stack.layers[1] if self._stack else None
        self._above = above if isinstance(above, Feedforward) else None
        self._state = dict(units.lane_state)
        self._parameters = recurrence.parameters()
        self._ids = _ids(self._state.values()), _ids(self._parameters)
        self.gradients: Sequence[Tensor] = [_with_room(p) for p in self._parameters]
        self._healthy_B = torch.ones(recurrence.n_lanes, dtype=torch.bool)
        self._norm_B = _doubles(recurrence.n_lanes)

    def describe(self, plan: loading.Plan) -> None:
        state = self._state
        B, K, Q, N = state["influence_BKQN"].shape
        o = Observation(B=B, K=K, N=N)
        _results(o, self.gradients[0], self._healthy_B, self._norm_B)
        plan.credit = o
        plan.elementwise.units, plan.elementwise.Q = UNITS[units_of(self._units)], Q
        plan.elementwise.influence = state["influence_BKQN"].data_ptr()
        plan.s, plan.ahead = state["s_BKN"].data_ptr(), state["ahead_BKN"].data_ptr()
        if self._above is not None:
            plan.layer.kind = ACTIVATIONS[self._above.activation]
            plan.layer.N, plan.layer.W = self._above.width, len(self._units.parameters())

    def fits(self, recurrence: Recurrence) -> bool:
        if recurrence is not self._recurrence or (self._stack and self._stack.owes):
            return False
        now = _ids(self._units.lane_state.values()), _ids(recurrence.parameters())
        return now == self._ids

    def calm_ticks(self) -> int:
        return MANY

    def ready(self, tick: Tick, frozen: bool, n: int) -> bool:
        tick.pays = True
        return True

    def adopt(self, pays: bool, taken: int, n: int) -> None:
        self._units.adopt(self._healthy_B, self._norm_B)


def _ids(tensors: Iterable[Tensor]) -> list[int]:
    """Tells tensors that are kept from others, faster than a loop."""
    return list(map(id, tensors))


def _results(o: Observation, gradient: Tensor, healthy_B: Tensor, norm_B: Tensor | None) -> None:
    o.gradient, o.healthy = gradient.data_ptr(), healthy_B.data_ptr()
    o.norm = None if norm_B is None else norm_B.data_ptr()


def _with_room(parameter: Tensor) -> Tensor:
    """Zeros like it; the library writes whole vectors, beyond the end too."""
    n = parameter.numel()
    return torch.zeros(n + ROOM)[:n].view(parameter.shape)


def _doubles(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64)


def _runs(marked: Tensor) -> Tensor:
    """(R, 2): where each run of true numbers begins, in the order of memory, and how long it is."""
    none = torch.zeros(1, dtype=torch.int8)
    edges = torch.diff(marked.flatten().to(torch.int8), prepend=none, append=none)
    starts_R1, ends_R1 = (edges == 1).nonzero(), (edges == -1).nonzero()
    return torch.cat((starts_R1, ends_R1 - starts_R1), 1)
