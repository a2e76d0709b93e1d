"""The recurrent network of `[learner]`: its layers, and who teaches each."""

# Abstract base classes are handed over to be compared with, never to be called:
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from stream_rnn import config
from stream_rnn.cells import CELLS, Cell
from stream_rnn.config import ConfigError
from stream_rnn.credit import RULES, Credit, Fallback
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.recurrence import RECURRENCES, Dense, Lru, Recurrence, Rtu, Stack

T = TypeVar("T")
Table = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """What learns the recurrence.

    Attributes:
        recurrence: one layer, or a stack of them.
        ladders: the fallback ladder of each layer that has one; they move together.
    """

    recurrence: Recurrence
    ladders: list[Fallback]


@dataclass(frozen=True)
class Generators:
    """Where randomness comes from: initial weights, and the signs of noisy rules."""

    weights: torch.Generator
    signs: torch.Generator


def layers_of(cell: Table | Sequence[Table]) -> list[Table]:
    """`cell = {...}` is one layer, `cell = [{...}, {...}]` several, the lowest first."""
    tables = [cell] if isinstance(cell, Mapping) else list(cell)
    if not tables:
        raise ConfigError("[learner] cell is an empty list: name at least one layer")
    return tables


def needs_credit(table: Table) -> bool:
    """Whether a layer of this kind is taught by a credit rule, rather than exactly by itself."""
    return issubclass(layer_class("[learner] cell", table), Cell)


def push_cost(layers: Sequence[Table], n_inputs: int, columns: int | None = None) -> int | None:
    """Multiply-adds a tick and lane of carrying an influence on; None where nobody can know.

    Pushing S x Z x R numbers through J_h (S x N) takes S*N*Z*R (docs/algorithms.md 4.1).

    Args:
        layers: of the network, the lowest first.
        n_inputs: I of the lowest.
        columns: R, kept for each row of W; by default M, all of them: exact RTRL.
    """
    total = 0
    for table in layers:
        target, units = layer_class("[learner] cell", table), table.get("units")
        if not isinstance(units, int):
            return None
        if issubclass(target, Cell):
            S, Z, M = target.blocks * units, target.gates * units, n_inputs + units + 1
            total += S * units * Z * (M if columns is None else columns)
        n_inputs = width_of(table, units)
    return total


def width_of(table: Table, units: int) -> int:
    """Numbers in the h of a layer with so many units."""
    return 2 * units if layer_class("[learner] cell", table) in (Lru, Rtu) else units


def build(
    cell: Table | Sequence[Table],
    credit: Sequence[Table],
    fidelity: Table | None,
    *,
    has_ladder: bool,
    n_inputs: int,
    n_lanes: int,
    generators: Generators,
    dtype: torch.dtype,
    device: torch.device,
) -> Network:
    """Build every layer.

    Args:
        cell: one table or several.
        credit: the credit rule's table, then those it falls back to.
        fidelity: of the live comparison with a long window, or None.
        has_ladder: whether there are rungs to fall back to, rules or others.
        n_inputs: I of the lowest layer.
        n_lanes: B.
        generators: of initial weights and of signs.
        dtype: of the model.
        device: where it lives.
    """
    tables = layers_of(cell)
    layers: list[Recurrence] = []
    ladders: list[Fallback] = []
    for i, table in enumerate(tables):
        place = "[learner] cell" if len(tables) == 1 else f"[learner] cell, layer {i}"
        width = layers[-1].width if layers else n_inputs
        target = layer_class(place, table)
        named = _in_our_words(place, table, target)
        if issubclass(target, Recurrence):
            given = {"generator": generators.weights, "dtype": dtype, "device": device}
            with _said_in_their_words():
                layers.append(
                    config.build(place, named, target, n_inputs=width, n_lanes=n_lanes, **given)
                )
            continue
        with _said_in_their_words():
            built = config.build(place, named, target, n_inputs=width)
        rungs = [
            rule_of(built, rule, j, n_lanes, generators.signs) for j, rule in enumerate(credit)
        ]
        taught_by: Credit = rungs[0]
        if has_ladder:
            taught_by = Fallback(rungs)
            ladders.append(taught_by)
        probe = None
        if fidelity is not None:
            probe = config.build("[learner] fidelity", fidelity, Fidelity)
        W_ZM = built.initial_weight(generators.weights).to(device, dtype)
        layers.append(Dense(built, taught_by, W_ZM, probe))
    return Network(layers[0] if len(layers) == 1 else Stack(layers), ladders)


def named(place: str, table: Table, names: Mapping[str, type[T]], base: type[T], **given: Any) -> T:
    """A rule or an update: one of ours by name, or "module:Class"."""
    return config.build(place, table, class_of(place, table, names, base), **given)


def _in_our_words(place: str, table: Table, target: type[Any]) -> Table:
    """What people call `units` is `n_units` in the code."""
    parameters = inspect.signature(target).parameters
    if "n_units" not in parameters:
        return table
    if "n_units" in table:
        raise ConfigError(f"{place} unknown key 'n_units'; did you mean 'units'?")
    if "units" not in table and table.keys() <= {"kind", *parameters}:
        raise ConfigError(f"{place} 'units' is missing (units = 32)")
    return {"n_units" if name == "units" else name: value for name, value in table.items()}


@contextmanager
def _said_in_their_words() -> Iterator[None]:
    """And back: messages name the key that was written."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(re.sub(r"\bn_units\b", "units", str(error))) from error


def rule_of(cell: Cell, table: Table, rung: int, n_lanes: int, signs: torch.Generator) -> Credit:
    """The rule of a table, the primary (rung 0) or one to fall back to."""
    place = "[learner] fallback" if rung else "[learner] credit"
    return named(place, table, RULES, Credit, cell=cell, n_lanes=n_lanes, generator=signs)


def layer_class(place: str, table: Table) -> type[Cell] | type[Recurrence]:
    """The cell or recurrence that a layer's table names."""
    names: dict[str, type[Any]] = {**CELLS, **RECURRENCES}
    target = class_of(place, table, names, object)
    if issubclass(target, Cell | Recurrence):
        return target
    raise ConfigError(f"{place} kind = {table['kind']!r}: neither a Cell nor a Recurrence")


def class_of(place: str, table: Table, names: Mapping[str, type[T]], base: type[T]) -> type[T]:
    """The class that the table's `kind` names: one of `names`, or "module:Class"."""
    kind = table.get("kind")
    if kind is None:
        raise ConfigError(f"{place}: kind is missing (known: {', '.join(names)})")
    if isinstance(kind, str) and ":" in kind:
        return config.resolve(place, kind, base, None)
    if isinstance(kind, str) and kind in names:
        return names[kind]
    raise ConfigError(f"{place}: unknown kind {kind!r} (known: {', '.join(names)})")
