"""The loop: poll, feed, write, snapshot; signals, reconnecting, the order of a checkpoint.

Order: sink flush and dead-letter fsync -> state durable -> source ack. A crash between them repeats
work and loses none. An exception never checkpoints. Nothing that influences learning looks at a
clock.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import msgspec

from stream_rnn.attempt import AttemptMark
from stream_rnn.checkpoint import (
    CheckpointError,
    Failure,
    Fenced,
    Loaded,
    SavedInfo,
    Snapshot,
    SnapshotWriter,
    Store,
)
from stream_rnn.config import ConfigError
from stream_rnn.console import Console, Progress
from stream_rnn.engine import Engine, Tick, numerics
from stream_rnn.health import Governor
from stream_rnn.metrics import Metrics
from stream_rnn.spi import Batch, EndOfStream, Guarantee, NotConnected, Sink, Source

_log = logging.getLogger(__name__)

SOURCE = "source"
POLL_S = 0.2
PUBLISH_S = 0.5
REPORT_S = 2.0
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
LAST_SNAPSHOT_S = 60.0
N_SCORES = 5  # of the first rows: over all targets together, never one series per target


class SourceGone(Exception):
    """The source was not reachable for too long: exit code 75."""


class Ladder(Protocol):
    """The part of the fallback rule that is moved from outside."""

    level: int

    def move(self, level: int) -> None:
        """Switch rungs, between two ticks."""


class Runtime:
    """Runs one job until its stream ends, it is told to stop, or something is wrong.

    Args:
        source: read from the thread that calls `run`.
        engine: fed from it.
        sinks: get every prediction.
        dead_letters: gets every event that could not be used.
        governor: decides on the fallback ladder.
        ladder: the fallback rule, if there is one.
        rule: names the credit rule in use.
        store: where snapshots go, or None to keep nothing.
        every_s, every_events: when a snapshot is due; None never.
        identity: (fingerprint, model, execution) for the manifest.
        metrics: the daemon's numbers.
        console: where progress is shown.
        poll_events: events taken at once.
        gone_s: patience with a source that is gone.
        unsaved_s: patience without a durable snapshot before the daemon says it is not ready.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        sinks: Sequence[Sink],
        dead_letters: Sink,
        governor: Governor,
        ladder: Ladder | None,
        rule: Callable[[], str],
        store: Store | None,
        *,
        every_s: float | None,
        every_events: int | None,
        identity: tuple[str, dict[str, Any], dict[str, str]],
        metrics: Metrics,
        console: Console,
        poll_events: int = 256,
        gone_s: float = 3600.0,
        unsaved_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.engine = engine
        self.sinks = list(sinks)
        self.dead_letters = dead_letters
        self.governor = governor
        self.ladder = ladder
        self.rule = rule
        self.store = store
        self.every_s, self.every_events = every_s, every_events
        self.fingerprint, self.model, self.execution = identity
        self.metrics = metrics
        self.console = console
        self.poll_events, self.gone_s, self.unsaved_s = poll_events, gone_s, unsaved_s
        self.clock = clock
        self.stopping = False
        self.connected = False
        self.restored: Loaded | None = None
        self.mark: AttemptMark | None = None
        self._writer: SnapshotWriter | None = None
        self._started_at = self._saved_at = clock()  # _saved_at: of the newest try
        self._saved_ordinal = 0  # of the newest snapshot handed to the writer
        self._in_flight: deque[int] = deque()  # ordinals, until their result is collected
        self._durable_ordinal = -1  # of the newest one known to be durable
        self._durable_at: float | None = None
        self._gone_since: float | None = None
        self._wait_s = FIRST_WAIT_S
        self._applied = 0
        self._last_beat = clock()
        self._published = self._reported = -math.inf
        self._rate = (clock(), 0, 0.0)
        engine.on_tick = self._on_tick

    # Start and end --------------------------------------------------------------------------------

    def restore(self, loaded: Loaded) -> None:
        """Continue from a snapshot; raises ConfigError if it does not fit this model."""
        try:
            host = msgspec.json.decode(loaded.host)
            self.engine.learner.load_state_dict(dict(loaded.tensors))
            self.engine.load_state_dict(host["engine"])
            self.governor.load_state_dict(host["governor"])
            self.engine.positions = dict(loaded.positions.get(SOURCE, {}))
        except (CheckpointError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"[state] {loaded.path}: the snapshot does not fit this model: {error!r}; "
                "give it another [state] dir, or start over with --fresh (the old state is kept)"
            ) from error
        self.restored = loaded
        self._saved_ordinal = self._durable_ordinal = self.engine.ordinal

    def run(self, max_events: int | None = None) -> None:
        """Until the end of the stream, `max_events` events, or `stop`; then a last snapshot.

        Raises:
            SourceGone: exit code 75; what was learned is in a snapshot.
            CheckpointError: the last snapshot could not be written; the ones before it stand.
            Exception: anything else; nothing is checkpointed.
        """
        with ExitStack() as stack:
            stack.enter_context(numerics())
            for sink in (*self.sinks, self.dead_letters):
                stack.callback(sink.close)
                self._open_sink(sink)
            if self.store is not None:
                self.mark = AttemptMark(Path(self.store.directory) / "attempt")
                self.mark.open()
                stack.callback(self.mark.close)
                if self.source.guarantee is not Guarantee.FIRE_AND_FORGET:
                    self.engine.replayed_until = self.mark.value
                self.engine.mark = self.mark.mark
                self._writer = SnapshotWriter(self.store, self._flush_outputs)
                stack.callback(self._writer.close)
            self._started_at = self._saved_at = self.clock()
            stack.callback(self.source.close)
            try:
                self._connect()
                self._loop(max_events)
            except SourceGone:  # not an accident: the state is sound
                self._last_snapshot()
                raise
            self._last_snapshot()
        self._publish(final=True)

    def stop(self) -> None:
        """Finish the event at hand, snapshot, and return from `run`. Any thread, any signal."""
        self.stopping = True

    # The loop -------------------------------------------------------------------------------------

    def _loop(self, max_events: int | None) -> None:
        engine = self.engine
        last = math.inf if max_events is None else engine.fed + max_events
        while not self.stopping and engine.fed < last:
            start = time.perf_counter()
            try:
                batch = self.source.poll(int(min(self.poll_events, last - engine.fed)), POLL_S)
            except NotConnected as error:
                self._reconnect(error)
                continue
            except EndOfStream:
                self.engine.close_block()
                self._write_outputs()
                break
            finally:
                self.metrics.stage_seconds["receive"] += time.perf_counter() - start
            self._gone_since, self._wait_s = None, FIRST_WAIT_S
            self._take(batch)
            self._housekeeping()
        if self._rewinds():
            engine.drop_open_block()
        else:
            engine.close_block()
            self._write_outputs()

    def _rewinds(self) -> bool:
        """Whether events that no tick has taken in come again."""
        return self.source.guarantee is not Guarantee.FIRE_AND_FORGET

    def _take(self, batch: Batch) -> None:
        engine, rewinds = self.engine, self._rewinds()
        for event in batch.events:
            if self.stopping and rewinds:  # what cannot come again is learned before we leave
                break
            last = engine.last_fed(event.partition)
            if last is not None and _not_after(event.position, last):
                self.metrics.duplicates_dropped += 1
                continue
            engine.feed(event)
            if event.timestamp is not None:
                self.metrics.end_to_end_seconds.observe(time.time() - event.timestamp)
            if self._snapshot_due():
                self._snapshot()
        else:
            engine.end_of_poll()
            if engine.at_boundary and batch.resume:
                engine.positions = dict(batch.resume)
        self.metrics.events_in[SOURCE] += len(batch.events)
        self._write_outputs()

    def _on_tick(self, tick: Tick) -> None:
        """After each tick, before the next one: the only place where the ladder moves."""
        self._last_beat = self.clock()  # one event may be many ticks
        self.metrics.tick_seconds.observe(tick.seconds)
        self.metrics.credit_resets += tick.restarted
        if tick.restarted:
            self.metrics.update_skips["bad_credit"] += 1
        elif tick.refused:
            self.metrics.update_skips["refused"] += 1
        elif tick.locked:
            self.metrics.update_skips["locked"] += 1
        level = self.governor.observe(tick.restarted > 0 or tick.refused)
        if self.ladder is not None and level != self.ladder.level:
            before = self.rule()
            direction = "down" if level > self.ladder.level else "up"
            self.ladder.move(level)
            self.metrics.fallback_moves[direction] += 1
            _log.warning(
                "fallback: %s -> %s at tick %d (%s)",
                before,
                self.rule(),
                self.engine.step,
                "the credit was unsound" if direction == "down" else "calm again",
            )

    def _reconnect(self, error: NotConnected) -> None:
        """The connection broke: go on after the last event that a tick has taken in."""
        _log.warning("the source is not connected: %s", error)
        self.connected = False
        if self._rewinds():
            self.engine.drop_open_block()
        if self._gone_since is not None:  # it opened, and broke before it delivered anything
            self._be_patient(error)
        self._connect()
        self.metrics.reconnects += 1

    def _connect(self) -> None:
        """Open the source, backing off from 0.1 s to 10 s; after `gone_s` give up."""
        while not self.stopping:
            try:
                self.source.open(dict(self.engine.positions) or None)
            except NotConnected as error:
                _log.warning("%s; trying again in %.1f s", error, self._wait_s)
                self._be_patient(error)
                continue
            self._gone_since = self.clock() if self._gone_since is None else self._gone_since
            self.connected = True
            return

    def _be_patient(self, error: NotConnected) -> None:
        """Wait longer each time until an event or an empty poll comes; raises SourceGone."""
        now = self.clock()
        self._gone_since = now if self._gone_since is None else self._gone_since
        if now - self._gone_since > self.gone_s:
            raise SourceGone(
                f"[source] not reachable for {self.gone_s:g} s ([limits] gone_s): {error}"
            ) from error
        self._nap(min(self._wait_s, self.gone_s))
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)

    def _nap(self, seconds: float, *, snapshots: bool = True) -> None:
        """Wait, but stay alive: signals, snapshots in flight and the progress line go on."""
        until = self.clock() + seconds
        while not self.stopping and self.clock() < until:
            time.sleep(min(POLL_S, max(0.0, until - self.clock())))
            self._housekeeping(snapshots=snapshots)

    # Out ------------------------------------------------------------------------------------------

    def _write_outputs(self) -> None:
        start = time.perf_counter()
        outputs, self.engine.outputs = self.engine.outputs, []
        letters, self.engine.letters = self.engine.letters, []
        for sink in self.sinks:
            if outputs:
                self._write(sink, outputs)
        if letters:
            self._write(self.dead_letters, letters)
            for letter in letters:
                self.metrics.dead_letters[letter["stage"]] += 1
        self.metrics.stage_seconds["emit"] += time.perf_counter() - start

    def _write(self, sink: Sink, records: list[dict[str, Any]]) -> None:
        """Write, reconnecting as long as it takes (a stop gives up: the events will come again)."""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                sink.write(records)
            except NotConnected as error:
                if self.stopping:
                    raise
                _log.warning("%s: %s; trying again in %.1f s", sink.describe(), error, wait_s)
                # no snapshot meanwhile: it would hold events whose predictions are not written
                self._nap(wait_s, snapshots=False)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                self._open_sink(sink)
                continue
            except EndOfStream as error:
                if not self.stopping:
                    _log.warning("%s: %s; draining", sink.describe(), error)
                self.stop()
            return

    def _open_sink(self, sink: Sink) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                sink.open()
            except NotConnected as error:
                if self.stopping:
                    raise
                _log.warning("%s: %s; trying again in %.1f s", sink.describe(), error, wait_s)
                self._nap(wait_s, snapshots=False)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                continue
            return

    def _flush_outputs(self) -> None:
        """On the snapshot writer's thread: what the snapshot contains is delivered before it."""
        for sink in (*self.sinks, self.dead_letters):
            sink.flush()

    # Snapshots ------------------------------------------------------------------------------------

    def _snapshot_due(self) -> bool:
        if self._writer is None or not self.engine.at_boundary:
            return False
        ordinal = self.engine.ordinal
        if self.every_events is not None:
            return ordinal // self.every_events > self._saved_ordinal // self.every_events
        return False

    def _snapshot_due_by_time(self) -> bool:
        if self._writer is None or self.every_s is None or not self.engine.at_boundary:
            return False
        new = self.engine.ordinal > max(self._durable_ordinal, 0)
        return new and self.clock() - self._saved_at >= self.every_s

    def _snapshot(self) -> bool:
        """Copy the state and hand it to the writer; False while another one is being written."""
        assert self._writer is not None
        if not self._writer.drain(0.0):  # the copy would be thrown away
            return False
        self._write_outputs()
        start = time.perf_counter()
        engine = self.engine
        host = {"engine": engine.state_dict(), "governor": self.governor.state_dict()}
        snapshot = Snapshot(
            step=engine.step,
            tensors={name: t.detach().clone() for name, t in engine.learner.state_dict().items()},
            host=msgspec.json.encode(host),
            positions={SOURCE: dict(engine.positions)},
            fingerprint=self.fingerprint,
            config=self.model,
            execution=self.execution,
        )
        taken = self._writer.submit(snapshot)
        if taken:
            self._saved_ordinal = engine.ordinal
            self._in_flight.append(engine.ordinal)
            self._saved_at = self.clock()
        self.metrics.stage_seconds["snapshot_copy"] += time.perf_counter() - start
        return taken

    def _last_snapshot(self) -> None:
        if self._writer is None:
            return
        self._writer.drain(LAST_SNAPSHOT_S)
        self._collect_snapshots()
        if self.engine.ordinal > self._durable_ordinal:
            self._snapshot()
            self._writer.drain(LAST_SNAPSHOT_S)
            self._collect_snapshots()
        lost = self.engine.ordinal - max(self._durable_ordinal, 0)
        if lost > 0:
            raise CheckpointError(
                f"[state] the last snapshot could not be written (see above): {lost} events are in "
                "none; those of a source that rewinds come again at the next start"
            )

    def _collect_snapshots(self) -> None:
        """Acknowledge what has become durable."""
        if self._writer is None:
            return
        for result in self._writer.finished():
            ordinal = self._in_flight.popleft()
            if isinstance(result, SavedInfo):
                self.source.ack(result.positions.get(SOURCE, {}))
                self.metrics.snapshots += 1
                self.metrics.snapshot_seconds = result.seconds
                self.metrics.snapshot_bytes = result.size_bytes
                self._durable_at = self.clock()
                self._durable_ordinal = ordinal
            else:
                self._snapshot_failed(result)

    def _snapshot_failed(self, failure: Failure) -> None:
        if isinstance(failure.error, Fenced):
            raise failure.error
        self.metrics.snapshot_failures += 1

    # Looking --------------------------------------------------------------------------------------

    def _housekeeping(self, *, snapshots: bool = True) -> None:
        """Between polls, and at least every `POLL_S` seconds while nothing comes."""
        now = self.clock()
        self._last_beat = now
        self._collect_snapshots()
        if snapshots and (self._snapshot_due() or self._snapshot_due_by_time()):
            self._snapshot()
        if now - self._published >= PUBLISH_S or self.console.due():
            self._published = now
            self._publish()

    def _publish(self, final: bool = False) -> None:
        """Bring metrics and the progress line up to date."""
        m, engine, now = self.metrics, self.engine, self.clock()
        counts = engine.counts
        m.events_applied, m.predictions = counts.applied, counts.predictions
        m.scored, m.replayed_events = counts.scored, counts.replayed
        m.events_rejected = dict(counts.rejected)
        m.update_skips["bad_event"] = counts.rejected["learn"]
        for stage, seconds in counts.seconds.items():
            if stage != "emit":
                m.stage_seconds[stage] = seconds
        features = getattr(engine.task, "features", None)
        for issue, n in ({} if features is None else features.issues).items():
            m.feature_issues[issue] = n
        loss, baselines = engine.task.scores.live()
        m.prequential_loss = loss
        for name, value in baselines.items():
            m.baseline_loss[name] = value
        m.step, m.fallback_level = engine.step, self.governor.level
        m.credit_info = ((self.rule(),),)
        m.lanes_used, m.lane_evictions = engine.lanes.used, engine.lanes.evictions
        m.drift_alarms = 0 if engine.drift is None else engine.drift.alarms
        m.connected = int(self.connected)
        if counts.applied > self._applied:
            self._applied = counts.applied
            m.last_event_timestamp_seconds = time.time()
        if not final:
            lag = self.source.lag()
            m.lag_events = None if lag is None else lag.events
            m.lag_seconds = None if lag is None else lag.seconds
            m.notice(SOURCE, self.source.counters())
        if now - self._reported >= REPORT_S or final:
            self._reported = now
            report = engine.learner.report()  # sync: reads the device
            m.gradient_norm = report.get("gradient_norm")
            m.influence_norm = report.get("influence_norm")
            m.update_ratio = engine.update_ratio
            engine.probe_update = True
            for row in engine.task.scores.summary()[:N_SCORES]:
                m.prequential_metric[row.name.lower().replace(" ", "_")] = row.model
        since, applied, rate = self._rate
        if now - since >= 1.0:
            rate = (counts.applied - applied) / (now - since)
            self._rate = (now, counts.applied, rate)
        elif not rate and now > since:
            rate = (counts.applied - applied) / (now - since)
        baseline = engine.task.baseline
        events = m.lag_events
        self.console.show(
            Progress(
                events=counts.applied,
                events_per_s=rate,
                loss=loss,
                baseline_loss=baselines.get(baseline),
                baseline=baseline,
                rule=self.rule(),
                lag="-" if events is None else f"{events:g} events",
                snapshot_age_s=self.snapshot_age_s(),
            )
        )

    def snapshot_age_s(self) -> float | None:
        """Of the newest snapshot made durable by this process."""
        return None if self._durable_at is None else self.clock() - self._durable_at

    def live(self) -> list[str]:
        """Reasons why the loop must be restarted; none while it turns. Any thread."""
        silent_s = self.clock() - self._last_beat
        return [f"the loop has not turned for {silent_s:.0f} s"] if silent_s > 30 else []

    def ready(self) -> list[str]:
        """Reasons not to trust it now. Any thread."""
        reasons = self.live()
        if not self.connected:
            reasons.append("the source is not connected")
        loss = self.metrics.prequential_loss
        if loss is not None and not math.isfinite(loss):
            reasons.append("the loss is not finite")
        if self._writer is not None and self.engine.ordinal > max(self._durable_ordinal, 0):
            last = self._started_at if self._durable_at is None else self._durable_at
            unsaved_s = self.clock() - last
            if unsaved_s > self.unsaved_s:
                reasons.append(f"no snapshot for {unsaved_s:.0f} s")
        return reasons

    def status(self) -> dict[str, Any]:
        """What `/status` says. Any thread."""
        engine = self.engine
        return {
            "source": self.source.describe(),
            "guarantee": self.source.guarantee.value,
            "task": engine.task.describe(),
            "rule": self.rule(),
            "fallback_level": self.governor.level,
            "step": engine.step,
            "events_applied": engine.counts.applied,
            "events_rejected": dict(engine.counts.rejected),
            "positions": dict(engine.positions),
            "loss": self.metrics.prequential_loss,
            "baseline_loss": dict(self.metrics.baseline_loss),
            "events_per_s": self._rate[2],
            "snapshot_age_s": self.snapshot_age_s(),
            "ready": self.ready(),
            "execution": self.execution,
            "model": self.model,
        }


def _not_after(position: int | str, last: int | str) -> bool:
    """Whether an event at `position` was applied before."""
    if type(position) is not type(last):
        raise TypeError(f"position {position!r} cannot be compared with {last!r}: types differ")
    return position <= last  # type: ignore[operator]


@contextmanager
def signals(runtime: Runtime) -> Iterator[None]:
    """SIGTERM and SIGINT drain and snapshot; a second one leaves at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        runtime.stop()

    before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
