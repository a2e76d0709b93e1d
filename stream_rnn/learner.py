"""One online step: predict, score, learn. Knows Recurrence, Head and Update, nothing below them.

Axes: B lanes, I inputs, P outputs, Q targets, k the forecast horizon.

The step is a fixed sequence of tensor operations: no host synchronization, no data-dependent
shapes, no autograd. Selection is `torch.where`, so that a bad lane can never touch another one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from stream_rnn.frame import Block, Frame, Outcome, Outcomes
from stream_rnn.head import Head
from stream_rnn.lane_state import implies, reset_lanes, without
from stream_rnn.plan import (
    Parts,
    Plan,
    Recorded,
    Rows,
    execution,
    is_watched,
    plan_for,
    recorded_for,
)
from stream_rnn.recurrence.base import Recurrence
from stream_rnn.saved import part, take
from stream_rnn.update.base import Update

ABSURD = 1e6  # inputs and targets are standardized: beyond this an event is bad
DIVERGED = 1e15  # raw outputs beyond this have no finite square in float32
LONGEST_LOCK = 100_000  # ticks; a rule that owes for longer will never pay

Teaches = Literal["all", "readout", "nothing"]
"""What learns: recurrence and read-out, the read-out alone (W stands still), or neither."""


class Learner:
    """Learns from each frame, then predicts `horizon` events ahead.

    With horizon 0 the target belongs to the event itself. With horizon k >= 1 the target observed
    now belongs to the prediction made k of the lane's events ago: the learning state lags k events
    behind and learns the pair (x_{t-k}, y_t) in order and exactly; the prediction comes from a
    second state, rolled forward over all inputs with the newest parameters.

    `teaches` may be set between two ticks; whatever it is, predictions, hidden states and losses go
    on.

    Args:
        recurrence: what is learned.
        head: the read-out.
        update: moves the recurrence's parameters.
        head_update: moves the read-out's.
        horizon: k, events.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        head: Head,
        update: Update,
        head_update: Update,
        horizon: int = 0,
    ) -> None:
        if horizon < 0:
            raise ValueError(f"horizon must not be negative, got {horizon}")
        if update is head_update:
            raise ValueError("the recurrence and the read-out need an update object each")
        self.recurrence = recurrence
        self.head = head
        self.update = update
        self.head_update = head_update
        self.horizon = horizon
        self.teaches: Teaches = "all"
        V_PF = head.V_PF
        B = recurrence.n_lanes
        self._lanes = torch.arange(B, device=V_PF.device)
        self._waiting = {
            "x_BkI": V_PF.new_zeros(B, max(horizon, 1), recurrence.n_inputs),
            "count_B": torch.zeros(B, dtype=torch.int64, device=V_PF.device),
            # the lane's loss was taken and no update has paid for it yet
            "owed_B": torch.zeros(B, dtype=torch.bool, device=V_PF.device),
        }

        self._plan: Plan | None = None
        self._recorded: Recorded | None = None

    def __getstate__(self) -> dict[str, object]:
        # for copies; these know where this learner's tensors are
        return self.__dict__ | {"_plan": None, "_recorded": None}

    @property
    def lane_state(self) -> dict[str, Tensor]:
        """All per-lane tensors, leading axis B."""
        return self._waiting | self.recurrence.lane_state

    def step(self, frame: Frame) -> Outcome:
        """One tick: by the plan for these parts if there is one, else as it is written here."""
        return self._step_by_plan(frame) or self._step(frame)

    @property
    def takes_runs(self) -> bool:
        """Whether ticks are had cheaper by the dozen, as far as the newest one tells."""
        plan = self._plan or self._recorded or self._plan_now()
        return plan is not None and plan.takes_runs

    def run(self, block: Block, start: int = 0, end: int | None = None) -> Outcomes:
        """The ticks of the block from `start` on, as many as can be taken at once: at least one.

        Those from `end` on are left alone; None: the block's end.

        What is learned is bit for bit what a `step` of each gives, however a stream is cut into
        blocks. Without a plan one tick is taken. With one it is as many as differ in their events
        alone: a run ends before a tick that another rule, another gradient or torch takes, and
        after one that whoever watches must hear of at once (credit that restarted, an update that
        was refused). Settings (`teaches`, the ladder) belong between two runs.
        """
        n = len(block)
        end = n if end is None else end
        if not 0 <= start < end <= n:
            raise ValueError(f"expected 0 <= start < end <= {n}, got {start} and {end}")
        plan = self._plan_now()
        if plan is not None:
            taken = plan.run(block.rows, start, end, self.teaches == "nothing")
            if taken is not None:
                return Outcomes(*taken)
        return Outcomes.of(self.step(block.frame(start)))

    def peek(self, block: Block, t: int = 0) -> Outcomes:
        """What would be predicted from the inputs of the block's tick t, were it the next one.

        With the parameters as they are, and nothing moves: neither a hidden state nor what a
        `step` would draw at random. (Updates may make what they keep, as before a first step.)
        Nothing is `learned`; `rejected` are lanes it is unsound for.

        Raises:
            ValueError: there is no tick t.
            NotImplementedError: the recurrence does not tell its `hidden` state.
        """
        if not 0 <= t < len(block):
            raise ValueError(f"expected 0 <= t < {len(block)}, got {t}")
        plan = self._plan_now()
        taken = None if plan is None else plan.peek(block.rows, t)
        return self._peek(block.frame(t)) if taken is None else Outcomes(*taken)

    @torch.no_grad()
    def _peek(self, frame: Frame) -> Outcomes:
        recurrence = self.recurrence
        stands = recurrence.hidden(self.horizon > 0)
        ahead = recurrence.hidden(True)
        kept = [state.clone() for state in ahead]
        try:
            for state, start in zip(ahead, stands, strict=True):
                state.copy_(start)
            prediction_BP, rejected_B = self._foresee(frame)
        finally:
            for state, old in zip(ahead, kept, strict=True):
                state.copy_(old)
        nobody_B = torch.zeros_like(rejected_B)
        loss_B = torch.zeros_like(prediction_BP[:, 0])
        return Outcomes.of(Outcome(prediction_BP, loss_B, nobody_B, rejected_B, nobody_B, None))

    def _plan_now(self) -> Plan | Recorded | None:
        if self.teaches == "readout" or is_watched(self.recurrence):
            return None  # the plan stays for the ticks after this one
        parts = self._parts()
        self._plan = plan_for(parts, self._plan)
        if self._plan is not None:
            self._recorded = None
            return self._plan
        self._recorded = recorded_for(parts, self._step_of, self._recorded)
        return self._recorded

    def _step_of(self, *rows: *Rows) -> Outcome:
        return self._step(Frame(*rows))

    def _step_by_plan(self, frame: Frame) -> Outcome | None:
        plan = self._plan_now()
        if plan is None:
            return None
        ticked = plan.step(frame.rows, self.teaches == "nothing")
        if ticked is None:
            return None
        outcome, waits = ticked
        prediction, loss, learned, rejected, restarted, updated = outcome
        return Outcome(
            prediction, loss, learned, rejected, restarted, updated=None if waits else updated
        )

    def _parts(self) -> Parts:
        return Parts(
            self.recurrence,
            self.head,
            self.update,
            self.head_update,
            self.horizon,
            self._waiting,
        )

    def execution(self) -> tuple[str, str]:
        """What computes the ticks: its name in a checkpoint, and words for people."""
        return execution(self._parts())

    @torch.no_grad()
    def _step(self, frame: Frame) -> Outcome:
        x_BI, scored_B = frame.x_BI, frame.scored_B & frame.live_B
        sane_B = _within(x_BI, ABSURD) & implies(scored_B, _within(frame.y_BQ, ABSURD))
        weight_B = frame.weight_B
        if weight_B is not None:
            if self.head.owns_update:
                raise ValueError("a read-out that owns its update takes no loss weights")
            sane_B = sane_B & implies(scored_B, (weight_B >= 0) & (weight_B <= 1))
            scored_B = scored_B & self.head.loss_function.taught_by(weight_B)
        live_B = frame.live_B & sane_B
        x_BI = torch.where(live_B[:, None], x_BI, 0.0)
        scored_B = scored_B & sane_B

        ready_B = live_B
        x_learn_BI = x_BI
        if self.horizon:
            x_learn_BI, ready_B = self._exchange(x_BI, live_B)
            scored_B = scored_B & ready_B

        h_BN = self.recurrence.forward(x_learn_BI, ready_B)
        o_BP = self.head.predict(h_BN, x_learn_BI)
        sound_B = implies(ready_B, _within(torch.cat((h_BN, o_BP), dim=1), DIVERGED))
        live_B, scored_B = live_B & sound_B, scored_B & sound_B
        ready_B = ready_B & sound_B if self.horizon else live_B

        lesson = self.head.loss(o_BP, frame.y_BQ, scored_B, weight_B)
        dL_dh_BN = lesson.dL_dh_BN
        if self.teaches != "all":  # or a locked window would teach it later
            dL_dh_BN = torch.zeros_like(dL_dh_BN)
        gradients, _ = self.recurrence.learn(dL_dh_BN, ready_B)
        healthy_B = self.recurrence.healthy()
        updated = self._update(gradients, lesson.gradients, scored_B, healthy_B)
        if self.head.owns_update and self.teaches != "nothing":
            self.head.refit(frame.y_BQ, scored_B)

        prediction_BP = o_BP
        if self.horizon:
            self._accept(x_BI, live_B)
            h_ahead_BN = self.recurrence.roll(x_BI, live_B)
            prediction_BP = self.head.predict(h_ahead_BN, x_BI)
        return Outcome(
            prediction_BP=self.head.loss_function.activate(prediction_BP),
            loss_B=lesson.loss_B,
            learned_B=scored_B,
            rejected_B=without(frame.live_B, live_B),
            restarted_B=without(ready_B, healthy_B),
            updated=updated,
        )

    @torch.no_grad()
    def look(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Predict from the frame's inputs and go on from there: nothing is scored or taught.

        For a replica that answers readers: it has horizon 0, `teaches` nothing, and stands where
        both its `hidden` states were put. By the plan if there is one, else the forward pass alone.

        Returns:
            The activated prediction (B, P), and whether it is unsound (B,): of no use.
        """
        if isinstance(self._plan_now(), Plan):
            outcome = self._step_by_plan(frame)
            if outcome is not None:
                return outcome.prediction_BP, outcome.rejected_B
        return self._foresee(frame)

    def _foresee(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """`look` in torch: moves the second state."""
        h_BN = self.recurrence.roll(frame.x_BI, frame.live_B)
        o_BP = self.head.predict(h_BN, frame.x_BI)
        sound_B = _within(frame.x_BI, ABSURD) & _within(torch.cat((h_BN, o_BP), dim=1), DIVERGED)
        return self.head.loss_function.activate(o_BP), frame.live_B & ~sound_B

    def _exchange(self, x_BI: Tensor, live_B: Tensor) -> tuple[Tensor, Tensor]:
        """The input of k events ago, and which lanes have one."""
        count_B = self._waiting["count_B"]
        old_BI = self._waiting["x_BkI"][self._lanes, count_B % self.horizon]
        ready_B = live_B & (count_B >= self.horizon)
        return torch.where(ready_B[:, None], old_BI, 0.0), ready_B

    def _accept(self, x_BI: Tensor, live_B: Tensor) -> None:
        """Let the live lanes' inputs wait for their target."""
        waiting_BkI, count_B = self._waiting["x_BkI"], self._waiting["count_B"]
        slot_B = count_B % self.horizon
        old_BI = waiting_BkI[self._lanes, slot_B]
        waiting_BkI[self._lanes, slot_B] = torch.where(live_B[:, None], x_BI, old_BI)
        count_B += live_B

    def _update(
        self,
        gradients: list[Tensor] | None,
        head_gradients: list[Tensor],
        scored_B: Tensor,
        healthy_B: Tensor,
    ) -> Tensor | None:
        owed_B = self._waiting["owed_B"]
        readout_moved = None
        if self.teaches != "nothing" and not self.head.owns_update:
            readout_moved = self.head_update.step(
                self.head.parameters(), head_gradients, scored_B.any()
            )
        if self.teaches != "all":
            if gradients is not None:  # what was owed has been read, and goes nowhere
                owed_B.zero_()
                self.recurrence.settle(torch.zeros_like(owed_B[0]))
            return readout_moved
        owed_B |= scored_B
        if gradients is None:
            return None
        # a zero gradient is not a no-op: an update needs a lane that is owed one and sound
        ok = (owed_B & healthy_B).any()
        updated = self.update.step(self.recurrence.parameters(), gradients, ok)
        owed_B.zero_()
        self.recurrence.settle(updated)
        return updated

    def owes(self, lane: int) -> bool:
        """Whether an update-locked window still owes the lane's losses; synchronizes."""
        return bool(self._waiting["owed_B"][lane])

    def pay(self, lanes_B: Tensor) -> Outcome | None:
        """Let an update-locked window pay now what it owes for the marked lanes; synchronizes.

        To be called before they are reset, which would forfeit it (docs/algorithms.md 9.4). Locks
        are counted in ticks, so ticks without events bring the payment; no lane moves.

        Returns:
            The outcome of the tick that paid: credit that came out unsound is in `restarted_B`, an
            update that was refused is not `updated`. None: nothing was owed.

        Raises:
            RuntimeError: the credit rule does not pay.
        """
        V_PF, owed_B = self.head.V_PF, self._waiting["owed_B"]
        if not bool((owed_B & lanes_B).any()):
            return None
        nobody_B = torch.zeros_like(owed_B)
        idle = Frame(
            V_PF.new_zeros(len(owed_B), self.recurrence.n_inputs),
            V_PF.new_zeros(len(owed_B), self.head.loss_function.n_targets),
            nobody_B,
            nobody_B,
        )
        for _ in range(LONGEST_LOCK):
            outcome = dataclasses.replace(self.step(idle), restarted_B=~self.recurrence.healthy())
            if not bool((owed_B & lanes_B).any()):
                return outcome
        raise RuntimeError(
            f"the credit rule still owes losses after {LONGEST_LOCK} ticks without events; "
            "a locked rule must pay after a number of ticks, not of events"
        )

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Predict with the updates' running means, where they keep one; nothing is taught inside.

        What an update-locked window owes is paid first. Hidden states go on as in any step that
        teaches nothing. On leaving, an exception included, all parameters are bitwise as they were.
        """
        self.pay(torch.ones_like(self._waiting["owed_B"]))
        pairs = [
            (param, mean)
            for params, update in (
                (self.recurrence.parameters(), self.update),
                (self.head.parameters(), self.head_update),
            )
            # empty: none is kept, or none yet
            for param, mean in zip(params, update.evaluation_weights(), strict=False)
        ]
        kept, teaches = [param.clone() for param, _ in pairs], self.teaches
        try:
            self.teaches = "nothing"
            for param, mean in pairs:
                param.copy_(mean)
            yield
        finally:
            self.teaches = teaches
            for (param, _), old in zip(pairs, kept, strict=True):
                param.copy_(old)

    def reset(self, lanes_B: Tensor) -> None:
        """Start the marked lanes (bool) anew; parameters stay."""
        reset_lanes(self._waiting, lanes_B)
        self.recurrence.reset(lanes_B)

    def parameters(self) -> list[Tensor]:
        """The recurrence's and the read-out's."""
        return [*self.recurrence.parameters(), *self.head.parameters()]

    def report(self) -> dict[str, float]:
        """Learning metrics as of the last step; synchronizes, so read it by schedule."""
        scalars = self.update.report() | self.recurrence.report()
        if self.teaches != "all":
            scalars.pop("fidelity", None)  # W stands still: there is no credit to be compared
        report = {name: float(value) for name, value in scalars.items()}
        device = self.head.V_PF.device
        if device.type == "cuda":
            report["device_memory_bytes"] = float(torch.cuda.memory_allocated(device))
        return report

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that influences the future, by flat names; not copied."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "learner": self._waiting,
            "recurrence": self.recurrence.state_dict(),
            "head": self.head.state_dict(),
            "update": self.update.state_dict(),
            "head_update": self.head_update.state_dict(),
        }
        return {f"{part}.{k}": v for part, tensors in parts.items() for k, v in tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; raises ValueError naming what is missing or misshapen."""
        for name, mine in self._waiting.items():
            take(mine, part(state, "learner."), name)
        if bool((self._waiting["count_B"] < 0).any()):
            raise ValueError("state 'count_B': a count of events must not be negative")
        self.recurrence.load_state_dict(part(state, "recurrence."))
        self.head.load_state_dict(part(state, "head."))
        self.update.load_state_dict(self.recurrence.parameters(), part(state, "update."))
        self.head_update.load_state_dict(self.head.parameters(), part(state, "head_update."))


def _within(tensor_BX: Tensor, limit: float) -> Tensor:
    """(B,) bool: whether every entry of a lane is at most `limit` in size; NaN is not."""
    size_B: Tensor = torch.linalg.vector_norm(tensor_BX, math.inf, dim=1)
    return size_B <= limit
