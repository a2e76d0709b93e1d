"""What the learner knows: parameters, a forward step, and how to learn from dL/dh."""

from stream_rnn.recurrence.base import Recurrence
from stream_rnn.recurrence.dense import Dense
from stream_rnn.recurrence.elstm import Elstm
from stream_rnn.recurrence.feedforward import Feedforward
from stream_rnn.recurrence.lru import Lru
from stream_rnn.recurrence.rtu import Rtu
from stream_rnn.recurrence.stack import Stack

RECURRENCES: dict[str, type[Recurrence]] = {
    "lru": Lru,
    "rtu": Rtu,
    "elstm": Elstm,
    "feedforward": Feedforward,
}
"""Layers that learn exactly by themselves and are built without a credit rule."""

__all__ = [
    "RECURRENCES",
    "Dense",
    "Elstm",
    "Feedforward",
    "Lru",
    "Recurrence",
    "Rtu",
    "Stack",
]
