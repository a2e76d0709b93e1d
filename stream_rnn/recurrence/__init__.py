"""What the learner knows: parameters, a forward step, and how to learn from dL/dh."""

from stream_rnn.recurrence.base import Recurrence
from stream_rnn.recurrence.dense import Dense

__all__ = ["Dense", "Recurrence"]
