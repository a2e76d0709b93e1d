"""The two sides of a migration, and the whole of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stream_rnn.migration.host import migrate_host
from stream_rnn.migration.plan import Plan
from stream_rnn.migration.tensors import migrate_tensors


class Refused(Exception):
    """Nothing of the recurrence or the read-out could be carried over."""


@dataclass(frozen=True)
class Side:
    """One model: what a snapshot holds of it, or what it is before its first event.

    Attributes:
        model: the tables in effect.
        tensors: by flat names; of the new side with fresh optimizer state.
        host: {"engine": ..., "governor": ...}, plain values.
        inputs: what each input of the network is.
        outputs: what each output of the read-out is.
    """

    model: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    host: Mapping[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True)
class Migrated:
    """The new model's state, and one line for each thing carried and for each started afresh."""

    tensors: dict[str, Tensor]
    host: dict[str, Any]
    carried: list[str]
    fresh: list[str]


def migrate(old: Side, new: Side, parameters: Mapping[str, Sequence[str]]) -> Migrated:
    """The state that the new model begins with.

    Args:
        old: the snapshot's.
        new: of the configuration, before its first event.
        parameters: "update" and "head_update" -> names of the tensors it moves, in order.

    Raises:
        Refused: see there.
        KeyError, TypeError, ValueError, AttributeError, IndexError: `old` is damaged.
    """
    plan = Plan(old, new)
    carried: list[str] = []
    fresh: list[str] = []
    tensors = migrate_tensors(plan, parameters, carried, fresh)
    if not any(line.startswith(("head.V", "recurrence.")) for line in carried):
        raise Refused("nothing of the recurrence or the read-out fits the new model")
    host = migrate_host(plan, carried, fresh)
    return Migrated(tensors, host, carried, fresh)
