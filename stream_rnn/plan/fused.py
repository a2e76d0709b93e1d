"""A fused tick: the whole `Learner.step` in one call of the native library, on the same tensors.

A learner looks its plan up for its parts, or does not find one: then, or whenever a tick is not
what the plan was made for, the step in torch does the same. Nothing is kept here that is state.

Axes: B lanes, I inputs, P outputs, Q targets.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stream_rnn.native import loading
from stream_rnn.native.loading import Library, Step, Tick
from stream_rnn.plan.parts import CELLS, LOSSES, UPDATES, Parts
from stream_rnn.plan.recurrent import Recurrent
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

    def __init__(self, kernels: Library, parts: Parts, recurrent: Recurrent) -> None:
        self._library = kernels
        self._parts = parts
        self._recurrent = recurrent
        self._updates = (parts.update, parts.head_update)
        recurrence, head = parts.recurrence, parts.head
        loss = head.loss_function
        B, I = recurrence.n_lanes, recurrence.n_inputs  # noqa: E741
        P, Q = loss.n_outputs, loss.n_targets
        self._norms = (torch.zeros(()), torch.zeros(()))

        plan = loading.Plan(
            loss=LOSSES[type(loss)],
            I=I,
            P=P,
            Q=Q,
            horizon=parts.horizon,
            tau=getattr(loss, "tau", 0.0),
        )
        if isinstance(recurrence, Dense):
            plan.cell = CELLS[type(recurrence.cell)]
        recurrent.describe(plan)
        waiting = parts.waiting
        plan.waiting, plan.count = waiting["x_BkI"].data_ptr(), waiting["count_B"].data_ptr()
        plan.owed = waiting["owed_B"].data_ptr()
        learned = recurrence.parameters()
        plan.recurrent = _step(parts.update, learned, recurrent.gradients, self._norms[0])
        plan.readout = _step(parts.head_update, [head.V_PF], [None], self._norms[1])
        self._work = torch.empty(kernels.plan_bytes(plan) + 64, dtype=torch.uint8)
        plan.work = (self._work.data_ptr() + 63) // 64 * 64
        self._plan = plan
        self._tick = Tick()
        # the pointers above stay valid as long as these are the tensors in use
        self._states = [update.state for update in self._updates]
        self._settings = [_SETTINGS[type(update)] for update in self._updates]
        self._set = [read(u) for read, u in zip(self._settings, self._updates, strict=True)]
        self._readout = (head, head.V_PF, loss)

        self._shapes = (torch.Size((B, I)), torch.Size((B, Q)), torch.Size((B,)))
        self._slots = max(1, min(256, BLOCK_BYTES // (B * (4 * P + 7))))
        self._sizes = (B, P)
        self._outcomes: list[Ticked] = []
        # kept, so that the addresses of the last frame stay valid
        self._last: tuple[Tensor | None, ...] = (None,) * 4

    def fits(self, kernels: Library, parts: Parts) -> bool:
        """Whether everything is where it was when the plan was made."""
        head, V_PF, loss = self._readout
        if kernels is not self._library or parts != self._parts:
            return False
        if head.V_PF is not V_PF or head.loss_function is not loss:
            return False
        if not self._recurrent.fits(parts.recurrence):
            return False
        for i, update in enumerate(self._updates):
            if update.state is not self._states[i] or self._settings[i](update) != self._set[i]:
                return False
        return True

    def step(
        self, x_BI: Tensor, y_BQ: Tensor, live_B: Tensor, scored_B: Tensor, frozen: bool
    ) -> tuple[Ticked, bool] | None:
        """One tick, and whether W had a gradient in it; None: the tensors are of another kind."""
        tick, last = self._tick, self._last
        if not (x_BI is last[0] and y_BQ is last[1] and live_B is last[2] and scored_B is last[3]):
            if not self._takes(x_BI, y_BQ, live_B, scored_B):
                return None
            tick.x, tick.y = x_BI.data_ptr(), y_BQ.data_ptr()
            tick.live, tick.scored = live_B.data_ptr(), scored_B.data_ptr()
            self._last = (x_BI, y_BQ, live_B, scored_B)
        if not self._recurrent.ready(tick, frozen):
            return None
        tick.frozen = frozen
        pays = bool(tick.pays)
        if not self._outcomes:
            self._allocate()
        outcome = self._outcomes.pop()
        tick.slot = len(self._outcomes)
        self._library.ticks(self._plan, tick)
        self._recurrent.adopt(pays, 1)
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


def _flags(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.bool)


_SETTINGS: dict[type, Callable[[Any], tuple[float | None, ...]]] = {
    Adam: operator.attrgetter("lr", "clip", "beta1", "beta2", "eps"),
    Sgd: operator.attrgetter("lr", "clip", "momentum"),
}


def _step(
    update: Update,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    norm: Tensor,
) -> Step:
    """The structure of an update; makes its state if there is none yet."""
    state = update.state_for(parameters)
    step = Step(kind=UPDATES[type(update)], lr=update.lr, clip=update.clip or 0.0)
    step.norm = norm.data_ptr()
    if isinstance(update, Adam):
        step.beta1, step.beta2, step.eps = update.beta1, update.beta2, update.eps
        step.count = state["count"].data_ptr()
    elif isinstance(update, Sgd):
        step.momentum = update.momentum
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        mine = step.parameters[i]
        mine.size, mine.value = parameter.numel(), parameter.data_ptr()
        mine.gradient = None if gradient is None else gradient.data_ptr()
        if isinstance(update, Adam):
            mine.first, mine.second = state[f"m.{i}"].data_ptr(), state[f"v.{i}"].data_ptr()
        elif isinstance(update, Sgd) and update.momentum:
            mine.first = state[f"velocity.{i}"].data_ptr()
    return step
