"""A fused tick: the whole `Learner.step` in one call of the native library, on the same tensors.

A learner looks its plan up for its parts, or does not find one: then, or whenever a tick is not
what the plan was made for, the step in torch does the same. Nothing is kept here that is state.

Axes: B lanes, I inputs, P outputs, Q targets, S state, Z = G*N, M = I+N+1, C chunks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stream_rnn.credit import Kf, Ok, Tbptt
from stream_rnn.credit.base import Noisy
from stream_rnn.native import loading
from stream_rnn.native.loading import Library, Observation, Step, Tick
from stream_rnn.native.observe import Shape, observation_of
from stream_rnn.plan.parts import CELLS, LOSSES, UPDATES, Parts, active_rule
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam, Sgd, Update

BLOCK_BYTES = 1 << 14
"""Outcomes of several ticks are allocated together, about this much at once."""


class Ticked(NamedTuple):
    """The fields of an `Outcome`, of which `updated` says so too where W did not have to wait."""

    prediction_BP: Tensor
    loss_B: Tensor
    learned_B: Tensor
    rejected_B: Tensor
    restarted_B: Tensor
    updated: Tensor


class Plan:
    """One learner's way into the library; made by `plan_for`."""

    def __init__(
        self, kernels: Library, parts: Parts, recurrence: Dense, rule: Kf | Ok | Tbptt
    ) -> None:
        self._library = kernels
        self._parts = parts
        self._rule = rule
        self._fidelity = recurrence.fidelity
        self._updates = (parts.update, parts.head_update)
        head, cell = parts.head, recurrence.cell
        loss = head.loss_function
        B, M = recurrence.n_lanes, cell.weight_shape[1]
        I, P, Q = cell.n_inputs, loss.n_outputs, loss.n_targets  # noqa: E741

        # results that the rule and the updates report of the last tick
        self._gradient_ZM = torch.zeros(cell.weight_shape)
        self._healthy_B = torch.ones(B, dtype=torch.bool)
        self._facts = {} if type(rule) is Tbptt else {"influence_norm": _doubles(B)}
        if type(rule) is Ok:
            self._facts["variance"] = _doubles(B * rule.native_shape.n_chunks)
        self._norms = (torch.zeros(()), torch.zeros(()))

        plan = loading.Plan(
            credit=self._observation(B, M, recurrence),
            cell=CELLS[type(cell)],
            loss=LOSSES[type(loss)],
            I=I,
            P=P,
            Q=Q,
            horizon=parts.horizon,
            tau=getattr(loss, "tau", 0.0),
        )
        lanes, waiting = recurrence.lane_state, parts.waiting
        plan.s, plan.ahead = lanes["s_BS"].data_ptr(), lanes["ahead_BS"].data_ptr()
        plan.waiting, plan.count = waiting["x_BkI"].data_ptr(), waiting["count_B"].data_ptr()
        plan.owed = waiting["owed_B"].data_ptr()
        self._mask_ZM = None if cell.mask_ZM is None else cell.mask_ZM.contiguous()
        plan.mask = None if self._mask_ZM is None else self._mask_ZM.data_ptr()
        plan.recurrent = _step(parts.update, recurrence.W_ZM, self._norms[0])
        plan.readout = _step(parts.head_update, head.V_PF, self._norms[1])
        self._work = torch.empty(kernels.plan_bytes(plan), dtype=torch.uint8)
        plan.work = self._work.data_ptr()
        self._plan = plan
        self._tick = Tick()
        # the pointers above stay valid as long as these are the tensors in use
        self._kept = [(rule.lane_state, name, t) for name, t in rule.lane_state.items()]
        self._states = [update.state for update in self._updates]
        self._settings = [_SETTINGS[type(update)] for update in self._updates]
        self._set = [read(u) for read, u in zip(self._settings, self._updates, strict=True)]
        self._parameters = (recurrence, recurrence.W_ZM, head, head.V_PF, loss)

        self._shapes = (torch.Size((B, I)), torch.Size((B, Q)), torch.Size((B,)))
        self._slots = max(1, min(256, BLOCK_BYTES // (B * (4 * P + 7))))
        self._sizes = (B, P)
        self._outcomes: list[Ticked] = []
        # kept, so that the addresses of the last frame stay valid
        self._last: tuple[Tensor | None, ...] = (None,) * 4

    def fits(self, kernels: Library, parts: Parts) -> bool:
        """Whether everything is where it was when the plan was made."""
        recurrence, W_ZM, head, V_PF, loss = self._parameters
        if kernels is not self._library or parts != self._parts:
            return False
        if recurrence.W_ZM is not W_ZM or head.V_PF is not V_PF or head.loss_function is not loss:
            return False
        credit = recurrence.credit
        if credit is not self._rule and active_rule(credit) is not self._rule:
            return False
        for place, name, tensor in self._kept:
            if place[name] is not tensor:
                return False
        for i, update in enumerate(self._updates):
            if update.state is not self._states[i] or self._settings[i](update) != self._set[i]:
                return False
        return True

    def step(
        self, x_BI: Tensor, y_BQ: Tensor, live_B: Tensor, scored_B: Tensor, frozen: bool
    ) -> tuple[Ticked, bool] | None:
        """One tick, and whether W had a gradient in it; None: the tensors are of another kind."""
        tick, rule, last = self._tick, self._rule, self._last
        if frozen and type(rule) is Tbptt and rule.every > 1:
            return None  # losses that are not to be taught must not wait in the window
        if not (x_BI is last[0] and y_BQ is last[1] and live_B is last[2] and scored_B is last[3]):
            if not self._takes(x_BI, y_BQ, live_B, scored_B):
                return None
            tick.x, tick.y = x_BI.data_ptr(), y_BQ.data_ptr()
            tick.live, tick.scored = live_B.data_ptr(), scored_B.data_ptr()
            self._last = (x_BI, y_BQ, live_B, scored_B)
        tick.frozen = frozen
        pays = True
        if isinstance(rule, Noisy):
            tick.signs = rule.sign_address()
        else:
            pays = rule.pays_next()
        tick.pays = pays
        if not self._outcomes:
            self._allocate()
        outcome = self._outcomes.pop()
        tick.slot = len(self._outcomes)
        self._library.tick(self._plan, tick)
        if self._fidelity is not None:
            self._fidelity.pass_over()
        rule.adopt(self._gradient_ZM if pays else None, self._healthy_B, self._facts)
        if not frozen:
            self._updates[1].adopt(self._norms[1])
            if pays:
                self._updates[0].adopt(self._norms[0])
        return outcome, pays

    def _takes(self, x_BI: Tensor, y_BQ: Tensor, live_B: Tensor, scored_B: Tensor) -> bool:
        """Whether a frame of these tensors can be read as it is."""
        shape_x, shape_y, shape_B = self._shapes
        frame = (x_BI, y_BQ, live_B, scored_B)
        return (
            x_BI.dtype is y_BQ.dtype is torch.float32
            and live_B.dtype is scored_B.dtype is torch.bool
            and x_BI.shape == shape_x
            and y_BQ.shape == shape_y
            and live_B.shape == scored_B.shape == shape_B
            and all(each.is_contiguous() and each.device.type == "cpu" for each in frame)
        )

    def _allocate(self) -> None:
        """Room for the outcomes of the next ticks; the last row is used first."""
        (B, P), n = self._sizes, self._slots
        floats = torch.zeros(n, B, P), torch.zeros(n, B)
        flags = *(torch.zeros(n, B, dtype=torch.bool) for _ in range(3)), _flags(n)
        tick = self._tick
        tick.prediction, tick.loss = (each.data_ptr() for each in floats)
        tick.learned, tick.rejected, tick.restarted, tick.updated = (f.data_ptr() for f in flags)
        rows = [each.unbind(0) for each in (*floats, *flags)]
        self._outcomes = [Ticked(*each) for each in zip(*rows, strict=True)]

    def _observation(self, B: int, M: int, recurrence: Dense) -> Observation:
        cell, rule = recurrence.cell, self._rule
        state = {name: tensor.data_ptr() for name, tensor in rule.lane_state.items()}
        if isinstance(rule, Tbptt):
            sizes = (B, cell.blocks, cell.gates, cell.n_units, M)
            o = observation_of(Shape("tbptt", *sizes, u="", A=""))
            o.window = rule.window
            o.u, o.J_h, o.owed = state["u_BTM"], state["J_h_BTSN"], state["owed_BTS"]
            o.carries, o.drives = state["carry_BTKKN"], state["drive_BTKGN"]
            o.newest = state["newest_B"]
        else:
            o = observation_of(rule.native_shape)
            o.u, o.A = state[rule.native_shape.u], state[rule.native_shape.A]
        W_ZM = recurrence.W_ZM
        o.W_h = W_ZM[:, cell.n_inputs :].data_ptr()
        o.W_stride = W_ZM.stride(0)
        o.gradient, o.healthy = self._gradient_ZM.data_ptr(), self._healthy_B.data_ptr()
        if "influence_norm" in self._facts:
            o.norm = self._facts["influence_norm"].data_ptr()
        if "variance" in self._facts:
            o.variance = self._facts["variance"].data_ptr()
        return o


def _doubles(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64)


def _flags(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.bool)


_SETTINGS: dict[type, Callable[[Any], tuple[float | None, ...]]] = {
    Adam: operator.attrgetter("lr", "clip", "beta1", "beta2", "eps"),
    Sgd: operator.attrgetter("lr", "clip", "momentum"),
}


def _step(update: Update, parameter: Tensor, norm: Tensor) -> Step:
    """The structure of an update of one parameter; makes its state if there is none yet."""
    state = update.state_for([parameter])
    step = Step(
        kind=UPDATES[type(update)], size=parameter.numel(), lr=update.lr, clip=update.clip or 0.0
    )
    step.parameter, step.norm = parameter.data_ptr(), norm.data_ptr()
    if isinstance(update, Adam):
        step.beta1, step.beta2, step.eps = update.beta1, update.beta2, update.eps
        step.first, step.second = state["m.0"].data_ptr(), state["v.0"].data_ptr()
        step.count = state["count"].data_ptr()
    elif isinstance(update, Sgd) and update.momentum:
        step.momentum = update.momentum
        step.first = state["velocity.0"].data_ptr()
    return step
