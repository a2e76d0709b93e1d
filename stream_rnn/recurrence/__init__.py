"""What the learner knows: parameters, a forward step, and how to learn from dL/dh."""

from stream_rnn.recurrence.base import Recurrence
from stream_rnn.recurrence.dense import Dense
from stream_rnn.recurrence.feedforward import Feedforward
from stream_rnn.recurrence.stack import Stack

__all__ = ["Dense", "Feedforward", "Recurrence", "Stack"]
