"""Which parts of a learner the native library is made for.

A subclass, another dtype, another device: not these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stream_rnn.cells import Gru, Lstm, Rhn, Tanh
from stream_rnn.credit import Credit, Fallback, Kf, Ok, Tbptt
from stream_rnn.head import Bernoulli, CrossEntropy, Gaussian, Head, Quantile, SquaredError
from stream_rnn.native.observe import MAX_RANK
from stream_rnn.recurrence import Dense, Recurrence
from stream_rnn.update import Adam, Sgd, Update

# exactly these types: a subclass may compute something else
CELLS: dict[type, int] = {Tanh: 0, Gru: 1, Lstm: 2, Rhn: 3}
LOSSES: dict[type, int] = {
    SquaredError: 0,
    Quantile: 1,
    Gaussian: 2,
    CrossEntropy: 3,
    Bernoulli: 4,
}
UPDATES: dict[type, int] = {Sgd: 0, Adam: 1}


class Parts(NamedTuple):
    """What a learner is made of."""

    recurrence: Recurrence
    head: Head
    update: Update
    head_update: Update
    horizon: int
    waiting: Mapping[str, Tensor]


def plannable(parts: Parts) -> tuple[Dense, Kf | Ok | Tbptt] | None:
    """The recurrence and its rule, if the library is made for all of these parts."""
    recurrence, head, update, head_update, _, waiting = parts
    if type(recurrence) is not Dense or type(head) is not Head:
        return None
    rule = active_rule(recurrence.credit)
    sound = (
        type(recurrence.cell) in CELLS
        and type(head.loss_function) in LOSSES
        and type(update) in UPDATES
        and type(head_update) in UPDATES
    )
    if rule is None or not sound or (type(rule) is Ok and rule.rank > MAX_RANK):
        return None
    tensors = [recurrence.W_ZM, head.V_PF, *recurrence.lane_state.values(), *waiting.values()]
    if not all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors):
        return None
    if any(t.is_floating_point() and t.dtype is not torch.float32 for t in tensors):
        return None
    if type(rule) is Tbptt and rule.lane_state["newest_B"].dtype is not torch.int64:
        return None
    return recurrence, rule


def active_rule(credit: Credit) -> Kf | Ok | Tbptt | None:
    """The rule in use, if the library knows it and nothing is owed from another one."""
    if type(credit) is Fallback:
        return None if credit.owes_from_before else active_rule(credit.active)
    return credit if type(credit) in (Kf, Ok, Tbptt) else None  # type: ignore[return-value]
