"""Fused ticks: `Learner.step`, once or many times, in one call of the library, on the same tensors.

A learner looks its plan up for its parts, or does not find one: then, or whenever a tick is not
what the plan was made for, the step in torch does the same. Nothing is kept here that is state.

Axes: T ticks, B lanes, I inputs, P outputs, Q targets.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from stream_rnn.head import Head
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.native.loading import Library, Step, Tick
from stream_rnn.plan.outcomes import Room, Ticked
from stream_rnn.plan.parts import (
    CELLS,
    LOSSES,
    UPDATES,
    Parts,
    Rows,
    inner_of,
    settings_of,
    states_of,
)
from stream_rnn.plan.recurrent import Recurrent
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam, Fptt, Obgd, Sgd, Update

Taken = tuple[Room, int, int, bool]
"""Where the outcomes are: the rows from .. up to .., and whether W had to wait in all of them.

Instead of one, None: the first tick is not the library's.
"""


class Plan:
    """One learner's way into the library; made by `plan_for`.

    Attributes:
        takes_runs: whether several ticks in one `run` cost less than each by itself.
    """

    takes_runs = True

    def __init__(self, kernels: Library, parts: Parts, recurrent: Recurrent) -> None:
        self._library = kernels
        self._parts = parts
        self._recurrent = recurrent
        owns = parts.head.owns_update
        self._updates = (parts.update,) if owns else (parts.update, parts.head_update)
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
            blind=not head.reads_inputs,
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
        if head.owns_update:
            plan.readout = Step()
            plan.readout.parameters[0].value = head.V_PF.data_ptr()
        else:
            plan.readout = _step(parts.head_update, [head.V_PF], [None], self._norms[1])
        self._squares = _squares(plan, head)
        self._work = torch.empty(kernels.plan_bytes(plan) + 64, dtype=torch.uint8)
        plan.work = (self._work.data_ptr() + 63) // 64 * 64
        self._plan = plan
        self._tick = Tick()
        # the pointers above stay valid as long as these are the tensors in use
        self._states = [states_of(update) for update in self._updates]
        self._settings = [settings_of(update) for update in self._updates]
        self._readout = (head, head.V_PF, loss)

        self._shapes = (torch.Size((B, I)), torch.Size((B, Q)), torch.Size((B,)))
        self._bytes = (4 * B * I, 4 * B * Q, B)  # of a tick's rows
        self._sizes = (B, P)
        self._room = Room(B, P)
        self._room.describe(self._tick)
        # kept, so that the addresses of the last frame or block stay valid
        self._last: tuple[Tensor | None, ...] = (None,) * 5
        self._is_block = False

    def fits(self, kernels: Library, parts: Parts) -> bool:
        """Whether everything is where it was when the plan was made."""
        head, V_PF, loss = self._readout
        if kernels is not self._library or parts != self._parts:
            return False
        if head.V_PF is not V_PF or head.loss_function is not loss:
            return False
        if isinstance(head, LeastSquaresHead) and _settings_of(head) != self._squares:
            return False
        if not self._recurrent.fits(parts.recurrence):
            return False
        for i, update in enumerate(self._updates):
            if any(map(operator.is_not, states_of(update), self._states[i])):
                return False
            if settings_of(update) != self._settings[i]:
                return False
        return True

    def step(self, rows: Rows, frozen: bool) -> tuple[Ticked, bool] | None:
        """One tick, of rows without T, and whether W had to wait in it.

        None: the tick is not the library's.
        """
        tick = self._tick
        if self._is_block or any(map(operator.is_not, rows, self._last)):
            if not self._takes(rows, ()):
                return None
            tick.x, tick.y, tick.live, tick.scored, tick.weight = map(_address, rows)
            self._last, self._is_block = rows, False
        if not self._recurrent.ready(tick, frozen, 1):
            return None
        room = self._room_for(1)
        self._call(1, frozen)
        return room.row(room.used - 1), frozen or not tick.pays

    def peek(self, rows: Rows, t: int) -> Taken | None:
        """What would be predicted at tick `t` of these rows; nothing moves."""
        if not self._aims(rows, t):
            return None
        tick, room = self._tick, self._room_for(1)
        tick.slot, tick.peeks = room.used, True
        self._library.ticks(self._plan, tick, 1)
        room.used += 1
        return room, room.used - 1, room.used, True

    def run(self, rows: Rows, start: int, end: int, frozen: bool) -> Taken | None:
        """Ticks from `start` on, at most up to `end`, as many as differ in their rows alone."""
        if not self._aims(rows, start):
            return None
        tick, n = self._tick, min(end - start, self._recurrent.calm_ticks())
        if not self._recurrent.ready(tick, frozen, n):
            return None
        room = self._room_for(n)
        first = room.used
        self._call(n, frozen)
        return room, first, room.used, frozen or not tick.pays

    def _aims(self, rows: Rows, t: int) -> bool:
        """Let the tick read row `t` and those after it, if they can be read as they are."""
        tick = self._tick
        if not self._is_block or any(map(operator.is_not, rows, self._last)):
            if not self._takes(rows, (len(rows[0]),)):
                return False
            self._addresses = tuple(map(_address, rows))
            self._last, self._is_block = rows, True
        (x, y, live, scored, weight), (of_x, of_y, of_B) = self._addresses, self._bytes
        tick.x, tick.y = x + t * of_x, y + t * of_y
        tick.live, tick.scored = live + t * of_B, scored + t * of_B
        tick.weight = weight and weight + 4 * t * of_B
        return True

    def _call(self, n: int, frozen: bool) -> None:
        """Up to n ticks, and everybody told of them."""
        tick, room = self._tick, self._room
        tick.frozen, tick.peeks, tick.slot = frozen, False, room.used
        taken = self._library.ticks(self._plan, tick, n)
        room.used += taken
        pays = bool(tick.pays)
        self._recurrent.adopt(pays, taken, n)
        if frozen:
            return
        if pays:
            self._updates[0].adopt(self._norms[0])
        if len(self._updates) > 1:
            self._updates[1].adopt(self._norms[1])

    def _room_for(self, n: int) -> Room:
        if self._room.used + n > self._room.size:
            self._room = Room(*self._sizes, n)
            self._room.describe(self._tick)
        return self._room

    def _takes(self, rows: Rows, lead: tuple[int, ...]) -> bool:
        """Whether rows of these tensors can be read as they are."""
        x, y, live, scored, weight = rows
        shape_x, shape_y, shape_B = self._shapes
        if weight is not None and (weight.dtype is not x.dtype or weight.shape != live.shape):
            return False
        if weight is not None and self._squares:
            return False  # a read-out that owns its update takes none, and torch says so
        given = [each for each in rows if each is not None]
        return (
            x.dtype is y.dtype is torch.float32
            and live.dtype is scored.dtype is torch.bool
            and x.shape == (*lead, *shape_x)
            and y.shape == (*lead, *shape_y)
            and live.shape == scored.shape == (*lead, *shape_B)
            and all(each.is_contiguous() and each.device.type == "cpu" for each in given)
        )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _squares(plan: loading.Plan, head: Head) -> tuple[object, ...]:
    """Describe a read-out that owns its update; what of it must stay as it is."""
    if not isinstance(head, LeastSquaresHead):
        return ()
    of = plan.squares
    of.forgetting, of.prior, of.reach = head.forgetting, head.prior, head.reach
    of.C, of.size = head.C_FF.data_ptr(), head.size_P.data_ptr()
    return _settings_of(head)


def _settings_of(head: LeastSquaresHead) -> tuple[object, ...]:
    return head.forgetting, head.prior, head.reach, id(head.C_FF), id(head.size_P)


def _step(
    update: Update,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    norm: Tensor,
) -> Step:
    """The structure of an update; makes its state if there is none yet."""
    drawn, update = update.state_for(parameters), inner_of(outer := update)
    state = update.state
    step = Step(kind=UPDATES[type(update)], lr=update.lr, clip=update.clip or 0.0)
    step.norm = norm.data_ptr()
    if isinstance(outer, Fptt):
        step.alpha, step.beta = outer.alpha, outer.beta
    if isinstance(update, Adam):
        step.beta1, step.beta2, step.eps = update.beta1, update.beta2, update.eps
        step.count = state["count"].data_ptr()
    elif isinstance(update, Obgd):
        step.kappa = update.kappa
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
        if isinstance(outer, Fptt):
            mine.mean, mine.lam = drawn[f"mean.{i}"].data_ptr(), drawn[f"lam.{i}"].data_ptr()
    return step
