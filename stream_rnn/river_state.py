"""The state of River's objects as plain JSON values, read back into fresh objects; never pickle.

`dump` walks the attributes of an object of River's own classes. `load` walks a *freshly
constructed* object of the same class beside the state and fills it in place, so no class is ever
named by the state: what the state cannot find in the fresh object, it cannot create. Objects
implemented in Rust are opaque: an allow-list of exact types is saved as the bytes of their
`__getstate__`.

Every value that JSON has no word for is a one-key object, e.g. `{"deque": [...]}`.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import metadata
from inspect import signature
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from stream_rnn.checkpoint.files import CheckpointError

MAX_OPAQUE_BYTES = 1 << 20  # an ADWIN over 100,000 values is 2 KB; a rolling quantile 8 B a value
MAX_DEPTH = 32  # River nests about 8 deep; deeper is a cycle or an attack
# The layout of an ADWIN's bytes: its settings; totals; how many buckets there are; the buckets,
# each with how many values it may hold, how many it does, and two arrays; the settings again.
_SETTINGS, _FIRST_BUCKET, _SETTINGS_AGAIN = 36, 92, 28  # bytes
_COUNT = struct.Struct("<Q")
_BUCKET = struct.Struct("<QQQ")
REHEARSALS = 64  # two of ADWIN's default periods: its every code path has run once

_OPAQUE = {
    ("river._river_rust.drift", "AdaptiveWindowing"),
    ("river._river_rust.stats", "RsEWMean"),
    ("river._river_rust.stats", "RsEWVar"),
    ("river._river_rust.stats", "RsIQR"),
    ("river._river_rust.stats", "RsKurtosis"),
    ("river._river_rust.stats", "RsPeakToPeak"),
    ("river._river_rust.stats", "RsQuantile"),
    ("river._river_rust.stats", "RsRollingIQR"),
    ("river._river_rust.stats", "RsRollingQuantile"),
    ("river._river_rust.stats", "RsSkew"),
}
_FIXED = (type, partial, FunctionType, BuiltinFunctionType, MethodType)


def dump(thing: object) -> dict[str, Any]:
    """Return the state of one River object as values that JSON can carry.

    Raises:
        CheckpointError: an attribute is of a kind that cannot be saved; names its path.
    """
    return {
        "river": _river_version(),
        "state": _dump(thing, type(thing).__name__, MAX_DEPTH),
    }


def load(thing: object, state: object) -> None:
    """Fill `thing`, fresh from its constructor with the same arguments, from what `dump` returned.

    Raises:
        CheckpointError: the state does not fit `thing` or is not one; names the place. `thing` is
            then half filled and must be thrown away.
    """
    name = type(thing).__name__
    if not isinstance(state, dict) or set(state) != {"river", "state"}:
        raise _refused(name, "expected an object with the keys river and state", state)
    _Loader(str(state["river"])).fill(thing, state["state"], name, MAX_DEPTH)


def _dump(value: object, path: str, depth: int) -> Any:
    if depth == 0:
        raise CheckpointError(f"{path[:200]}: nested deeper than {MAX_DEPTH}; a cycle?")
    if value is None or isinstance(value, bool | int | str):
        return _plain_scalar(value, path)
    if isinstance(value, float):
        plain = float(value)  # numpy's float64 is one too
        return plain if math.isfinite(plain) else {"float": repr(plain)}
    kind = type(value)
    if kind in (list, tuple, deque):
        items: Iterable[object] = value  # type: ignore[assignment]
        return {kind.__name__: [_dump(v, f"{path}[{i}]", depth - 1) for i, v in enumerate(items)]}
    if kind is set:
        return {"set": sorted((_dump(v, path, 1) for v in value), key=repr)}  # type: ignore[attr-defined]
    if isinstance(value, dict) and kind in (dict, Counter, defaultdict):
        return {
            "map": [
                [_dump(k, f"{path} key {k!r}", 1), _dump(v, f"{path}[{k!r}]", depth - 1)]
                for k, v in value.items()
            ]
        }
    if isinstance(value, _FIXED):
        return {"fixed": _fixed_name(value)}
    if _is_opaque(value):
        data: bytes = value.__getstate__()  # type: ignore[assignment]
        if len(data) > MAX_OPAQUE_BYTES:
            raise CheckpointError(
                f"{path}: {len(data)} bytes of opaque state, at most {MAX_OPAQUE_BYTES} are saved; "
                "choose a smaller window"
            )
        return {"opaque": base64.b64encode(data).decode("ascii")}
    if _is_walkable(value):
        items_by_name = sorted(vars(value).items())
        return {"object": {k: _dump(v, f"{path}.{k}", depth - 1) for k, v in items_by_name}}
    raise CheckpointError(
        f"{path}: a {kind.__module__}.{kind.__qualname__} cannot be saved in a snapshot; use one "
        "of River's own classes built from plain numbers"
    )


class _Loader:
    """Walks a fresh object and a state side by side."""

    def __init__(self, river: str) -> None:
        self._river = river

    def fill(self, fresh: object, state: object, path: str, depth: int) -> Any:
        """Return what belongs in the place of `fresh`; what is mutable is filled in place."""
        if depth == 0:
            raise CheckpointError(f"{path[:200]}: state nested deeper than {MAX_DEPTH}")
        if fresh is None or isinstance(fresh, bool | int | float | str):
            return self._scalar(fresh, state, path)
        if isinstance(fresh, _FIXED):
            name = _payload(state, "fixed", str, path)
            if name != _fixed_name(fresh):
                raise _refused(
                    path, f"expected {_fixed_name(fresh)}, built with other arguments?", name
                )
            return fresh
        if _is_opaque(fresh):
            self._opaque(fresh, _payload(state, "opaque", str, path), path)
            return fresh
        if _is_walkable(fresh):
            self._object(fresh, _payload(state, "object", dict, path), path, depth)
            return fresh
        return self._container(fresh, state, path, depth)

    def _scalar(self, fresh: object, state: object, path: str) -> object:
        value = _plain(state, path, 1)
        numbers = int, float
        same = type(value) is type(fresh) or (type(value) in numbers and type(fresh) in numbers)
        # None stands for "not seen yet" in River's attributes, on either side.
        if not same and value is not None and fresh is not None:
            raise _refused(path, f"expected {type(fresh).__name__}", value)
        if value is not None and not isinstance(value, bool | int | float | str):
            raise _refused(path, "expected a plain value", value)
        return value

    def _object(self, fresh: object, state: dict[str, object], path: str, depth: int) -> None:
        attributes = vars(fresh)
        for unknown in sorted(set(state) ^ set(attributes), key=str):
            side = "state" if unknown in state else "object"
            raise CheckpointError(
                f"{path}.{unknown}: only the {side} has this attribute; the snapshot was made by "
                f"River {self._river}, this is River {_river_version()}: install that one, or "
                "start with --fresh"
            )
        settings = _settings(type(fresh))
        for name in sorted(attributes):
            before, place = attributes[name], f"{path}.{name}"
            attributes[name] = after = self.fill(before, state[name], place, depth - 1)
            is_plain = isinstance(before, bool | int | float | str)
            if name in settings and is_plain and (type(after), after) != (type(before), before):
                raise _refused(place, f"expected {before!r} as in the configuration", after)

    def _container(self, fresh: object, state: object, path: str, depth: int) -> object:
        if isinstance(fresh, dict):
            return self._map(fresh, _payload(state, "map", list, path), path, depth)
        if type(fresh) not in (list, tuple, deque, set):
            kind = type(fresh)
            raise CheckpointError(
                f"{path}: a {kind.__module__}.{kind.__qualname__} cannot be read back"
            )
        items = _payload(state, type(fresh).__name__, list, path)
        if isinstance(fresh, list) and any(_is_walkable(v) or _is_opaque(v) for v in fresh):
            if len(items) != len(fresh):
                raise _refused(path, f"expected {len(fresh)} items", len(items))
            for i, item in enumerate(items):
                fresh[i] = self.fill(fresh[i], item, f"{path}[{i}]", depth - 1)
            return fresh
        plain = [_plain(v, f"{path}[{i}]", depth - 1) for i, v in enumerate(items)]
        if isinstance(fresh, tuple):
            return tuple(plain)
        if isinstance(fresh, deque) and fresh.maxlen is not None and len(plain) > fresh.maxlen:
            raise _refused(path, f"expected at most {fresh.maxlen} items", len(plain))
        _hashable(plain if isinstance(fresh, set) else [], path)
        fresh.clear()  # type: ignore[attr-defined]
        (fresh.update if isinstance(fresh, set) else fresh.extend)(plain)  # type: ignore[attr-defined]
        return fresh

    def _map(
        self, fresh: dict[Any, Any], items: list[object], path: str, depth: int
    ) -> dict[Any, Any]:
        factory: Callable[[], object] | None = getattr(fresh, "default_factory", None)
        filled = {}
        for key, state in _pairs(items, path):
            place = f"{path}[{key!r}]"
            if key in fresh:
                filled[key] = self.fill(fresh[key], state, place, depth - 1)
            elif isinstance(fresh, Counter):
                filled[key] = self.fill(0, state, place, depth - 1)
            elif factory is not None:
                filled[key] = self.fill(factory(), state, place, depth - 1)
            else:
                filled[key] = _plain(state, place, depth - 1)
        fresh.clear()
        dict.update(fresh, filled)  # a Counter's own update would add
        return fresh

    def _opaque(self, fresh: Any, text: str, path: str) -> None:
        if _minor(self._river) != _minor(_river_version()):
            raise CheckpointError(
                f"{path}: bytes of River {self._river} cannot be read by River {_river_version()}; "
                "install that version, or start with --fresh"
            )
        try:
            data = base64.b64decode(text[: 2 * MAX_OPAQUE_BYTES], validate=True)
        except (binascii.Error, ValueError) as error:
            raise _refused(path, "expected base64", text) from error
        if len(data) > MAX_OPAQUE_BYTES:
            raise _refused(path, f"expected at most {MAX_OPAQUE_BYTES} bytes", len(data))
        if not _has_sane_sizes(fresh.__getstate__(), data):
            raise CheckpointError(
                f"{path}: damaged opaque state: its settings or sizes make no sense"
            )
        try:
            fresh.__setstate__(data)
            # Rust believes its bytes and panics later, at an update; so rehearse some.
            for _ in range(REHEARSALS):
                fresh.update(0.5)
            fresh.__setstate__(data)
            accepted = fresh.__getstate__()
        except BaseException as error:  # a Rust panic is deliberately not an Exception
            if type(error).__name__ != "PanicException" and not isinstance(error, Exception):
                raise
            raise CheckpointError(f"{path}: damaged opaque state: {error}") from error
        if accepted != data:
            raise CheckpointError(f"{path}: damaged opaque state: {len(data)} bytes, part unused")


def _has_sane_sizes(fresh: bytes, data: bytes) -> bool:
    """Whether an ADWIN's bytes hold the settings and the sizes of one that was built alike.

    Rust takes memory by these numbers, and where there is not enough it ends the process. Bytes of
    another object, or in a layout that is not known here, are not judged.
    """
    try:
        most, _, length = _BUCKET.unpack_from(fresh, _FIRST_BUCKET)
    except struct.error:
        return True
    size = _BUCKET.size + 8 * length + 8 + 8 * length
    if len(fresh) != _FIRST_BUCKET + size + _SETTINGS_AGAIN or length != most + 1:
        return True
    ends = data[:_SETTINGS], data[-_SETTINGS_AGAIN:]
    if ends != (fresh[:_SETTINGS], fresh[-_SETTINGS_AGAIN:]):
        return False
    n, rest = divmod(len(data) - _FIRST_BUCKET - _SETTINGS_AGAIN, size)
    if n < 1 or rest or _COUNT.unpack_from(data, _FIRST_BUCKET - _COUNT.size) != (n,):
        return False
    for at in range(_FIRST_BUCKET, _FIRST_BUCKET + n * size, size):
        its_most, used, its_length = _BUCKET.unpack_from(data, at)
        (second,) = _COUNT.unpack_from(data, at + _BUCKET.size + 8 * length)
        if (its_most, its_length, second) != (most, length, length) or used > length:
            return False
    return True


def _plain(state: object, path: str, depth: int) -> Any:
    """Rebuild a value of builtin types alone: scalar, list, tuple, set, dict."""
    if state is None or isinstance(state, bool | int | float | str):
        return _plain_scalar(state, path)
    if depth <= 0:
        raise CheckpointError(f"{path[:200]}: state nested too deep for its place")
    if not isinstance(state, dict) or len(state) != 1:
        raise _refused(path, "expected a plain value or an object with one key", state)
    ((kind, items),) = state.items()
    if kind == "float" and items in ("nan", "inf", "-inf"):
        return float(items)
    if not isinstance(items, list):
        raise _refused(path, "expected a plain value", state)
    if kind == "map":
        return {k: _plain(v, f"{path}[{k!r}]", depth - 1) for k, v in _pairs(items, path)}
    plain = [_plain(v, f"{path}[{i}]", depth - 1) for i, v in enumerate(items)]
    if kind == "list":
        return plain
    if kind == "tuple":
        return tuple(plain)
    if kind == "set":
        return set(_hashable(plain, path))
    raise _refused(path, "expected a plain value", state)


def _plain_scalar(value: Any, path: str) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise CheckpointError(f"{path}: an integer of {value.bit_length()} bits, at most 64 fit")
    return value


def _pairs(items: list[object], path: str) -> Iterable[tuple[Any, object]]:
    for item in items:
        if not isinstance(item, list) or len(item) != 2:
            raise _refused(path, "expected pairs of key and value", item)
        key = _plain(item[0], f"{path} key", 1)
        yield _hashable([key], path)[0], item[1]


def _hashable(values: list[Any], path: str) -> list[Any]:
    for value in values:
        if isinstance(value, list | dict | set):
            raise _refused(path, "expected a value that can be a key", value)
    return values


def _payload(state: object, kind: str, of: type, path: str) -> Any:
    if not isinstance(state, dict) or list(state) != [kind] or not isinstance(state[kind], of):
        raise _refused(path, f"expected a {kind}", state)
    return state[kind]


def _refused(path: str, expected: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{path[:200]}: {expected}, got {repr(value)[:80]}; the snapshot was made for another "
        "configuration, or is damaged: restore its settings, or start with --fresh"
    )


def _settings(kind: type) -> frozenset[str]:
    """The arguments of its constructor, which River keeps under their own names and never changes.

    What it builds later is built with them, memory of that size included.
    """
    return frozenset(signature(kind).parameters)


def _is_opaque(value: object) -> bool:
    return (type(value).__module__, type(value).__qualname__) in _OPAQUE


def _is_walkable(value: object) -> bool:
    kind = type(value)
    if kind.__module__.partition(".")[0] != "river" or kind.__module__.startswith("river._"):
        return False
    if isinstance(value, dict | list | tuple | set | deque):  # part of it is not in its attributes
        return False
    return hasattr(value, "__dict__") and not any(vars(k).get("__slots__") for k in kind.__mro__)


def _fixed_name(value: object) -> str:
    if isinstance(value, partial):
        words = [_fixed_name(v) for v in (value.func, *value.args)]
        words += [f"{k}={_fixed_name(v)}" for k, v in value.keywords.items()]
        return f"partial({', '.join(words)})"
    return str(getattr(value, "__qualname__", value)) if isinstance(value, _FIXED) else repr(value)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


@cache
def _river_version() -> str:
    return metadata.version("river")
