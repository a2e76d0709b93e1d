"""A model in a program of your own: one record at a time, in River's words, or many at once.

No daemon, no files, no scaling: what a `Learner` is told and what it answers, for one stream.

    generator = torch.Generator().manual_seed(0)
    model = Regressor(Rtu(2, 32, 1, generator), ("load", "hour"), generator)
    for x, y in stream:  # x: {"load": 0.3, "hour": -1.2}; numbers of about the size of 1
        forecast = model.predict_one(x)
        model.learn_one(x, y)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter

import torch

from stream_rnn.frame import Block
from stream_rnn.head import Head, Loss, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Recurrence
from stream_rnn.update import Adam, Update


class Regressor:
    """Predicts a number from each record of one stream, and learns from it by one update.

    Not for several threads at once; `copy.deepcopy` gives a second one that goes its own way. A
    program that learns for long should call `torch.set_flush_denormal(True)` on its thread, as the
    daemon does: weights of inputs that are always zero decay into numbers that processors are slow
    with.

    Args:
        recurrence: what is learned; of one lane, float32, on the host.
        fields: of a record, as many as the recurrence has inputs; others are not looked at.
        generator: of the read-out's initial weights.
        loss: of one output against one target.
        update: moves the recurrence's parameters; `Adam()` if None.
        head_update: moves the read-out's; `Adam()` if None.

    Attributes:
        learner: for its `state_dict`, `load_state_dict`, `report` and `teaches`.
        refused: records of which nothing was learned, because a number in them, or what came out,
            was not finite or absurdly large; their prediction is NaN.

    Raises:
        ValueError: the parts do not fit.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        fields: Sequence[str],
        generator: torch.Generator,
        loss: Loss | None = None,
        update: Update | None = None,
        head_update: Update | None = None,
    ) -> None:
        loss = loss or SquaredError()
        if recurrence.n_lanes != 1:
            raise ValueError(f"a Regressor learns one stream, got {recurrence.n_lanes} lanes")
        if len(fields) != recurrence.n_inputs or len(set(fields)) != len(fields):
            raise ValueError(
                f"fields: expected {recurrence.n_inputs} different names, one for each input of "
                f"the recurrence, got {list(fields)}"
            )
        if (loss.n_outputs, loss.n_targets) != (1, 1):
            raise ValueError(f"{type(loss).__name__} is not of one output and one target")
        width, inputs = recurrence.width, recurrence.n_inputs
        V_PF = initial_readout(width, inputs, loss, generator).float()
        head = Head(width, inputs, loss, V_PF)
        self.learner = Learner(recurrence, head, update or Adam(), head_update or Adam())
        self.refused = 0
        self._fields = tuple(fields)
        self._lay_out()

    def _lay_out(self) -> None:
        """Room for a record, and the ways into it."""
        inputs = len(self._fields)
        first = self._fields[0]
        self._get = itemgetter(*self._fields) if inputs > 1 else lambda x: (x[first],)
        self._pack_x = struct.Struct(f"{inputs}f").pack_into
        self._pack_y = struct.Struct("f").pack_into
        # tensors over these bytes: packing numbers is faster than making a tensor of them
        self._x, self._y = bytearray(4 * inputs), bytearray(4)
        x_TBI = torch.frombuffer(self._x, dtype=torch.float32).view(1, 1, inputs)
        y_TBQ = torch.frombuffer(self._y, dtype=torch.float32).view(1, 1, 1)
        yes_TB = torch.ones(1, 1, dtype=torch.bool)
        self._next = Block(x_TBI, y_TBQ, yes_TB, yes_TB)

    def __getstate__(self) -> dict[str, object]:
        return {"learner": self.learner, "refused": self.refused, "_fields": self._fields}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lay_out()

    def predict_one(self, x: Mapping[str, float]) -> float:
        """The prediction for the record that would come next; nothing is learned and nothing moves.

        Raises:
            KeyError: a field is missing.
            struct.error: a field is no number.
        """
        self._pack_x(self._x, 0, *self._get(x))
        prediction = self.learner.peek(self._next).first_output(0, 0)
        return math.nan if prediction is None else prediction

    def learn_one(self, x: Mapping[str, float], y: float) -> None:
        """Learn from the stream's next record and its target. Raises what `predict_one` does."""
        self.step(x, y)

    def step(self, x: Mapping[str, float], y: float) -> float:
        """Predict, then learn: `predict_one` and `learn_one` at the price of one of them.

        Returns:
            The prediction, made before `y` was looked at.
        """
        self._pack_x(self._x, 0, *self._get(x))
        self._pack_y(self._y, 0, y)
        prediction = self.learner.run(self._next).first_output(0, 0)
        if prediction is None:
            self.refused += 1
            return math.nan
        return prediction

    def steps(self, xs: Sequence[Mapping[str, float]], ys: Sequence[float]) -> list[float]:
        """`step` for each of several records, in fewer calls; what is learned is the same.

        Returns:
            The predictions, each made before its target and those after it were looked at.
        """
        if len(xs) != len(ys):
            raise ValueError(f"{len(xs)} records, but {len(ys)} targets")
        if not xs:
            return []
        n = len(xs)
        x_T = torch.tensor(list(chain.from_iterable(map(self._get, xs))), dtype=torch.float32)
        y_T = torch.tensor(ys, dtype=torch.float32)
        yes_TB = torch.ones(n, 1, dtype=torch.bool)
        block = Block(x_T.view(n, 1, -1), y_T.view(n, 1, 1), yes_TB, yes_TB)
        predictions: list[float] = []
        while len(predictions) < n:
            outcomes = self.learner.run(block, len(predictions))
            refused_TB = outcomes.rejected_TB
            values_T = outcomes.prediction_TBP.flatten().masked_fill(refused_TB.flatten(), math.nan)
            self.refused += int(refused_TB.sum())
            predictions += values_T.tolist()
        return predictions
