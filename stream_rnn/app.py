"""The composition root: a configuration becomes a job, in one place."""

# Abstract base classes are handed over to be compared with, never to be called:
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from stream_rnn import __version__, config, head
from stream_rnn.cells import CELLS, Cell
from stream_rnn.codec import codec_by_name
from stream_rnn.config import ConfigError
from stream_rnn.credit import RULES, Credit, Fallback
from stream_rnn.engine import Batching, Engine
from stream_rnn.features import Features
from stream_rnn.health import Governor
from stream_rnn.lanes import Lanes
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.prequential import Drift
from stream_rnn.recurrence import Dense
from stream_rnn.spi import (
    Codec,
    DecodeError,
    EndOfStream,
    Guarantee,
    NotConnected,
    Record,
    SettingError,
    Sink,
    Source,
    is_finite_number,
)
from stream_rnn.tasks import TASKS, Objective, Task
from stream_rnn.update import UPDATES, Sgd, Update

T = TypeVar("T")
TABLES = {
    "source": "table",
    "codec": "table",
    "task": "table",
    "features": "table",
    "lanes": "table",
    "learner": "table",
    "sink": "tables",
    "state": "table",
    "dead_letter": "table",
    "limits": "table",
    "metrics": "table",
}
MODEL_TABLES = ("codec", "task", "features", "lanes", "learner")
"""What makes a model another model; the rest may change between two runs."""


@dataclass(frozen=True)
class State:
    """`[state]`: where and how often snapshots are kept."""

    dir: str = "state"
    every_s: float | None = None
    every_events: int | None = None
    keep: int = 3

    def __post_init__(self) -> None:
        for name in ("every_s", "every_events", "keep"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.every_s is None and self.every_events is None:
            object.__setattr__(self, "every_s", 10.0)


@dataclass(frozen=True)
class DeadLetters:
    """`[dead_letter]`: where unusable events go."""

    path: str | None = None
    keep_bytes: int = 4096
    max_bytes: int = 64 << 20
    keep: int = 1

    def __post_init__(self) -> None:
        _require(self, 0, "keep_bytes")


@dataclass(frozen=True)
class Limits:
    """`[limits]`.

    Attributes:
        event_bytes: a larger event is dead-lettered undecoded.
        poll_events: events taken from the source at once.
        gone_s: a source not reachable for this long ends the daemon with exit code 75.
        unsaved_s: without a durable snapshot for this long the daemon says it is not ready.
    """

    event_bytes: int = 16 << 20
    poll_events: int = 256
    gone_s: float = 3600.0
    unsaved_s: float = 300.0

    def __post_init__(self) -> None:
        _require(self, 1, "event_bytes", "poll_events")
        _require(self, 0, "gone_s", "unsaved_s")


@dataclass(frozen=True)
class MetricsTable:
    """`[metrics]`: the status server."""

    address: str = "127.0.0.1:9464"
    insecure: bool = False


@dataclass(frozen=True)
class LanesTable:
    """`[lanes]`."""

    key: str | None = None
    capacity: int | None = None
    batching: Batching = "event"
    block: int | None = None

    def __post_init__(self) -> None:
        _require(self, 1, "block")


@dataclass(frozen=True)
class LearnerTable:
    """`[learner]`. What is left out is chosen, unless `kind = "explicit"`.

    Attributes:
        cell: `{ kind = "lstm", units = 64 }`.
        credit: `{ kind = "ok", rank = 8 }`.
        fallback: a rule, or several, to fall back to; or false. Left out, there is one if the
            credit rule was left out too, or with `kind = "auto"`.
        governor: when to move on that ladder: trips, window, cooldown, in ticks.
        optimizer: of the recurrence, `{ kind = "adam", lr = 1e-3 }`.
        head_optimizer: of the read-out; by default like `optimizer`.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1".
        dtype: of the model.
        threads: of torch; more than one hurts on small nets and busy machines.
    """

    cell: dict[str, Any] | None = None
    credit: dict[str, Any] | None = None
    fallback: dict[str, Any] | list[dict[str, Any]] | bool | None = None
    governor: dict[str, int] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    head_optimizer: dict[str, Any] | None = None
    seed: int = 0
    device: str = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        _require(self, 1, "threads")
        if not 0 <= self.seed < 2**63 - 1:
            raise ValueError(f"seed must be in 0..2**63-2, got {self.seed}")


def _require(table: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass
class Job:
    """Everything a run needs, built and not yet opened."""

    source: Source
    engine: Engine
    sinks: list[Sink]
    dead_letters: Sink
    fallback: Fallback | None
    governor: Governor
    state: State
    limits: Limits
    metrics: MetricsTable | None
    model: dict[str, Any]
    fingerprint: str
    execution: dict[str, str]
    rule: Callable[[], str]
    banner: list[str]


def build_source(tables: Mapping[str, Any]) -> Source:
    """The `[source]` alone."""
    if "source" not in tables:
        raise ConfigError('[source] is missing: say where events come from, e.g. kind = "jsonl"')
    return _plug_in("[source]", tables["source"], Source, "stream_rnn.sources")


def build_state(tables: Mapping[str, Any]) -> State:
    """The `[state]` alone."""
    return config.build("[state]", tables.get("state", {}), State)


def build(
    tables: Mapping[str, Any],
    *,
    seed: int | None = None,
    on_score: Callable[[list[float], list[float] | int, float], None] | None = None,
) -> Job:
    """Build everything a configuration names; opens nothing, but may look at a replayable source.

    Raises:
        ConfigError: with the place and the remedy.
    """
    config.require_tables(tables, TABLES)
    _require_kinds(tables)
    limits = config.build("[limits]", tables.get("limits", {}), Limits)
    state = build_state(tables)
    letters = config.build("[dead_letter]", tables.get("dead_letter", {}), DeadLetters)
    metrics = None
    if "metrics" in tables:
        metrics = config.build("[metrics]", tables["metrics"], MetricsTable)
    source = build_source(tables)
    codec, codec_name = _codec(tables, source, limits)

    lane_table = config.build("[lanes]", tables.get("lanes", {}), LanesTable)
    lanes = _checked("[lanes]", lambda: Lanes(lane_table.key, lane_table.capacity))
    task, model = _task(tables, codec, lanes.capacity)
    plan = config.build("[learner]", tables.get("learner", {}), LearnerTable)
    kind = _learner_kind(tables.get("learner", {}))
    try:
        parts = _Parts(plan, task, lanes.capacity, seed, kind)
    except (RuntimeError, MemoryError, OverflowError) as error:  # torch: no room for the tensors
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"[learner] the model cannot be built: {first}; use fewer units, lanes or a shorter "
            "horizon"
        ) from error
    model |= {
        "codec": {"kind": codec_name},
        "lanes": {
            "key": lane_table.key,
            "capacity": lanes.capacity,
            "batching": lane_table.batching,
            "block": lane_table.block,
        },
        "learner": parts.chosen,
    }
    engine = Engine(
        codec,
        task,
        lanes,
        parts.learner,
        batching=lane_table.batching,
        block=lane_table.block,
        keep_bytes=letters.keep_bytes,
        on_score=on_score,
        drift=Drift(),
    )
    sinks = [
        _plug_in("[[sink]]", table, Sink, "stream_rnn.sinks")
        for table in tables.get("sink", [_default_sink(state)])
    ]
    letter_path = letters.path or str(Path(state.dir) / "dead_letters.jsonl")
    letter_table = {
        "kind": "jsonl",
        "path": letter_path,
        "max_bytes": letters.max_bytes,
        "keep": letters.keep,
    }
    return Job(
        source=source,
        engine=engine,
        sinks=sinks,
        dead_letters=_plug_in("[dead_letter]", letter_table, Sink, "stream_rnn.sinks"),
        fallback=parts.fallback,
        governor=parts.governor,
        state=state,
        limits=limits,
        metrics=metrics,
        model=model,
        fingerprint=fingerprint(model),
        execution=parts.execution,
        rule=parts.rule,
        banner=_banner(source, task, parts, sinks, letter_path, state, metrics),
    )


def fingerprint(model: Mapping[str, Any]) -> str:
    """Of what the model is built from: two runs with the same one may share a state folder."""
    text = json.dumps(model, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], place: str = "") -> list[str]:
    """One line for each setting that differs, `[table] key: snapshot has x, configuration y`."""
    lines: list[str] = []
    for key in sorted({*ours, *theirs}):
        mine, other = ours.get(key), theirs.get(key)
        name = f"{place}.{key}" if place else str(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            lines += difference(mine, other, name)
        elif mine != other:
            lines.append(f"{name}: the state has {other!r}, the configuration {mine!r}")
    return lines


class _Parts:
    """The learner and what belongs to it, from `[learner]`."""

    def __init__(
        self, plan: LearnerTable, task: Task, n_lanes: int, seed: int | None, kind: str | None
    ) -> None:
        self.device = _device(plan.device)
        dtype = torch.float64 if plan.dtype == "float64" else torch.float32
        torch.set_num_threads(plan.threads)
        chosen, self.why = choose(plan, self.device.type, kind)
        seed = plan.seed if seed is None else seed
        self.chosen = chosen | {"seed": seed, "dtype": plan.dtype}
        weights = torch.Generator().manual_seed(seed)
        signs = torch.Generator(device=self.device).manual_seed(seed + 1)

        cell_table = {"n_units" if k == "units" else k: v for k, v in chosen["cell"].items()}
        cell = _named("[learner] cell", cell_table, CELLS, Cell, n_inputs=task.inputs)
        rungs = [
            _named(place, table, RULES, Credit, cell=cell, n_lanes=n_lanes, generator=signs)
            for place, table in [
                ("[learner] credit", chosen["credit"]),
                *(("[learner] fallback", table) for table in chosen["fallback"]),
            ]
        ]
        self.fallback = Fallback(rungs) if len(rungs) > 1 else None
        self.credit: Credit = self.fallback or rungs[0]
        names = [_spelled(t) for t in (chosen["credit"], *chosen["fallback"])]
        self.rule = lambda: names[self.fallback.level if self.fallback else 0]
        self.governor = config.build(
            "[learner] governor", plan.governor, Governor, levels=len(rungs)
        )

        loss = _checked("[task]", lambda: _loss(task.objective))
        W_ZM = cell.initial_weight(weights).to(self.device, dtype)
        V_PF = head.initial_readout(cell.n_units, task.inputs, loss, weights, task.persist())
        update = _named("[learner] optimizer", chosen["optimizer"], UPDATES, Update)
        readout, head_update = _readout(
            chosen["head_optimizer"], cell.n_units, task.inputs, loss, V_PF.to(self.device, dtype)
        )
        self.learner = Learner(
            Dense(cell, self.credit, W_ZM),
            readout,
            update,
            head_update,
            task.horizon,
        )
        self.n_parameters = sum(p.numel() for p in self.learner.parameters())
        self.execution = {
            "stream_rnn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(self.device),
            "threads": str(plan.threads),
            "path": "torch",
        }


def choose(plan: LearnerTable, device: str, kind: str | None) -> tuple[dict[str, Any], list[str]]:
    """Fill in what the configuration leaves open; returns the choice and the reasons."""
    why: list[str] = []

    def pick(name: str, given: Any, default: Any, reason: str) -> Any:
        if given is not None:
            return given
        if kind == "explicit":
            raise ConfigError(f'[learner] {name} is missing; with kind = "auto" it would be chosen')
        why.append(reason)
        return default

    units = 64 if device != "cpu" else 32
    chosen: dict[str, Any] = {
        "cell": pick(
            "cell",
            plan.cell,
            {"kind": "lstm", "units": units},
            f"LSTM with {units} units: gates keep long memories trainable; a size this {device} "
            "steps in about a millisecond",
        ),
        "credit": pick(
            "credit",
            plan.credit,
            {"kind": "ok", "rank": 3, "chunks": "gate"},
            "OK of rank 3 per gate: unbiased credit over unlimited time at a constant cost per "
            "event, no update lock",
        ),
        "optimizer": pick(
            "optimizer",
            plan.optimizer,
            {"kind": "adam", "lr": 0.001},
            "Adam, lr 0.001, gradients clipped to norm 1",
        ),
    }
    chosen["head_optimizer"] = plan.head_optimizer or chosen["optimizer"]
    fallback = plan.fallback
    if fallback is None:
        fallback = kind == "auto" or plan.credit is None
    if fallback is True:
        fallback = {"kind": "tbptt", "window": 32}
        why.append("falls back to TBPTT over 32 events if the influence turns unsound")
    rungs = [] if not fallback else [fallback] if isinstance(fallback, dict) else fallback
    chosen["fallback"] = rungs
    return chosen, why


def discover(
    source: Source, codec: Codec, exclude: Sequence[str | None], max_events: int = 100
) -> dict[str, Any]:
    """Look at the first usable event of a replayable source: numbers and short texts are inputs."""
    if source.guarantee is not Guarantee.REPLAYABLE:
        raise ConfigError(
            "[features] is missing: name the inputs, e.g. numeric = [...]; they can only be found "
            "out by themselves for a source that can be read twice"
        )
    with source:
        try:
            source.open(None)
            events = source.poll(max_events, 1.0).events
        except (NotConnected, EndOfStream) as error:
            text = f"[features] is missing, and no event could be read: {error}"
            raise ConfigError(text) from None
        except SettingError as error:
            raise ConfigError(f"[source] {error}") from None
    for event in events:
        try:
            record = codec.decode(event.data)
        except DecodeError:
            continue
        return _fields_of(record, exclude)
    raise ConfigError(f"[features] is missing, and none of the first {len(events)} events decodes")


def _fields_of(record: Record, exclude: Sequence[str | None]) -> dict[str, Any]:
    numeric, categorical = [], []
    for name, value in record.items():
        if name in exclude:
            continue
        if is_finite_number(value) or isinstance(value, bool):
            numeric.append(name)
        elif isinstance(value, str) and len(value) <= 32:
            categorical.append(name)
    return {"numeric": numeric, "categorical": categorical}


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
    if kind == "forecast":
        numeric = written.get("numeric", [])
        written["numeric"] = [*numeric, *(t for t in targets if t not in numeric)]
    elif kind != "next_symbol" and not (written.get("numeric") or written.get("categorical")):
        calendar = None if features.calendar is None else features.calendar.field
        found = discover(build_source(tables), codec, [*targets, key, calendar])
        written |= found
    features = config.build("[features]", written, Features)
    features.expect(key)
    task = config.build("[task]", table, TASKS[kind], features=features, lanes=n_lanes)
    if task.inputs < 1:
        raise ConfigError(
            "[features] gives the network no inputs: name numeric or categorical fields"
        )
    return task, {"task": {**table}, "features": written}


def _codec(tables: Mapping[str, Any], source: Source, limits: Limits) -> tuple[Codec, str]:
    name = tables.get("codec", {}).get("kind", source.codec)
    if set(tables.get("codec", {})) - {"kind"}:
        raise ConfigError(f"[codec] unknown key (known: kind): {sorted(tables['codec'])}")
    return _checked("[codec]", lambda: codec_by_name(name, limits.event_bytes)), name


def _plug_in(place: str, table: Mapping[str, Any], base: type[T], group: str) -> T:
    if "kind" not in table:
        raise ConfigError(f'{place} kind is missing, e.g. kind = "jsonl"')
    return config.build(place, table, config.resolve(place, table["kind"], base, group))


def _named(
    place: str, table: Mapping[str, Any], names: Mapping[str, type[T]], base: type[T], **given: Any
) -> T:
    """A cell, a rule or an update: one of ours by name, or "module:Class"."""
    kind = table.get("kind")
    if kind is None:
        raise ConfigError(f"{place}: kind is missing (known: {', '.join(names)})")
    if isinstance(kind, str) and ":" in kind:
        target = config.resolve(place, kind, base, None)
    elif isinstance(kind, str) and kind in names:
        target = names[kind]
    else:
        raise ConfigError(f"{place}: unknown kind {kind!r} (known: {', '.join(names)})")
    return config.build(place, table, target, **given)


def _checked(place: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise ConfigError(f"{place} {error}") from error


def _readout(
    table: Mapping[str, Any], n_units: int, n_inputs: int, loss: head.Loss, V_PF: torch.Tensor
) -> tuple[head.Head, Update]:
    """A read-out that learns by gradients, or one that owns its update ("rls")."""
    place = "[learner] head_optimizer"
    if table.get("kind") == "rls":
        given = {"n_units": n_units, "n_inputs": n_inputs, "loss": loss, "V_PF": V_PF}
        return config.build(place, table, LeastSquaresHead, **given), Sgd()
    return head.Head(n_units, n_inputs, loss, V_PF), _named(place, table, UPDATES, Update)


def _loss(objective: Objective) -> head.Loss:
    match objective.kind:
        case "squared":
            return head.SquaredError(objective.size)
        case "quantile":
            return head.Quantile(objective.size, objective.tau)
        case "gaussian":
            return head.Gaussian(objective.size)
        case "cross_entropy":
            return head.CrossEntropy(objective.size)
        case "bernoulli":
            return head.Bernoulli(objective.size)
    raise AssertionError(objective.kind)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"[learner] device = {name!r} cannot be used: {first}") from None
    return device


def _learner_kind(table: Mapping[str, Any]) -> str | None:
    kind = table.get("kind")
    if kind not in (None, "auto", "explicit"):
        raise ConfigError(
            f'[learner] unknown kind {kind!r} (known: "auto", "explicit", or leave it out)'
        )
    return kind


def _require_kinds(tables: Mapping[str, Any]) -> None:
    """`kind` is a name wherever it stands."""
    for name, table in tables.items():
        for each in table if isinstance(table, list) else [table]:
            if not isinstance(each.get("kind", ""), str):
                raise ConfigError(f"[{name}] kind: expected a name, got {each['kind']!r}")


def _default_sink(state: State) -> dict[str, Any]:
    return {"kind": "jsonl", "path": str(Path(state.dir) / "predictions.jsonl")}


def _spelled(table: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{k}={v}" for k, v in table.items() if k != "kind")
    return f"{table['kind']}({rest})"


def _banner(
    source: Source,
    task: Task,
    parts: _Parts,
    sinks: Sequence[Sink],
    letter_path: str,
    state: State,
    metrics: MetricsTable | None,
) -> list[str]:
    chosen = parts.chosen
    rungs = [_spelled(t) for t in (chosen["credit"], *chosen["fallback"])]
    how_often = f"every {state.every_events} events"
    if not state.every_events:
        how_often = f"every {state.every_s:g} s"
    promise = {
        Guarantee.REPLAYABLE: "every event affects the model exactly once, across crashes",
        Guarantee.ACKABLE: "at least once: what was not acknowledged comes again after a crash",
        Guarantee.FIRE_AND_FORGET: "at most once: a crash loses the events since the last snapshot",
    }[source.guarantee]
    lines = [
        f"stream-rnn {__version__}",
        f"  source       {source.describe()}",
        f"  guarantee    {source.guarantee.value}: {promise}",
        f"  task         {task.describe()}",
        f"  model        {_spelled(chosen['cell'])}, {task.inputs} inputs, "
        f"{parts.n_parameters} parameters, {chosen['dtype']} on {parts.device}",
        f"  learning     {' -> '.join(rungs)}, {_spelled(chosen['optimizer'])}",
    ]
    lines += [f"    chosen     {reason}" for reason in parts.why]
    lines += [f"  sink         {sink.describe()}" for sink in sinks]
    lines += [f"  dead letters {letter_path}", f"  state        {state.dir}, {how_often}"]
    where = f"http://{metrics.address}/" if metrics else "off (add a [metrics] table)"
    lines.append(f"  metrics      {where}")
    return lines
