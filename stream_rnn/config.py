"""TOML -> objects. The constructor is the schema; there is no other one.

`build` resolves a table's `kind` to a class, converts each value to the annotation of the class's
constructor, refuses unknown keys with the list of known ones, and calls it. A configuration is
trusted like code: it names classes that will be imported and run.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import inspect
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stream_rnn.spi import SettingError

T = TypeVar("T")
SECRET = "********"
_SECRET_WORDS = ("password", "secret", "token", "credential", "apikey", "api_key")


class ConfigError(Exception):
    """The configuration cannot be used: exit code 78. Its text is for the person who wrote it."""


@contextmanager
def looked_at(path: Path) -> Iterator[None]:
    """Refuse in words what this user may not look into."""
    try:
        yield
    except PermissionError as error:
        raise ConfigError(
            f"{path}: this user may not read it; be the daemon's user or root, or hand it over "
            "(chown)"
        ) from error


def is_folder(target: Path) -> bool:
    """Whether a person named a folder; raises ConfigError where this user may not look."""
    with looked_at(target):
        return target.is_dir()


def load(path: Path) -> dict[str, Any]:
    """Parse a configuration file; raises ConfigError naming the place."""
    try:
        with looked_at(path):
            data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a configuration") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; give the path of a configuration"
        ) from None
    if len(data) > 1 << 20:
        raise ConfigError(f"{path}: {len(data)} bytes is no configuration (at most 1 MiB)")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def require_tables(config: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Refuse tables nobody reads; `known` maps a name to "table" or "tables" ([[name]])."""
    for name, value in config.items():
        if name not in known:
            raise ConfigError(f"unknown table [{name}]{_closest(name, known)}")
        if known[name] == "table" and not isinstance(value, dict):
            raise ConfigError(f"[{name}]: expected a table, got {_shown(value)}")
        if known[name] == "tables" and not (
            isinstance(value, list) and all(isinstance(v, dict) for v in value)
        ):
            raise ConfigError(f"[[{name}]]: expected tables written as [[{name}]]")


def resolve(place: str, kind: object, base: type[T], group: str | None) -> type[T]:
    """The class behind a `kind`: a short name from `group`'s entry points, or "module:Class"."""
    if not isinstance(kind, str):
        raise ConfigError(f"{place} kind: expected a name, got {_shown(kind)}")
    module_name, colon, attribute = kind.partition(":")
    if not colon:
        points = importlib.metadata.entry_points(group=group) if group else ()
        found = {point.name: point.value for point in points}
        if kind not in found:
            raise ConfigError(
                f"{place} unknown kind {kind!r}{_closest(kind, found)}; or name a class of your "
                'own: kind = "my_module:MyClass"'
            )
        module_name, _, attribute = found[kind].partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                f"{place} kind = {kind!r}: there is no module {error.name!r} on the path; install "
                "it, or start in the folder that holds it"
            ) from None
        raise ConfigError(f"{place} kind = {kind!r}: its import failed: {error}") from error
    except (Exception, SystemExit) as error:  # a plug-in's own top level may raise anything
        name = type(error).__name__
        raise ConfigError(f"{place} kind = {kind!r}: its import failed: {name}: {error}") from error
    target = getattr(module, attribute, None)
    if target is None:
        raise ConfigError(f"{place} kind = {kind!r}: module {module_name!r} has no {attribute!r}")
    if not (inspect.isclass(target) and issubclass(target, base)):
        raise ConfigError(
            f"{place} kind = {kind!r}: not a subclass of {base.__module__}.{base.__name__}"
        )
    if inspect.isabstract(target):
        missing = ", ".join(sorted(getattr(target, "__abstractmethods__", ())))
        raise ConfigError(f"{place} kind = {kind!r}: the class leaves out {missing}")
    return target


def build(place: str, table: Mapping[str, Any], call: Callable[..., T], **given: Any) -> T:
    """Call `call` with the table's keys, each converted to its annotation.

    Args:
        place: how messages name the table, e.g. "[source]".
        table: the keys a person wrote, `kind` left out of account.
        call: a class or function; its keyword arguments are the schema.
        given: arguments that come from elsewhere and are no keys.

    Raises:
        ConfigError: unknown key, wrong type, missing key, or refused by the constructor.
    """
    hints, parameters = _schema(place, call)
    known = [name for name in parameters if name not in given]
    arguments: dict[str, Any] = {}
    for key, value in table.items():
        if key == "kind":
            continue
        if key not in known:
            raise ConfigError(f"{place} unknown key {key!r}{_closest(key, known)}")
        secret = resolve_secret(place, key, value)
        arguments[key] = convert(
            f"{place} {key}", secret, hints.get(key, Any), written=value, strict=secret is value
        )
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"{place} {name!r} is missing{_example(name, hints.get(name, Any))}")
    try:
        return call(**arguments, **{k: v for k, v in given.items() if k in parameters})
    except (SettingError, ValueError) as error:
        raise ConfigError(f"{place} {error}") from error


def _schema(place: str, call: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations and parameters of a class's constructor or of a function."""
    try:
        hints = typing.get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except NameError as error:  # e.g. a type imported under TYPE_CHECKING only
        name = getattr(call, "__name__", str(call))
        raise ConfigError(f"{place} {name}: an annotation cannot be read: {error}") from None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(call).parameters
    return hints, {name: each for name, each in parameters.items() if each.kind in named}


IN_TOML = {"object": "a table { key = ... }", "array": "an array [...]", " | null": ""}
"""What messages call the types, in the words of the file; not where a path names a key."""
_THEIRS = re.compile(r"(?<![\w.])(object|array)(?!\w)| \| null")


def convert(
    place: str, value: object, annotation: Any, *, written: object = None, strict: bool = True
) -> Any:
    """`value` as `annotation`; raises ConfigError like `[source] port: expected int, got str`.

    Args:
        place: how messages name the value.
        value: what to convert.
        annotation: the type wanted.
        written: what stands in the file, if that is not the value but points at it (a secret).
        strict: False lets a text be a number, as an environment variable's is.
    """
    for part in (annotation, *typing.get_args(annotation)):
        if dataclasses.is_dataclass(part) and isinstance(value, Mapping):
            names = [field.name for field in dataclasses.fields(part)]
            for key in value:  # msgspec would pass over it in silence
                if key not in names:
                    raise ConfigError(f"{place} unknown key {key!r}{_closest(key, names)}")
    try:
        return msgspec.convert(value, annotation, strict=strict)
    except msgspec.ValidationError as error:
        text = str(error).replace("Expected", "expected").replace("`", "")
        text = _THEIRS.sub(lambda found: IN_TOML[found[0]], text)
        text = text.replace("Invalid enum value", f"expected {_choices(annotation)}, got")
        raise ConfigError(f"{place}: {text} ({_shown(value if strict else written)})") from None


def _choices(annotation: Any) -> str:
    """The texts that an annotation allows somewhere within it."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f'"{choice}"' for choice in typing.get_args(annotation))
    parts: list[Any] = [*typing.get_args(annotation)]
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        parts += typing.get_type_hints(annotation).values()
    return " or ".join(filter(None, map(_choices, parts)))


def resolve_secret(place: str, key: str, value: object) -> object:
    """`env:NAME` and `file:PATH` become what they point at."""
    if not isinstance(value, str):
        return value
    scheme, colon, rest = value.partition(":")
    if scheme == "env" and colon:
        if rest not in os.environ:
            raise ConfigError(
                f"{place} {key}: the environment variable {rest!r} of {value!r} is not set"
            )
        return os.environ[rest]
    if scheme == "file" and colon and not rest.startswith("//"):
        try:
            return Path(rest).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise ConfigError(f"{place} {key}: the file {rest!r} of {value!r}: {reason}") from None
    return value


def redacted(value: Any, key: str = "") -> Any:
    """A copy fit for logs: what looks like a secret is starred, `env:` and `file:` stay."""
    if isinstance(value, Mapping):
        return {k: redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted(v, key) for v in value]
    secret = any(word in key.lower() for word in _SECRET_WORDS)
    if secret and isinstance(value, str) and not value.startswith(("env:", "file:")):
        return SECRET
    return value


def _closest(name: str, known: Any) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(names) or 'none'})"


def _example(name: str, annotation: Any) -> str:
    wanted = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return f" ({name} = ..., {wanted})"


def _shown(value: object) -> str:
    text = repr(redacted(value))
    return text if len(text) <= 60 else text[:57] + "..."
