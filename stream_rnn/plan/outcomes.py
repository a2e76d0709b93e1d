"""Room for what the coming ticks give; the library writes each row once, and nobody after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from stream_rnn.native.loading import Tick

if TYPE_CHECKING:
    from stream_rnn.columns import Array

BLOCK_BYTES = 1 << 14
"""Outcomes of several ticks are allocated together, about this much at once."""
MOST_ROWS = 256
"""Of single ticks, for each of which `row` makes tensors; of longer runs as many as four have."""


class Ticked(NamedTuple):
    """The fields of an `Outcome`, of which `updated` says so too where W did not have to wait.

    Of one tick, or of several with a leading axis T.
    """

    prediction_BP: Tensor
    loss_B: Tensor
    learned_B: Tensor
    rejected_B: Tensor
    restarted_B: Tensor
    updated: Tensor


class Room:
    """Rows for a number of ticks.

    Args:
        n_lanes: B.
        n_outputs: P.
        n_ticks: at least so many rows, or as many as are allocated together.
    """

    def __init__(self, n_lanes: int, n_outputs: int, n_ticks: int = 1) -> None:
        row_bytes = n_lanes * (4 * n_outputs + 7)
        n = max(n_ticks, min(max(MOST_ROWS, 4 * n_ticks), BLOCK_BYTES // row_bytes))
        self.size = n
        self.used = 0
        self._sizes = n_lanes, n_outputs
        predictions, rejected = bytearray(4 * n * n_lanes * n_outputs), bytearray(n * n_lanes)
        self._predictions = memoryview(predictions).cast("f")
        self._rejected = memoryview(rejected).cast("?")
        self.rows = Ticked(
            torch.frombuffer(predictions, dtype=torch.float32).view(n, n_lanes, n_outputs),
            torch.zeros(n, n_lanes),
            _flags(n, n_lanes),
            torch.frombuffer(rejected, dtype=torch.bool).view(n, n_lanes),
            _flags(n, n_lanes),
            _flags(n),
        )
        self._single: list[Ticked] | None = None
        self._arrays: tuple[Array, ...] | None = None

    def describe(self, tick: Tick) -> None:
        """Say to the library where it is."""
        rows = self.rows
        tick.prediction, tick.loss = rows.prediction_BP.data_ptr(), rows.loss_B.data_ptr()
        tick.learned, tick.rejected = rows.learned_B.data_ptr(), rows.rejected_B.data_ptr()
        tick.restarted, tick.updated = rows.restarted_B.data_ptr(), rows.updated.data_ptr()

    def first_output(self, i: int, lane: int) -> float | None:
        """Of one tick's prediction; None: the lane was rejected."""
        n_lanes, n_outputs = self._sizes
        place = i * n_lanes + lane
        return None if self._rejected[place] else self._predictions[place * n_outputs]

    def arrays(self) -> tuple[Array, ...]:
        """The fields of `rows` as arrays over the same memory."""
        if self._arrays is None:  # a piece of an array costs a sixth of a piece of a tensor
            self._arrays = tuple(each.numpy() for each in self.rows)
        return self._arrays

    def row(self, i: int) -> Ticked:
        """One tick's."""
        if self._single is None:  # all at once: the tensors of a row cost as much as a small tick
            unbound = [each.unbind(0) for each in self.rows]
            self._single = [Ticked(*each) for each in zip(*unbound, strict=True)]
        return self._single[i]


def _flags(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bool)
