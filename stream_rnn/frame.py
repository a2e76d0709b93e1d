"""What a learner takes in and what it gives: a tick or several, and what became of them.

Axes: T ticks, B lanes, I inputs, P outputs, Q targets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from stream_rnn.plan import Room, Rows, Ticked

if TYPE_CHECKING:
    from stream_rnn.columns import Array


@dataclass(frozen=True, slots=True)
class Frame:
    """One tick: at most one event per lane. Rows of lanes that are not live may hold anything."""

    x_BI: Tensor
    y_BQ: Tensor
    live_B: Tensor  # bool: the lane has an event
    scored_B: Tensor  # bool: ... and its target is known
    weight_B: Tensor | None = None  # of its loss, 0..1; None: 1 everywhere

    @property
    def rows(self) -> Rows:
        """Its tensors, without the axis T."""
        return self.x_BI, self.y_BQ, self.live_B, self.scored_B, self.weight_B


@dataclass(frozen=True, slots=True)
class Block:
    """Ticks one after another, each a `Frame`; a lane may have an event in every one of them."""

    x_TBI: Tensor
    y_TBQ: Tensor
    live_TB: Tensor
    scored_TB: Tensor
    weight_TB: Tensor | None = None

    def __len__(self) -> int:
        return self.x_TBI.shape[0]  # a tensor's `len` takes three times as long

    @property
    def rows(self) -> Rows:
        """Its tensors."""
        return self.x_TBI, self.y_TBQ, self.live_TB, self.scored_TB, self.weight_TB

    def frame(self, t: int) -> Frame:
        """The tick at place t; its tensors are views."""
        weight_TB = self.weight_TB
        weight_B = None if weight_TB is None else weight_TB[t]
        return Frame(self.x_TBI[t], self.y_TBQ[t], self.live_TB[t], self.scored_TB[t], weight_B)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tick; all on the device.

    Attributes:
        prediction_BP: the activated prediction of each live lane, made with the newest parameters.
        loss_B: the learner's loss, zero where nothing was scored.
        learned_B: whose loss entered the gradient.
        rejected_B: bad event (non-finite or absurd): the lane is bitwise as it was.
        restarted_B: bad credit: the event counts, its lane's influence restarted.
        updated: whether W moved, or the read-out where it learns alone; None if it had to wait
            (update-locked), owns its update, or nothing is taught.
    """

    prediction_BP: Tensor
    loss_B: Tensor
    learned_B: Tensor
    rejected_B: Tensor
    restarted_B: Tensor
    updated: Tensor | None


class OnHost(NamedTuple):
    """What the host reads of a run; the fields of `Outcomes` that it needs, as arrays."""

    prediction_TBP: Array
    learned_TB: Array
    rejected_TB: Array
    restarted_TB: Array
    updated_T: Array | None


class Outcomes:
    """What became of the first ticks of a block, as many as were taken at once: `len`, at least 1.

    The fields of an `Outcome` with a leading axis T. Nothing is copied, and no tensor is made for
    what is not asked for: read a field once, e.g. `outcomes.prediction_TBP.tolist()`.
    """

    __slots__ = ("_end", "_room", "_start", "_ticked", "_waits")

    def __init__(self, rows: Room | Ticked, start: int, end: int, waits: bool) -> None:
        self._room = rows if isinstance(rows, Room) else None
        self._ticked = rows.rows if isinstance(rows, Room) else rows
        self._start, self._end = start, end
        self._waits = waits

    @classmethod
    def of(cls, outcome: Outcome) -> Outcomes:
        """Of one tick."""
        updated = outcome.updated
        rows = [getattr(outcome, field.name) for field in fields(outcome)[:-1]]
        marks = outcome.rejected_B.new_zeros(()) if updated is None else updated
        return cls(Ticked(*(row[None] for row in (*rows, marks))), 0, 1, updated is None)

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def prediction_TBP(self) -> Tensor:
        """(T, B, P)."""
        return self._ticked.prediction_BP[self._start : self._end]

    @property
    def loss_TB(self) -> Tensor:
        """(T, B)."""
        return self._ticked.loss_B[self._start : self._end]

    @property
    def learned_TB(self) -> Tensor:
        """(T, B) bool."""
        return self._ticked.learned_B[self._start : self._end]

    @property
    def rejected_TB(self) -> Tensor:
        """(T, B) bool."""
        return self._ticked.rejected_B[self._start : self._end]

    @property
    def restarted_TB(self) -> Tensor:
        """(T, B) bool; only the last tick's row can have any."""
        return self._ticked.restarted_B[self._start : self._end]

    @property
    def updated_T(self) -> Tensor | None:
        """(T,) bool; None where an `Outcome` of these ticks says None."""
        return None if self._waits else self._ticked.updated[self._start : self._end]

    def first_output(self, t: int, lane: int) -> float | None:
        """Of the lane's prediction at place t; None: it was rejected. Synchronizes.

        For who has one stream and one number to predict: no tensor is made for it.
        """
        at = self._start + t
        if self._room is not None:
            return self._room.first_output(at, lane)
        if self._ticked.rejected_B[at, lane].item():
            return None
        return float(self._ticked.prediction_BP[at, lane, 0].item())

    def on_host(self) -> OnHost:
        """In arrays of numpy, for who publishes all of it; synchronizes."""
        if self._room is None:
            updated_T = self.updated_T
            return OnHost(
                self.prediction_TBP.numpy(force=True),
                self.learned_TB.numpy(force=True),
                self.rejected_TB.numpy(force=True),
                self.restarted_TB.numpy(force=True),
                None if updated_T is None else updated_T.numpy(force=True),
            )
        part = slice(self._start, self._end)
        prediction, _, learned, rejected, restarted, updated = self._room.arrays()
        return OnHost(
            *(prediction[part], learned[part], rejected[part], restarted[part]),
            updated_T=None if self._waits else updated[part],
        )

    def outcome(self, t: int) -> Outcome:
        """The tick at place t."""
        at = self._start + t
        prediction, loss, learned, rejected, restarted, updated = self._ticked
        return Outcome(
            *(prediction[at], loss[at], learned[at], rejected[at], restarted[at]),
            updated=None if self._waits else updated[at],
        )
