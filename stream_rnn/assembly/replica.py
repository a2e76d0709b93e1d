"""A network of one lane, built like the one that learns, for who only wants to predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stream_rnn import head
from stream_rnn.assembly import network
from stream_rnn.assembly.choices import EXACT
from stream_rnn.assembly.model import loss_of
from stream_rnn.config import ConfigError
from stream_rnn.learner import Learner
from stream_rnn.tasks import Task
from stream_rnn.update import Sgd

CHEAPEST = {"kind": "tbptt", "window": 1}
"""Credit nobody asks for: the layers are built with a rule, and this one keeps the least."""


def build_replica(chosen: Mapping[str, Any], task: Task) -> Learner:
    """One lane, horizon 0, on the host, untrained; raises ConfigError if it could not predict.

    Args:
        chosen: `Model.chosen` of the one that learns.
        task: of the one that learns; not kept.
    """
    dtype = torch.float64 if chosen["dtype"] == "float64" else torch.float32
    weights = torch.Generator().manual_seed(0)
    recurrence = network.build(
        chosen["cell"],
        [] if chosen["credit"] == EXACT else [CHEAPEST],
        None,
        has_ladder=False,
        n_inputs=task.inputs,
        n_lanes=1,
        generators=network.Generators(weights, weights),
        dtype=dtype,
        device=torch.device("cpu"),
    ).recurrence
    try:
        recurrence.hidden(True)
    except NotImplementedError as error:
        raise ConfigError(
            f"[readers] {error}: give the class that method, or remove the table"
        ) from error
    loss = loss_of(task.objective)
    V_PF = torch.zeros(loss.n_outputs, recurrence.width + task.inputs + 1, dtype=dtype)
    return Learner(recurrence, head.Head(recurrence.width, task.inputs, loss, V_PF), Sgd(), Sgd())
