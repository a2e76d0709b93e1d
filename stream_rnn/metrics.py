"""Every number the daemon exports: plain attributes the loop writes, read out when Prometheus asks.

`Metrics` is itself the collector. The hot path pays one addition to a Python int (about 30 ns; a
`prometheus_client` counter costs 290 ns and a lock), and what nobody scrapes costs nothing. One
thread writes, the loop's; scrapes come from other threads and read each number atomically, so two
numbers of one scrape may stand one event apart. Counters start at 0 with the process: one that came
back from a snapshot a little smaller would look like a reset, and count all its past again. A gauge
whose value is unknown is exported as NaN, never as 0.

One line below declares a series: its attribute, its type, its help. `describe` and docs/metrics.md
(`python -m stream_rnn.metrics > docs/metrics.md`) follow from it. Those lines are why this file is
longer than its neighbors.
"""
# ruff: noqa: RUF009  the calls in the class body are `dataclasses.field` by shorter names

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stream_rnn.overload import SHEDDING

ACCIDENTS = ("decode", "features", "learn", "poison")  # where an event can be refused
ISSUES = (
    "missing",
    "extra",
    "wrong_type",
    "non_finite",
    "absurd",
    "clipped",
    "unknown_category",
    "unknown_class",
    "bad_key",
)
TIMED = ("wait", "receive", "decode", "features", "step", "emit", "snapshot_copy")
FILLS = ("empty", "part", "full")  # what a poll brought of what it asked for
SKIPS = ("bad_event", "bad_credit", "refused", "locked", "fallback", "overload", "ctl")
TRIGGERS = ("unsound", "noise", "slow", "lag")  # what leads down the ladder
MOVES = (*(("down", trigger) for trigger in TRIGGERS), ("up", "calm"))
READ = ("answered", "refused", "busy", "unpublished", "failed")
TICK_S = (*(m * 10.0**e for e in range(-5, 0) for m in (1, 2.5, 5)), 1.0)
FSYNC_S = (*(m * 10.0**e for e in range(-4, 0) for m in (1, 2.5, 5)), 1.0, 10.0)
LATENCY_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 3600.0)
NOTICED_LIMIT = 64  # names per source: a plug-in that invents names must not fill the memory

Values = tuple[tuple[str, ...], ...]
Gauge = float | None
Reading = Callable[[], float | None]


class Histogram:
    """Observations counted into fixed buckets; cheap enough for every event."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(round(bound, 9) for bound in bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, n: int = 1) -> None:
        """Count a value `n` times. A clock running backwards: as 0; NaN and inf: beyond all."""
        if not 0.0 <= value < math.inf:  # a hostile timestamp must not turn the sum into NaN
            value, slot = 0.0, 0 if value < 0.0 else -1
        else:
            slot = bisect_left(self.bounds, value)
        self.counts[slot] += n
        self.total += n * value


class Description(NamedTuple):
    """One exported series, as docs/metrics.md lists it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class _Series:
    type: str
    help: str
    labels: tuple[str, ...] = ()
    # the closed set, of tuples if there are two labels; empty: given to the constructor, or info
    values: tuple[str | tuple[str, ...], ...] = ()
    bounds: tuple[float, ...] = ()


def _declare(type: str, help: str, *labels: str, **more: tuple[Any, ...]) -> Any:
    return field(metadata={"series": _Series(type, help, tuple(filter(None, labels)), **more)})


def _counter(
    help: str,
    label: str = "",
    values: Sequence[str] | Sequence[tuple[str, ...]] = (),
    also: str = "",
) -> Any:
    return _declare("counter", help, label, also, values=tuple(values))


def _gauge(help: str, label: str = "") -> Any:
    return _declare("gauge", help, label)


def _info(help: str, *labels: str) -> Any:
    return _declare("info", help, *labels)


def _histogram(help: str, bounds: Sequence[float]) -> Any:
    return _declare("histogram", help, bounds=tuple(bounds))


@dataclass(init=False, repr=False, eq=False)
class Metrics(Collector):
    """The daemon's numbers. Construct once per registry; only the loop's thread writes.

    Counters: `m.events_applied += 1`, `m.events_rejected["decode"] += 1` (a label value outside the
    closed set is a KeyError). Gauges: assign; `None` is unknown. Infos: assign a tuple of label
    value tuples, e.g. `m.credit_info = (("Rtrl",),)`. Gauges declared as functions are called at
    the scrape, on the scraping thread: they may only read, and raise nothing.
    """

    events_in: dict[str, int] = _counter("Events received.", "source")
    events_applied: int = _counter("Events that advanced the model.")
    events_rejected: dict[str, int] = _counter("Events refused, by stage.", "stage", ACCIDENTS)
    dead_letters: dict[str, int] = _counter(
        "Events written to the dead-letter file, by stage.", "stage", ACCIDENTS
    )
    duplicates_dropped: int = _counter("Events dropped because their position was applied before.")
    predictions: int = _counter("Predictions handed to the sinks.")
    source_noticed: dict[tuple[str, str], int] = _counter(
        "What a source itself noticed, e.g. sequence gaps.", "source", also="what"
    )
    feature_issues: dict[str, int] = _counter(
        "Field values that were not as configured.", "issue", ISSUES
    )
    shed: dict[str, int] = _counter(
        "Events given up because too many waited, by policy ([overload]).", "policy", SHEDDING
    )
    waiting_events: Gauge = _gauge(
        "Events received and not yet taken in; NaN: the source keeps them ([overload] block)."
    )
    lag_events: Gauge = _gauge("Events the source holds that are not applied; NaN: unknown.")
    lag_seconds: Gauge = _gauge("Time the source is behind its producer; NaN: unknown.")
    connected: Gauge = _gauge("1 while the source is connected, 0 while it is not.")
    reconnects: int = _counter("Connections to the source made anew.")
    polls: dict[str, int] = _counter(
        "Polls of the source, by what they brought; full: as much as was asked for, so more waits.",
        "fill",
        FILLS,
    )

    tick_seconds: Histogram = _histogram(
        "Duration of one tick, event taken to learned; the mean where many were learned together.",
        TICK_S,
    )
    stage_seconds: dict[str, float] = _counter(
        "Time spent, by stage; wait: polls that drained the source, and reconnecting.",
        "stage",
        TIMED,
    )
    end_to_end_seconds: Histogram = _histogram(
        "Time from an event's own timestamp to its being applied.", LATENCY_S
    )
    last_event_timestamp_seconds: Gauge = _gauge("Unix time at which the newest event was applied.")
    loop_age_seconds: Callable[[], float | None] = _gauge(
        "Time since the loop last turned; above a second or two it hangs in one call."
    )
    ready: Callable[[], float | None] = _gauge("1 while /readyz says ok, 0 while it gives reasons.")

    prequential_loss: Gauge = _gauge(
        "Exponentially weighted mean loss, predicted before learned; of several targets, which may "
        "have different units, the mean NRMSE."
    )
    baseline_loss: dict[str, Gauge] = _gauge("The same for a baseline.", "baseline")
    prequential_metric: dict[str, Gauge] = _gauge("A prequential score, cumulative.", "name")
    scored: int = _counter("Predictions compared with their target.")
    gradient_norm: Gauge = _gauge("Euclidean norm of the newest gradient; NaN: none yet.")
    update_ratio: Gauge = _gauge("Norm of the newest update over the norm of the parameters.")
    influence_norm: Gauge = _gauge(
        "Largest norm of an influence the credit rule carries; NaN: none yet, or it carries none."
    )
    fidelity: Gauge = _gauge(
        "Cosine of the gradient with that of a long window, a mean over samples of the rule in "
        "use; NaN: none yet, or the recurrence is not taught."
    )
    credit_noise: Gauge = _gauge(
        "Variance of the estimate's newest reduction over its squared norm; NaN: no estimator."
    )
    truncation_window: Gauge = _gauge(
        "Steps the adaptive window carries a loss back through; NaN: the rule has none."
    )
    truncation_beta: Gauge = _gauge(
        "Factor by which dL/ds decays per step back, as measured; NaN: not measured."
    )
    truncation_bias: Gauge = _gauge(
        "Bound on the relative bias of the gradient at that window; +Inf: none is known."
    )
    update_skips: dict[str, int] = _counter("Ticks without an update.", "reason", SKIPS)
    credit_resets: int = _counter("Lanes whose influence was zeroed because it was not sound.")
    fallback_level: Gauge = _gauge("Rung of the fallback ladder in use; 0 is the configured rule.")
    fallback_moves: dict[tuple[str, str], int] = _counter(
        "Moves on the fallback ladder; down leaves the configured rule.",
        "direction",
        MOVES,
        also="reason",
    )
    fallback_exhausted: dict[str, int] = _counter(
        "Triggers that found no rung left to go down to.", "reason", TRIGGERS
    )
    credit_info: Values = _info("The credit rule in use.", "rule")
    frozen: Gauge = _gauge("1 while a person has stopped the learning, else 0.")
    paused: Gauge = _gauge("1 while polling is stopped on purpose, the breaker included, else 0.")
    breaker_open: Gauge = _gauge("1 while the circuit breaker has stopped polling, else 0.")
    drift_alarms: int = _counter("Alarms of the drift detector on the loss.")
    parameters: Gauge = _gauge("Learned parameters of the model.")
    device_memory_bytes: Gauge = _gauge(
        "Memory of the GPU that tensors of this process take; NaN: the model is on a CPU."
    )

    step: Gauge = _gauge("Ticks learned in the whole life of the model, restarts included.")
    snapshot_age_seconds: Callable[[], float | None] = _gauge(
        "Age of the newest durable snapshot; NaN: there is none."
    )
    unsaved_seconds: Callable[[], float | None] = _gauge(
        "For how long there has been something to save and nothing durable since."
    )
    snapshot_seconds: Gauge = _gauge("Time it took to write the newest snapshot.")
    snapshot_bytes: Gauge = _gauge("Size of the newest snapshot.")
    snapshots: int = _counter("Snapshots made durable.")
    snapshot_failures: int = _counter("Snapshots that could not be written.")
    snapshot_fallbacks: int = _counter("Damaged snapshots passed over at the start.")
    state_free_bytes: Callable[[], float | None] = _gauge(
        "Room left on the file system of the state folder; NaN: it cannot be asked."
    )
    state_size_bytes: Callable[[], float | None] = _gauge(
        "Size of the file system of the state folder."
    )
    recovery_gap_events: Gauge = _gauge(
        "Events lost by the newest restart: learned, in no snapshot and gone; NaN: unknown."
    )
    replayed_events: int = _counter("Events applied again after a restart.")
    journal_bytes: Gauge | Reading = _gauge("Size of the journal; NaN: there is none.")
    journal_segments: Gauge | Reading = _gauge("Files of the journal; NaN: there is none.")
    journal_lag_events: Gauge | Reading = _gauge(
        "Events in the journal that are not handed to the model yet; NaN: there is no journal."
    )
    journal_fsync_seconds: Histogram = _histogram(
        "Time it took to flush a group of events to the journal's disk.", FSYNC_S
    )
    epoch: Gauge = _gauge("How often the state directory was opened by a daemon.")
    lanes_used: Gauge = _gauge("Lanes that hold a stream.")
    lanes_capacity: Gauge = _gauge("Lanes there are.")
    lane_evictions: int = _counter("Lanes taken from a stream to serve another.")
    reader_requests: Mapping[str, int] = _counter(
        "Requests to the readers, by what became of them.", "outcome", READ
    )
    reader_copy_age_seconds: Callable[[], float | None] = _gauge(
        "Age of the state readers are answered from; NaN: nobody asked yet."
    )
    reader_copy_seconds: Callable[[], float | None] = _gauge(
        "Time it took to copy that state, between two events."
    )
    reader_restarts: int | Callable[[], int] = _counter(
        "Times the readers' process was started anew ([readers] process)."
    )
    guarantee_info: Values = _info(
        "What each source promises when the daemon is killed.", "source", "level"
    )
    build_info: Values = _info("Versions this daemon runs on.", "version", "torch")

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        sources: Sequence[str] = ("source",),
        baselines: Sequence[str] = (),
        scores: Sequence[str] = (),
    ) -> None:
        given = {"source": sources, "baseline": baselines, "name": scores}
        self._series = _declared()
        for attribute, series in self._series.items():
            setattr(self, attribute, _start(series, given))
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def notice(self, source: str, counters: Mapping[str, int]) -> None:
        """Take over `Source.counters()`, by schedule. More names than allowed are summed up."""
        kept = dict(list(counters.items())[:NOTICED_LIMIT])
        if len(counters) > NOTICED_LIMIT:
            kept["other"] = sum(counters.values()) - sum(kept.values()) + kept.get("other", 0)
        # a new dict each time: a scrape may be walking over the old one
        others = {key: n for key, n in self.source_noticed.items() if key[0] != source}
        self.source_noticed = others | {(source, _safe(what)): n for what, n in kept.items()}

    def describe(self) -> Iterator[Metric]:
        """Families without samples; the registry asks once, to refuse names used twice."""
        for attribute, series in self._series.items():
            yield _family(attribute, series)

    def collect(self) -> Iterator[Metric]:
        """Families with the values of now; called by the scraping thread."""
        for attribute, series in self._series.items():
            family = _family(attribute, series)
            _fill(family, series, getattr(self, attribute))
            yield family


def _declared() -> dict[str, _Series]:
    return {each.name: each.metadata["series"] for each in fields(Metrics)}


def _start(series: _Series, given: Mapping[str, Sequence[str]]) -> object:
    if series.type == "histogram":
        return Histogram(series.bounds)
    if series.type == "info":
        return ()
    zero = 0 if series.type == "counter" else None
    if series.values or len(series.labels) == 1:
        return dict.fromkeys(series.values or given[series.labels[0]], zero)
    return {} if series.labels else zero


def _name(attribute: str) -> str:
    return f"stream_rnn_{attribute}"


def _family(attribute: str, series: _Series) -> Metric:
    if series.type == "histogram":
        return HistogramMetricFamily(_name(attribute), series.help)
    # an info is a gauge of 1: the text format knows no info, and PromQL joins on it either way
    return Metric(_name(attribute), series.help, "gauge" if series.type == "info" else series.type)


def _fill(family: Metric, series: _Series, value: Any) -> None:
    if isinstance(family, HistogramMetricFamily):
        seen, buckets, counts = 0, [], list(value.counts)  # one copy: the loop goes on counting
        for bound, count in zip((*value.bounds, math.inf), counts, strict=True):
            seen += count
            buckets.append(("+Inf" if bound == math.inf else repr(bound), float(seen)))
        family.add_metric([], buckets, value.total)
        return
    sample = family.name + ("_total" if series.type == "counter" else "")
    if series.type == "info":
        value = dict.fromkeys(value, 1)
    elif not series.labels:
        value = {(): value() if callable(value) else value}
    for key, number in value.items():
        labels = (key,) if isinstance(key, str) else key
        known = math.nan if number is None else float(number)
        family.add_sample(sample, dict(zip(series.labels, labels, strict=True)), known)


def _safe(text: str) -> str:
    return text[:64].encode("ascii", "backslashreplace").decode("ascii")


def describe() -> list[Description]:
    """Every series of `Metrics`, in order; the process and platform collectors come on top."""
    rows = []
    for attribute, series in _declared().items():
        name = _name(attribute) + ("_total" if series.type == "counter" else "")
        kind = "gauge, always 1" if series.type == "info" else series.type
        rows.append(Description(name, kind, series.labels, series.help))
    return rows


def markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated by `python -m stream_rnn.metrics > docs/metrics.md`; do not edit by hand.",
        "",
        "Served at `/metrics`, on `127.0.0.1:9464` unless told otherwise. Counters start at 0 with",
        "the process: use `rate()` or `increase()`.",
        "",
        "A gauge whose value is unknown is `NaN`, which fires no comparison; `x != x` is true for",
        "exactly those. Label values come from closed sets, never from the stream. `process_*` and",
        "`python_info` come on top.",
        "",
        "| Series | Type | Labels | Meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, labels, text in describe():
        lines.append(f"| `{name}` | {kind} | {', '.join(labels) or '-'} | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
