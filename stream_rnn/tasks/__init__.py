"""Tasks: what is to be learned from a record. Each knows its inputs, targets, units and scores."""

from stream_rnn.tasks.base import Objective, Task
from stream_rnn.tasks.classification import Classification
from stream_rnn.tasks.forecast import Forecast
from stream_rnn.tasks.next_symbol import NextSymbol
from stream_rnn.tasks.regression import Regression
from stream_rnn.tasks.steps import Scale, Step, Steps

TASKS: dict[str, type[Task]] = {
    "forecast": Forecast,
    "regression": Regression,
    "classification": Classification,
    "next_symbol": NextSymbol,
}

__all__ = [
    "TASKS",
    "Classification",
    "Forecast",
    "NextSymbol",
    "Objective",
    "Regression",
    "Scale",
    "Step",
    "Steps",
    "Task",
]
