"""The composition root: a configuration becomes a job, in one place."""

# Abstract base classes are handed over to be compared with, never to be called:
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stream_rnn import config
from stream_rnn.assembly import banner, choices, settings
from stream_rnn.assembly.discovery import discover
from stream_rnn.assembly.model import assemble
from stream_rnn.assembly.replica import build_replica
from stream_rnn.assembly.settings import (
    DeadLetters,
    JournalTable,
    LanesTable,
    LearnerTable,
    Limits,
    MetricsTable,
    ReadersTable,
    State,
)
from stream_rnn.codec import codec_by_name
from stream_rnn.config import ConfigError
from stream_rnn.engine.engine import Engine
from stream_rnn.features.encoder import Features
from stream_rnn.health import Governor
from stream_rnn.journal.source import JournaledSource
from stream_rnn.ladder import Ladder
from stream_rnn.lanes import Lanes
from stream_rnn.overload import Overload
from stream_rnn.readers.readers import Readers
from stream_rnn.readers.replica import Replica
from stream_rnn.readers.zeromq import ReadersSocket, require_place
from stream_rnn.scores import Drift
from stream_rnn.spi import LEVELS, WHY_SO, Codec, Sink, Source, require_port
from stream_rnn.tasks import TASKS, Task

T = TypeVar("T")


@dataclass
class Job:
    """Everything a run needs, built and not yet opened."""

    source: Source
    engine: Engine
    sinks: list[Sink]
    dead_letters: Sink
    ladder: Ladder
    governor: Governor
    state: State
    limits: Limits
    overload: Overload
    metrics: MetricsTable | None
    readers: Readers | None
    readers_socket: ReadersSocket | None
    apart: ReadersTable | None
    model: dict[str, Any]
    fingerprint: str
    execution: dict[str, str]
    banner: list[str]


def build_source(tables: Mapping[str, Any]) -> Source:
    """The `[source]` alone."""
    if "source" not in tables:
        raise ConfigError('[source] is missing: say where events come from, e.g. kind = "jsonl"')
    return _plug_in("[source]", tables["source"], Source, "stream_rnn.sources")


def journaled(tables: Mapping[str, Any], source: Source, state: State) -> Source:
    """The source behind the `[journal]`, where there is one."""
    if "journal" not in tables:
        return source
    table = config.build("[journal]", tables["journal"], JournalTable)
    keep = state.keep if table.keep is None else table.keep
    if keep < state.keep:
        raise ConfigError(
            f"[journal] keep = {keep}: must be at least [state] keep = {state.keep}, so that a "
            "damaged snapshot can fall back to an older one"
        )
    directory = Path(table.dir or Path(state.dir) / "journal")
    if directory.resolve() == Path(state.dir).resolve():
        raise ConfigError(
            f"[journal] dir = {table.dir!r}: is the state folder itself; leave it out, or give the "
            "journal a folder of its own"
        )
    return JournaledSource(
        source,
        directory,
        fsync_every=table.fsync_every,
        fsync_ms=table.fsync_ms,
        segment_bytes=table.segment_bytes,
        max_bytes=table.max_bytes,
        keep=keep,
        on_damage=table.on_damage,
        on_gap=table.on_gap,
    )


def build(
    tables: Mapping[str, Any],
    *,
    seed: int | None = None,
    on_score: Callable[[list[float], list[float] | int, float, str], None] | None = None,
) -> Job:
    """Build everything a configuration names; opens nothing, but may look at a replayable source.

    Raises:
        ConfigError: with the place and the remedy.
    """
    settings.require_sound(tables)
    limits = settings.build_limits(tables)
    overload = settings.build_overload(tables)
    state = settings.build_state(tables)
    letters = config.build("[dead_letter]", tables.get("dead_letter", {}), DeadLetters)
    metrics = None
    if "metrics" in tables:
        metrics = config.build("[metrics]", tables["metrics"], MetricsTable)
    source = build_source(tables)
    codec, codec_table = _codec(tables, source, limits)
    journaling = journaled(tables, source, state)
    require(journaling, limits.require)  # what is in a journal comes again

    lane_table = config.build("[lanes]", tables.get("lanes", {}), LanesTable)
    lanes = _checked("[lanes]", lambda: Lanes(lane_table.key, lane_table.capacity, lane_table.end))
    task, written = _task(tables, codec, lanes.capacity)
    plan = config.build("[learner]", tables.get("learner", {}), LearnerTable)
    kind = choices.kind_of(tables.get("learner", {}))
    model = assemble(plan, kind, task, lanes.capacity, seed)
    _degrade(overload, model.governor)
    effective = written | {
        "codec": codec_table,
        "lanes": {
            "key": lane_table.key,
            "capacity": lanes.capacity,
            "batching": lane_table.batching,
            "block": lane_table.block,
            # only where it is set, so that older state folders stay the same model's
            **({} if lane_table.end is None else {"end": lane_table.end}),
        },
        "learner": model.chosen,
    }
    engine = _checked(
        "[task]",
        lambda: Engine(
            codec,
            task,
            lanes,
            model.learner,
            batching=lane_table.batching,
            block=lane_table.block,
            keep_bytes=letters.keep_bytes,
            on_score=on_score,
            drift=Drift(),
        ),
    )
    apart = _apart(tables, task, model.chosen)
    readers, socket = (None, None) if apart else _readers(tables, engine, model.chosen)
    sink_tables = tables.get("sink", [_default_sink(state)])
    sinks = [_plug_in("[[sink]]", table, Sink, "stream_rnn.sinks") for table in sink_tables]
    letter_path = str(letters.file(state.dir))
    letter_table = {
        "kind": "jsonl",
        "path": letter_path,
        "max_bytes": letters.max_bytes,
        "keep": letters.keep,
    }
    _require_files_apart(
        ("[source]", tables["source"]),
        *(("[[sink]]", table) for table in sink_tables),
        ("[dead_letter]", letter_table),
    )
    return Job(
        source=journaling,
        engine=engine,
        sinks=sinks,
        dead_letters=_plug_in("[dead_letter]", letter_table, Sink, "stream_rnn.sinks"),
        ladder=model.ladder,
        governor=model.governor,
        state=state,
        limits=limits,
        overload=overload,
        metrics=metrics,
        readers=readers,
        readers_socket=socket,
        apart=apart,
        model=effective,
        fingerprint=fingerprint(effective),
        execution=model.execution,
        banner=[
            *banner.lines(
                journaling,
                task,
                model,
                sinks,
                letter_path,
                state,
                metrics,
                journaling.promise() if isinstance(journaling, JournaledSource) else None,
            ),
            *banner.overload_lines(overload, journaling),
        ],
    )


def fingerprint(model: Mapping[str, Any]) -> str:
    """Of what the model is built from: two runs with the same one may share a state folder."""
    text = json.dumps(model, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def written_out(model: dict[str, Any]) -> dict[str, Any]:
    """A model that an earlier version wrote down, as it would be written now."""
    learner = model.get("learner")
    if not isinstance(learner, Mapping):
        return model
    before = choices.RANK_BEFORE, choices.ALPHA_BEFORE
    return {**model, "learner": choices.written_out(learner, *before)}


def require(source: Source, level: str | None, place: str = "[limits] require") -> None:
    """Refuse a source that promises less than `level`; raises ConfigError with the remedy."""
    promises = list(LEVELS.values())
    ours = LEVELS[source.guarantee]
    if level is not None and promises.index(ours) > promises.index(level):
        raise ConfigError(
            f"{place} = {level!r}: the source ({source.describe()}) promises {ours} only, for "
            f"{WHY_SO[source.guarantee]}; take a source that promises it (docs/delivery.md), or "
            "require less"
        )


def _task(tables: Mapping[str, Any], codec: Codec, n_lanes: int) -> tuple[Task, dict[str, Any]]:
    table = tables.get("task")
    if table is None or "kind" not in table:
        raise ConfigError(
            '[task] kind is missing: "forecast", "regression", "classification" or "next_symbol"'
        )
    kind = table["kind"]
    if kind not in TASKS:
        raise ConfigError(f"[task] unknown kind {kind!r} (known: {', '.join(TASKS)})")
    written = dict(tables.get("features", {}))
    features = config.build("[features]", written | {"lags": {}}, Features)  # sound as written?
    target = config.convert("[task] target", table.get("target", []), str | list[str])
    targets = [target] if isinstance(target, str) else target
    key = tables.get("lanes", {}).get("key")
    end = tables.get("lanes", {}).get("end")
    foretold = [table.get("field", "text")] if kind == "next_symbol" else targets
    if key in foretold:
        raise ConfigError(
            f"[lanes] key = {key!r} is the target: the lane alone would tell it; name another field"
        )
    if kind == "forecast":
        numeric = written.get("numeric", [])
        written["numeric"] = [*numeric, *(t for t in targets if t not in numeric)]
    elif kind != "next_symbol" and not (written.get("numeric") or written.get("categorical")):
        calendar = None if features.calendar is None else features.calendar.field
        found = discover(
            build_source(tables), codec, [*targets, key, end, table.get("weight"), calendar]
        )
        written |= found
    features = config.build("[features]", written, Features)
    features.expect(key, end)
    task = config.build("[task]", table, TASKS[kind], features=features, lanes=n_lanes)
    if task.inputs < 1:
        raise ConfigError(
            "[features] gives the network no inputs: name numeric or categorical fields"
        )
    return task, {"task": {**table}, "features": written}


def _apart(tables: Mapping[str, Any], task: Task, chosen: Mapping[str, Any]) -> ReadersTable | None:
    """`[readers]`, sound, if they are to have a process of their own."""
    table = config.build("[readers]", tables.get("readers", {}), ReadersTable)
    if not (table.enabled and table.process):
        return None
    build_replica(chosen, task)  # there it would be refused when the daemon has long said it runs
    if table.http is not None:
        http = table.http
        _checked("[readers]", lambda: require_port(http, "http"))
    if table.address is not None:
        address = table.address
        _checked("[readers]", lambda: require_place(address, table.insecure))
    return table


def _readers(
    tables: Mapping[str, Any], engine: Engine, chosen: Mapping[str, Any]
) -> tuple[Readers | None, ReadersSocket | None]:
    """Who answers readers, and the socket they may ask; None where nobody does."""
    table = config.build("[readers]", tables.get("readers", {}), ReadersTable)
    if "readers" not in tables or not table.enabled:
        return None, None
    replicas = [Replica(build_replica(chosen, engine.task)) for _ in range(table.max_concurrent)]
    readers = Readers(engine, replicas, table.publish_ms / 1000, table.max_bytes)
    if table.address is None:
        return readers, None
    address, insecure = table.address, table.insecure
    return readers, _checked(
        "[readers]",
        lambda: ReadersSocket(
            address, readers.answer, readers.turned_away, table.max_bytes, insecure
        ),
    )


def task_of(model: Mapping[str, Any]) -> Task:
    """The task of a model as a snapshot describes it (`Job.model`), with nothing learned.

    Raises:
        ConfigError: it is damaged, or from a version whose settings were others.
    """
    kind, n_lanes = model["task"].get("kind"), model["lanes"].get("capacity")
    if kind not in TASKS or not isinstance(n_lanes, int):
        raise ConfigError(f"[task] kind = {kind!r} in the snapshot is none of ours")
    features = config.build("[features]", model["features"], Features)
    return config.build("[task]", model["task"], TASKS[kind], features=features, lanes=n_lanes)


def _codec(
    tables: Mapping[str, Any], source: Source, limits: Limits
) -> tuple[Codec, dict[str, Any]]:
    table = tables.get("codec", {})
    name = table.get("kind", source.codec)
    if ":" in name:  # one of the user's own
        own = config.resolve("[codec]", name, object, None)
        if not callable(getattr(own, "decode", None)):
            raise ConfigError(f"[codec] kind = {name!r}: it has no method decode(data)")
        codec: Codec = config.build("[codec]", table, own)  # type: ignore[assignment]
        return codec, dict(table)
    if set(table) - {"kind"}:
        raise ConfigError(f"[codec] unknown key (known: kind): {sorted(tables['codec'])}")
    made = _checked("[codec]", lambda: codec_by_name(name, limits.event_bytes))
    return made, {"kind": name}


def _degrade(overload: Overload, governor: Governor) -> None:
    """Let what waits move the ladder, where that was asked for."""
    if overload.policy != "degrade":
        return
    if governor.levels < 2:
        raise ConfigError(
            '[overload] policy = "degrade" needs rungs to go down to: give [learner] a fallback, '
            'e.g. fallback = ["readout", "frozen"]'
        )
    governor.limit_lag(overload.limit)


def _plug_in(place: str, table: Mapping[str, Any], base: type[T], group: str) -> T:
    if "kind" not in table:
        raise ConfigError(f'{place} kind is missing, e.g. kind = "jsonl"')
    return config.build(place, table, config.resolve(place, table["kind"], base, group))


def _checked(place: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise ConfigError(f"{place} {error}") from error


def _require_files_apart(*placed: tuple[str, Mapping[str, Any]]) -> None:
    """Refuse a file that two tables name: a sink appends to its own, cuts and rotates it."""
    taken: dict[Path, str] = {}
    for place, table in placed:
        if table["kind"] != "jsonl":
            continue
        path = Path(table["path"]).resolve()
        if path in taken:
            raise ConfigError(
                f"{place} path: {table['path']} is the file of {taken[path]}; give each a file of "
                "its own"
            )
        taken[path] = place


def _default_sink(state: State) -> dict[str, Any]:
    return {"kind": "jsonl", "path": str(Path(state.dir) / "predictions.jsonl")}
