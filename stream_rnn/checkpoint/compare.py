"""What differs between two snapshots: settings, positions, tensors, host state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from stream_rnn.checkpoint.snapshot import Loaded

DEEPEST = 4  # levels of the host state that are told apart; what lies below counts as a whole
MOST_LANES = 16  # that differ in something and are named one by one


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value in a, value in b) of each setting that differs; None: not there."""
    for key in sorted({*a, *b}):
        one, other = a.get(key), b.get(key)
        name = f"{place}.{key}" if place else str(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, name)
        elif one != other:
            yield name, one, other


def tensor_changes(a: Loaded, b: Loaded) -> Iterator[tuple[str, str]]:
    """(name, what became of it) of every tensor in either, in order of their names.

    The change is |b - a| / |a| (Euclidean), in float64.
    """
    for name in sorted({*a.tensors, *b.tensors}):
        if name not in b.tensors or name not in a.tensors:
            yield name, "only in A" if name in a.tensors else "only in B"
            continue
        one, other = a.tensors[name], b.tensors[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            yield (
                name,
                f"{_kind(one.dtype)} {list(one.shape)} -> {_kind(other.dtype)} {list(other.shape)}",
            )
            continue
        size = float(one.double().norm())
        change = float((other.double() - one.double()).norm())
        if not change:
            told = "same"
        else:
            told = f"{change / size:.3g}" if size else f"{change:.3g} from zero"
        yield name, f"{told:<16} {list(one.shape)}"


def host_changes(a: Loaded, b: Loaded) -> Iterator[tuple[str, str]]:
    """(dotted key, "only in A", "only in B" or "changed") of the host state, to a modest depth.

    Of many lanes that differ in something only how many do.
    """
    yield from _walk(msgspec.json.decode(a.host), msgspec.json.decode(b.host), "", DEEPEST)


def _walk(a: object, b: object, place: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth == 0 or not (isinstance(a, dict) and isinstance(b, dict)):
        if a != b:
            yield place or "(all)", "changed"
        return
    keys = {*a, *b}
    if len(keys) > MOST_LANES and all(key.isdecimal() for key in keys):
        n = sum(key not in a or key not in b or a[key] != b[key] for key in keys)
        if n > MOST_LANES:
            yield place, f"changed in {n} of {len(keys)} lanes"
            return
    for key in sorted(keys):
        name = f"{place}.{key}" if place else str(key)
        if key not in a or key not in b:
            yield name, "only in A" if key in a else "only in B"
        else:
            yield from _walk(a[key], b[key], name, depth - 1)


def _kind(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
