"""What can be seen of a run from outside: metrics, the progress line, live, ready and status."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from stream_rnn import __version__
from stream_rnn.console import Console, Progress, line
from stream_rnn.engine.engine import Engine
from stream_rnn.engine.frames import Tick
from stream_rnn.health import Governor
from stream_rnn.metrics import Metrics
from stream_rnn.notify import Notifier
from stream_rnn.runtime.checkpointing import SOURCE, Checkpointing
from stream_rnn.runtime.connection import Connection
from stream_rnn.runtime.crowding import Crowding
from stream_rnn.runtime.feed import Feed
from stream_rnn.runtime.holds import Freeze, Pause
from stream_rnn.runtime.intake import Intake
from stream_rnn.runtime.outputs import Outputs
from stream_rnn.runtime.showing import Showing
from stream_rnn.spi import LEVELS, WHY_SO, Finding, Source

PUBLISH_S = 0.5
REPORT_S = 2.0
SILENT_S = 30.0
N_SCORES = 5  # of the first rows: over all targets together, never one series per target
DIVERGED_AFTER = 100  # events in a row that the learner refuses


class Watch:
    """Reads the parts of a run and changes none of them.

    `live`, `ready` and `status` answer on any thread, the rest is for the loop's.

    Args:
        source, connection, engine, governor, checkpointing, outputs, intake: what is watched.
        restricted_by: names who asks for less to be learned.
        rule: names the rung of the ladder in use.
        metrics: the daemon's numbers, brought up to date.
        console: where progress is shown.
        unsaved_s: patience without a durable snapshot before the daemon says it is not ready.
        clock: seconds, monotonic.
        pause, freeze: what holds the run back.
        notifier: told by the loop's thread that it turns, and what it does.

    Attributes:
        feed: frames for a live page, put while somebody watches.
        others: reasons not to trust what runs beside the loop; may be set before the run.
        more_status: what `/status` says of that.
    """

    def __init__(
        self,
        source: Source,
        connection: Connection,
        engine: Engine,
        governor: Governor,
        checkpointing: Checkpointing,
        outputs: Outputs,
        intake: Intake,
        *,
        restricted_by: Callable[[], Mapping[str, str]],
        rule: Callable[[], str],
        metrics: Metrics,
        console: Console,
        unsaved_s: float,
        clock: Callable[[], float],
        pause: Pause,
        freeze: Freeze,
        notifier: Notifier,
    ) -> None:
        self._source = source
        self._connection = connection
        self._engine = engine
        self._governor = governor
        self._checkpointing = checkpointing
        self._intake = intake
        self._restricted_by = restricted_by
        self._outputs = outputs
        self._rule = rule
        self._metrics = metrics
        self._console = console
        self.unsaved_s = unsaved_s
        self.findings: list[Finding] = []  # of the source, at the start
        self._clock = clock
        self._pause = pause
        self._freeze = freeze
        self._notifier = notifier
        self._say_alive_at = -math.inf
        self._applied = 0
        self._last_beat = clock()
        self._published = self._reported = -math.inf
        self._rate = (clock(), 0, 0.0)
        self._before = self._counted()
        self._crowding = Crowding(engine.lanes)
        self.others: Callable[[], list[str]] = list
        self.more_status: Callable[[], Mapping[str, Any]] = dict
        self.feed = Feed(self.about)
        self._showing = Showing(
            self.feed,
            engine,
            metrics,
            outputs,
            rule=rule,
            reason=lambda: governor.reason,
            ready=self.ready,
        )

    def restored(self) -> None:
        """A snapshot was loaded: what it had counted is not this process's."""
        self._before = self._counted()
        self._crowding.restart(self._engine.counts.applied)

    def _counted(self) -> tuple[int, int, dict[str, int]]:
        """Lane evictions, drift alarms and feature issues in the life of the model."""
        engine = self._engine
        features = getattr(engine.task, "features", None)
        issues = {} if features is None else dict(features.issues)
        return engine.lanes.evictions, 0 if engine.drift is None else engine.drift.alarms, issues

    def beat(self) -> None:
        """The loop turns."""
        self._last_beat = now = self._clock()
        if now >= self._say_alive_at:
            self._say_alive_at = self._notifier.alive(now)

    def on_tick(self, tick: Tick) -> None:
        """Count a tick, or several calm ones."""
        self.beat()  # one event may be many ticks
        m = self._metrics
        m.tick_seconds.observe(tick.seconds, tick.n)
        m.credit_resets += tick.restarted
        if tick.restarted:
            m.update_skips["bad_credit"] += 1
        elif tick.refused:
            m.update_skips["refused"] += 1
        elif self._engine.learner.teaches != "all":
            m.update_skips[next(iter(self._restricted_by()), "fallback")] += tick.n
        elif tick.locked:
            m.update_skips["locked"] += tick.n
        if self.feed.watchers:
            self._showing.on_tick(tick.seconds)
            self.publish_if_due()  # a poll's events may take many seconds

    def publish_if_due(self) -> None:
        """Publish, but seldom enough to cost nothing."""
        if self._clock() - self._published >= PUBLISH_S or self._console.due():
            self._published = self._clock()
            self.publish()

    def publish(self, final: bool = False) -> None:
        """Bring metrics and the progress line up to date; `final`: the source is closed."""
        self._publish_engine()
        lag = None if final else self._intake.lag()
        self._metrics.lag_events = None if lag is None else lag.events
        self._metrics.lag_seconds = None if lag is None else lag.seconds
        if not final:
            self._metrics.notice(SOURCE, self._source.counters())
        now = self._clock()
        if now - self._reported >= REPORT_S or final:
            self._reported = now
            self._publish_report()
        self._show(now)
        self._showing.publish(now)

    def _publish_engine(self) -> None:
        m, engine, counts = self._metrics, self._engine, self._engine.counts
        m.events_applied, m.predictions = counts.applied, counts.predictions
        m.scored, m.replayed_events = counts.scored, counts.replayed
        m.shed = dict(self._intake.shed)
        m.waiting_events = None if self._intake.policy == "block" else self._intake.waiting
        m.events_rejected = dict(counts.rejected)
        m.update_skips["bad_event"] = counts.rejected["learn"]
        for stage, seconds in counts.seconds.items():
            if stage != "emit":
                m.stage_seconds[stage] = seconds
        evictions, alarms, issues = self._counted()
        evictions_before, alarms_before, issues_before = self._before
        for issue, n in issues.items():
            m.feature_issues[issue] = n - issues_before.get(issue, 0)
        _, m.prequential_loss, baselines = engine.task.scores.shown()
        for name, value in baselines.items():
            m.baseline_loss[name] = value
        m.step, m.fallback_level = engine.step, self._governor.level
        m.fallback_exhausted = dict(self._governor.exhausted)
        m.credit_info = ((self._rule(),),)
        m.lanes_used, m.lane_evictions = engine.lanes.used, evictions - evictions_before
        self._crowding.look(counts.applied)
        m.drift_alarms = alarms - alarms_before
        m.connected = int(self._connection.connected)
        m.paused = int(bool(self._pause.reasons))
        m.frozen = int(self._freeze.since_step is not None)
        if counts.applied > self._applied:
            self._applied = counts.applied
            m.last_event_timestamp_seconds = time.time()

    def _publish_report(self) -> None:
        m, engine = self._metrics, self._engine
        report = engine.learner.report()  # sync: reads the device
        m.gradient_norm = report.get("gradient_norm")
        m.influence_norm = report.get("influence_norm")
        m.device_memory_bytes = report.get("device_memory_bytes")
        m.fidelity = report.get("fidelity")
        m.credit_noise = report.get("noise")
        m.truncation_window = report.get("window")
        m.truncation_beta = report.get("beta")
        m.truncation_bias = report.get("bias")
        m.update_ratio = engine.update_ratio
        engine.probe_update = True
        for row in engine.task.scores.summary()[:N_SCORES]:
            m.prequential_metric[row.name.lower().replace(" ", "_")] = row.model

    def _show(self, now: float) -> None:
        applied = self._engine.counts.applied
        since, before, rate = self._rate
        if now - since >= 1.0:
            rate = (applied - before) / (now - since)
            self._rate = (now, applied, rate)
        elif not rate and now > since:
            rate = (applied - before) / (now - since)
        baseline = self._engine.task.baseline
        figure, loss, baselines = self._engine.task.scores.shown()
        progress = Progress(
            events=applied,
            events_per_s=rate,
            loss=loss,
            baseline_loss=baselines.get(baseline),
            baseline=baseline,
            rule=self._rule(),
            lag=self._metrics.lag_events,
            snapshot_age_s=self._checkpointing.age_s(),
            figure=figure,
            paused=", ".join(self._pause.reasons),
        )
        self._console.show(progress)
        self._notifier.status(lambda: "; ".join([*self.ready(), line(progress)]))

    def silent_s(self) -> float:
        """Seconds since the loop last turned."""
        return self._clock() - self._last_beat

    def live(self) -> list[str]:
        """Reasons why the loop must be restarted; none while it turns."""
        silent_s = self.silent_s()
        return [f"the loop has not turned for {silent_s:.0f} s"] if silent_s > SILENT_S else []

    def ready(self) -> list[str]:
        """Reasons not to trust it now, or what runs beside it."""
        return self.ready_alone() + self.others()

    def ready_alone(self) -> list[str]:
        """Reasons not to trust the loop now."""
        reasons = self.live()
        if not self._connection.connected:
            reasons.append("the source is not connected")
        reasons += self._pause.reasons.values()
        loss = self._metrics.prequential_loss
        if loss is not None and not math.isfinite(loss):
            reasons.append("the loss is not finite")
        row = self._engine.counts.unsound_in_a_row
        if row >= DIVERGED_AFTER:
            reasons.append(
                f"the learner refused the last {row} events in a row: the model has diverged; "
                "go back to an older snapshot or start over with --fresh"
            )
        unsaved_s = self._checkpointing.unsaved_s()
        if unsaved_s > self.unsaved_s:
            reasons.append(f"no snapshot for {unsaved_s:.0f} s")
        return reasons

    def status(self) -> dict[str, Any]:
        """What `/status` says."""
        engine = self._engine
        return {
            "source": self._source.describe(),
            "guarantee": self._source.guarantee.value,
            "sources": [self._promise()],
            "task": engine.task.describe(),
            "rule": self._rule(),
            "fallback_level": self._governor.level,
            "fallback_reason": self._governor.reason,
            "teaches": engine.learner.teaches,
            "frozen_since_step": self._freeze.since_step,
            "paused": list(self._pause.reasons.values()),
            "step": engine.step,
            "events_applied": engine.counts.applied,
            "events_rejected": dict(engine.counts.rejected),
            "events_shed": sum(self._intake.shed.values()),
            "positions": dict(engine.positions),
            "loss": self._metrics.prequential_loss,
            "figure": self._engine.task.scores.shown()[0],
            "baseline_loss": dict(self._metrics.baseline_loss),
            "events_per_s": self._rate[2],
            "snapshot_age_s": self._checkpointing.age_s(),
            "ready": self.ready(),
            "letters": list(self._outputs.newest_letters),
            "execution": self._checkpointing.identity.execution,
            "model": self._checkpointing.identity.model,
            **self.more_status(),
        }

    def about(self) -> dict[str, Any]:
        """What a live page is told once: what does not change while the daemon runs."""
        engine = self._engine
        return {
            "version": __version__,
            "task": engine.task.describe(),
            "source": self._source.describe(),
            "guarantee": self._source.guarantee.value,
            "baseline": engine.task.baseline,
            "kind": engine.task.objective.kind,
            "figure": engine.task.scores.shown()[0],
            "streams": engine.lanes.capacity,
            "parameters": self._metrics.parameters,
            "execution": self._checkpointing.identity.execution,
        }

    def _promise(self) -> dict[str, Any]:
        """What the source promises, why, on which conditions, and how it turned out."""
        guarantee = self._source.guarantee
        return {
            "name": SOURCE,
            "reads": self._source.describe(),
            "level": LEVELS[guarantee],
            "why": WHY_SO[guarantee],
            "conditions": [{"ok": each.ok, "text": each.text} for each in self.findings],
            "recovery_gap_events": self._metrics.recovery_gap_events,
        }
