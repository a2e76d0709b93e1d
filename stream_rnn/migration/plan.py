"""What two models have in common: layers, inputs, outputs, lanes, the rules that teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_rnn.migration.side import Side

OF_TARGETS = ("kind", "target", "horizon", "difference", "field", "unit", "classes", "vocabulary")
"""Keys of `[task]` that say what is predicted; the others say how it is taught or judged."""


class Plan:
    """Compares the two sides once; everything else asks it.

    Attributes:
        old, new: the sides.
        layers: how many layers, from the lowest, are the same.
        lanes: the old number of each lane that goes on -> its new one.
        same_tasks: the `[task]` tables are equal.
        same_targets: ... in all that says what is predicted.
        same_inputs: the networks read the same, in the same order.
        same_credit: influence can go on: same layers, rules, inputs, horizon and number type.
    """

    def __init__(self, old: Side, new: Side) -> None:
        self.old, self.new = old, new
        before, after = layers_of(old), layers_of(new)
        self.layers = 0
        for one, other in zip(before, after, strict=False):
            if one != other:
                break
            self.layers += 1
        self.all_layers = self.layers == len(before) == len(after)
        self.prefixes = [
            (prefix(before, i), prefix(after, i)) for i in range(min(len(before), len(after)))
        ]
        self.lanes = _lanes(old, new)
        self.same_key = _table(old, "lanes").get("key") == _table(new, "lanes").get("key")
        ours, theirs = _table(old, "task"), _table(new, "task")
        self.same_tasks = ours == theirs
        self.same_targets = all(ours.get(key) == theirs.get(key) for key in OF_TARGETS)
        self.same_horizon = horizon_of(ours) == horizon_of(theirs)
        self.same_inputs = list(old.inputs) == list(new.inputs)
        self.same_credit = (
            self.all_layers
            and self.same_inputs
            and self.same_horizon
            and self._same("credit", "fallback", "dtype")
        )
        self.same_governor = self.same_credit and self._same("governor")

    def _same(self, *keys: str) -> bool:
        ours, theirs = _table(self.old, "learner"), _table(self.new, "learner")
        return all(ours.get(key) == theirs.get(key) for key in keys)

    def same_kind(self, key: str) -> bool:
        """Whether the optimizer `key` is of the same kind, also the one it wraps."""
        ours, theirs = _table(self.old, "learner").get(key), _table(self.new, "learner").get(key)
        return _kinds(ours) == _kinds(theirs)


def _kinds(table: Any) -> list[Any]:
    kinds = []
    while isinstance(table, Mapping):
        kinds.append((table.get("kind"), bool(table.get("momentum"))))
        table = table.get("inner")
    return kinds


def _table(side: Side, name: str) -> Mapping[str, Any]:
    table = side.model[name]
    if not isinstance(table, Mapping):
        raise TypeError(f"[{name}] is no table")
    return table


def layers_of(side: Side) -> list[Any]:
    """The layers' tables, the lowest first."""
    cell = _table(side, "learner")["cell"]
    return [cell] if isinstance(cell, Mapping) else list(cell)


def prefix(layers: Sequence[Any], i: int) -> str:
    """Of the names of layer i's tensors."""
    return "recurrence." if len(layers) == 1 else f"recurrence.{i}."


def horizon_of(task: Mapping[str, Any]) -> Any:
    """Events ahead; 0: the event itself."""
    if task.get("kind") == "forecast":
        return task.get("horizon", 1)
    return 1 if task.get("kind") == "next_symbol" else 0


def _lanes(old: Side, new: Side) -> dict[int, int]:
    if _table(old, "lanes").get("key") != _table(new, "lanes").get("key"):
        return {}
    pairs = old.host["engine"]["lanes"]["lanes"]  # least recently used first
    kept = sorted(int(lane) for _, lane in pairs[-int(_table(new, "lanes")["capacity"]) :])
    return {lane: i for i, lane in enumerate(kept)}
