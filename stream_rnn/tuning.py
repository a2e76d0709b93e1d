"""The settings that may change while the daemon runs: by `ctl set`, or from its file on SIGHUP.

They are those that neither choose a model nor touch what is learned. Everything here is called by
the loop's thread.
"""

from __future__ import annotations

import dataclasses
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_rnn import config
from stream_rnn.assembly import settings
from stream_rnn.assembly.settings import Limits, State
from stream_rnn.config import ConfigError
from stream_rnn.runtime.checkpointing import Schedule
from stream_rnn.runtime.loop import Runtime

_log = logging.getLogger(__name__)

SAFE = {
    "state": ("every_s", "every_events"),
    "limits": ("poll_events", "gone_s", "unsaved_s"),
}


class Tuning:
    """What is in effect of `[state]` and `[limits]` in a run.

    Args:
        runtime: changed.
        state, limits: as it was started with.
        file: the configuration file and what it held at the start; None: there is none.
    """

    def __init__(
        self,
        runtime: Runtime,
        state: State,
        limits: Limits,
        file: tuple[Path, Mapping[str, Any]] | None,
    ) -> None:
        self._runtime = runtime
        self._state = state
        self._limits = limits
        self._file = file

    def assign(self, assignment: str) -> str:
        """Take "table.key=value", the value as TOML writes it; raises ConfigError."""
        name, equals, text = assignment.partition("=")
        table, _, key = name.strip().partition(".")
        if not equals or key not in SAFE.get(table, ()):
            known = ", ".join(f"{table}.{key}" for table, keys in SAFE.items() for key in keys)
            raise ConfigError(
                f"set: {name.strip()[:80]!r} cannot be changed while the daemon runs; expected "
                f"KEY=VALUE with one of {known}. Others: change the file and start it again"
            )
        try:
            value = tomllib.loads(f"value = {text.strip()}")
            if list(value) != ["value"]:
                raise ConfigError(f"set: {name.strip()} takes one value, got {text.strip()[:80]!r}")
        except tomllib.TOMLDecodeError:
            value = {"value": text.strip()}  # a bare word: the type says what is wrong
        said = self._apply({table: {key: value["value"]}})
        return said[0] if said else f"{name.strip()} is that already"

    def reload(self) -> None:
        """Read the file again; an invalid one changes nothing. The log says what became of it."""
        self._runtime.notifier.reloading()
        try:
            self._reload()
        except ConfigError as error:
            _log.error("the configuration was not taken over, nothing changed: %s", error)
        finally:
            self._runtime.notifier.reloaded()

    def _reload(self) -> None:
        if self._file is None:
            raise ConfigError("this run has no configuration file")
        path, started_with = self._file
        tables = config.load(path)
        settings.require_sound(tables)
        settings.require_values(tables)
        state, limits = settings.build_state(tables), settings.build_limits(tables)
        wanted = {"state": _safe("state", state), "limits": _safe("limits", limits)}
        changed = self._apply(wanted)
        for line in changed:
            _log.info("reloaded: %s", line)
        waiting = sorted(_differing(started_with, tables))
        if waiting:
            _log.warning("reloaded: %s changed and needs a restart", ", ".join(waiting))
        if not changed and not waiting:
            _log.info("reloaded: nothing changed")

    def _apply(self, wanted: Mapping[str, dict[str, Any]]) -> list[str]:
        """Change what differs, all of it or nothing; one line each. Raises ConfigError."""
        tables: dict[str, Any] = {
            "state": _written(self._state) | wanted.get("state", {}),
            "limits": _written(self._limits) | wanted.get("limits", {}),
        }
        for table in tables.values():
            for key in [key for key, value in table.items() if value is None]:
                del table[key]
        state, limits = settings.build_state(tables), settings.build_limits(tables)
        pairs = (("state", self._state, state), ("limits", self._limits, limits))
        said = []
        for table, old, new in pairs:
            for key in SAFE[table]:
                before, after = getattr(old, key), getattr(new, key)
                if before != after:
                    said.append(f"{table}.{key} {_shown(before)} -> {_shown(after)}")
        self._state, self._limits = state, limits
        runtime = self._runtime
        runtime.checkpointing.schedule = Schedule(state.every_s, state.every_events)
        runtime.poll_events = limits.poll_events
        runtime.connection.gone_s = limits.gone_s
        runtime.watch.unsaved_s = limits.unsaved_s
        return said


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Places that differ and are not safe; not their values, which may be secrets."""
    found = set()
    for name in {*old, *new}:
        before, after = old.get(name, {}), new.get(name, {})
        if not (isinstance(before, dict) and isinstance(after, dict)):
            found |= {f"[[{name}]]"} if before != after else set()
            continue
        keys = (key for key in {*before, *after} if before.get(key) != after.get(key))
        found |= {f"[{name}] {key}" for key in keys if key not in SAFE.get(name, ())}
        if (name in old) != (name in new) and not (before or after or name in SAFE):
            found.add(f"[{name}]")  # empty, it still asks for something
    return found


def _safe(name: str, table: State | Limits) -> dict[str, Any]:
    return {key: getattr(table, key) for key in SAFE[name]}


def _written(table: State | Limits) -> dict[str, Any]:
    return {each.name: getattr(table, each.name) for each in dataclasses.fields(table)}


def _shown(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
