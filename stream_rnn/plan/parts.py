"""Which parts of a learner the native library is made for.

A subclass, another dtype, another device: not these.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stream_rnn.cells import Gru, Lstm, Rhn, Tanh
from stream_rnn.credit import Credit, Fallback, Kf, Ok, Rtrl, Segmented, Snap1, Tbptt, Uoro
from stream_rnn.credit.base import Noisy
from stream_rnn.head import Bernoulli, CrossEntropy, Gaussian, Head, Quantile, SquaredError
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native.observe import MAX_RANK
from stream_rnn.recurrence import Dense, Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam, Fptt, Obgd, Sgd, Update

# exactly these types: a subclass may compute something else
CELLS: dict[type, int] = {Tanh: 0, Gru: 1, Lstm: 2, Rhn: 3}
LOSSES: dict[type, int] = {
    SquaredError: 0,
    Quantile: 1,
    Gaussian: 2,
    CrossEntropy: 3,
    Bernoulli: 4,
}
UPDATES: dict[type, int] = {Sgd: 0, Adam: 1, Obgd: 2}
Units = Lru | Rtu | Elstm
Rule = Kf | Ok | Rtrl | Tbptt
ACTIVATIONS = {"tanh": 1, "relu": 2}
UNITS = {"lru": 1, "rtu linear": 2, "rtu tanh": 3, "rtu relu": 4, "elstm": 5}

Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""Of ticks, with a leading axis T: x (T, B, I), y (T, B, Q), live (T, B), scored (T, B), and the
weights of the losses (T, B) or None."""

SMALL = 1 << 20
"""Numbers of a state up to which Python's part in a tick is worth the memory that recording takes.

On a processor: a tape keeps every intermediate result.
"""


class Parts(NamedTuple):
    """What a learner is made of."""

    recurrence: Recurrence
    head: Head
    update: Update
    head_update: Update
    horizon: int
    waiting: Mapping[str, Tensor]


def plannable(parts: Parts) -> bool:
    """Whether the library is made for all of these parts."""
    recurrence, head, update, head_update, _, waiting = parts
    if type(head) not in (Head, LeastSquaresHead) or type(head.loss_function) not in LOSSES:
        return False
    if not is_shipped(update) or not (head.owns_update or is_shipped(head_update)):
        return False
    if type(recurrence) is Dense:
        rule = active_rule(recurrence.credit)
        if rule is None or type(recurrence.cell) not in CELLS:
            return False
        if type(rule) is Ok and rule.rank > MAX_RANK:
            return False
        if isinstance(rule, Tbptt) and rule.lane_state["newest_B"].dtype is not torch.int64:
            return False
    elif units_in(recurrence) is None:
        return False
    if isinstance(head, LeastSquaresHead) and not head.C_FF.is_contiguous():
        return False
    learned = [*recurrence.parameters(), head.V_PF]
    tensors = [*learned, *recurrence.lane_state.values(), *waiting.values()]
    if not all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors):
        return False
    return all(t.dtype is torch.float32 for t in tensors if t.is_floating_point())


def units_in(recurrence: Recurrence) -> Units | None:
    """The element-wise units that it is, alone or under a layer without recurrence."""
    if type(recurrence) is Stack:
        if len(recurrence.layers) != 2 or recurrence.owes:
            return None
        recurrence, above = recurrence.layers
        if type(above) is not Feedforward:
            return None
    return recurrence if type(recurrence) in (Lru, Rtu, Elstm) else None  # type: ignore[return-value]


def units_of(recurrence: Units) -> str:
    """What the library calls these units."""
    if isinstance(recurrence, Rtu):
        return f"rtu {recurrence.activation}"
    return "lru" if isinstance(recurrence, Lru) else "elstm"


def active_rule(credit: Credit) -> Rule | None:
    """The rule in use, if the library knows it and nothing is owed from another one."""
    if type(credit) is Fallback:
        return None if credit.owes_from_before else active_rule(credit.active)
    known = (Kf, Ok, Rtrl, Segmented, Tbptt)
    return credit if type(credit) in known else None  # type: ignore[return-value]


def dense_layers(recurrence: Recurrence) -> list[Dense]:
    """Those of its layers, or it itself, that are taught by a rule."""
    layers = recurrence.layers if isinstance(recurrence, Stack) else (recurrence,)
    return [layer for layer in layers if isinstance(layer, Dense)]


def recordable(parts: Parts) -> bool:
    """Whether every tick of these parts is the same operations on the same tensors."""
    head = parts.head
    if type(head) not in (Head, LeastSquaresHead) or type(head.loss_function) not in LOSSES:
        return False
    if not all(map(is_shipped, (parts.update, parts.head_update))):
        return False
    recurrence = parts.recurrence
    device = head.V_PF.device.type
    if device not in ("cpu", "cuda") or (device == "cpu" and _size_of(recurrence) > SMALL):
        return False
    if type(recurrence) is Stack:
        layers = recurrence.layers
        return not (recurrence.owes or any(map(locked_rule, layers))) and all(map(_repeats, layers))
    return _repeats(recurrence)


def _size_of(recurrence: Recurrence) -> int:
    tensors = [*recurrence.parameters(), *recurrence.lane_state.values()]
    return sum(tensor.numel() for tensor in tensors)


def is_shipped(update: Update) -> bool:
    """Whether it is one of ours, FPTT around one of ours included."""
    return type(inner_of(update)) in UPDATES


def inner_of(update: Update) -> Update:
    """What makes the step: of FPTT the update that it is around."""
    return update.inner if type(update) is Fptt else update


def locked_rule(recurrence: Recurrence) -> Tbptt | None:
    """The rule in use if it lets the parameters wait: then ticks that pay differ from others."""
    if not isinstance(recurrence, Dense):
        return None
    rule = recurrence.credit
    rule = rule.active if isinstance(rule, Fallback) else rule
    return rule if isinstance(rule, Tbptt) and rule.every > 1 else None


def _repeats(recurrence: Recurrence) -> bool:
    """Whether its ticks are the same operations, those of a locked rule that pay apart."""
    if type(recurrence) in (Lru, Rtu, Elstm, Feedforward):
        return True
    if type(recurrence) is not Dense or type(recurrence.cell) not in CELLS:
        return False
    rule = recurrence.credit
    if type(rule) is Fallback:
        if rule.owes_from_before:
            return False
        rule = rule.active
    if isinstance(rule, Noisy):
        return type(rule) in (Kf, Ok, Uoro) and rule.draws
    return type(rule) in (Rtrl, Segmented, Snap1, Tbptt)


_SETTINGS: dict[type, Callable[[Any], tuple[float | None, ...]]] = {
    Adam: operator.attrgetter("lr", "clip", "beta1", "beta2", "eps"),
    Sgd: operator.attrgetter("lr", "clip", "momentum"),
    Obgd: operator.attrgetter("lr", "clip", "kappa"),
    Fptt: operator.attrgetter("alpha", "beta"),
}


def settings_of(update: Update) -> tuple[float | None, ...]:
    """What a user may set of it between two ticks, of the one within FPTT too."""
    inner = inner_of(update)
    own = () if inner is update else _SETTINGS[type(update)](update)
    return (*own, *_SETTINGS[type(inner)](inner))


def states_of(update: Update) -> tuple[dict[str, Tensor], ...]:
    """What it keeps, and what the one within FPTT keeps."""
    inner = inner_of(update)
    return (update.state,) if inner is update else (update.state, inner.state)
