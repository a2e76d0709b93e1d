"""The loop: poll, feed, write, snapshot, again and again.

An exception never checkpoints. Nothing that influences learning looks at a clock.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.snapshot import Loaded
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.engine.engine import Engine
from stream_rnn.engine.frames import Tick, numerics
from stream_rnn.health import Governor
from stream_rnn.metrics import Metrics
from stream_rnn.overload import Overload
from stream_rnn.runtime.checkpointing import SOURCE, Checkpointing, Identity, Schedule
from stream_rnn.runtime.connection import Connection, SourceGone
from stream_rnn.runtime.intake import Intake, Shed, Taken
from stream_rnn.runtime.outputs import Outputs
from stream_rnn.runtime.rungs import WHY, Ladder
from stream_rnn.runtime.watch import Watch
from stream_rnn.spi import EndOfStream, Guarantee, NotConnected, Sink, Source

_log = logging.getLogger(__name__)

POLL_S = 0.2


class Publisher(Protocol):
    """Who answers readers from copies of the state."""

    def publish_if_asked(self) -> None:
        """Between two events, on the loop's thread; copies only if somebody asked."""


class Runtime:
    """Runs one job until its stream ends, it is told to stop, or something is wrong.

    Args:
        source: read from the thread that calls `run`.
        engine: fed from it.
        sinks: get every prediction.
        dead_letters: gets every event that could not be used.
        governor: decides on the ladder.
        ladder: its rungs, if there are several.
        rule: names the rung in use.
        store: where snapshots go, or None to keep nothing.
        schedule: when a snapshot is due.
        identity: what a snapshot says it belongs to.
        metrics: the daemon's numbers.
        console: where progress is shown.
        poll_events: events taken at once.
        gone_s: patience with a source that is gone.
        unsaved_s: patience without a durable snapshot before the daemon says it is not ready.
        overload: what happens when more events come than can be learned.
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
        schedule: Schedule,
        identity: Identity,
        metrics: Metrics,
        console: Console,
        poll_events: int = 256,
        gone_s: float = 3600.0,
        unsaved_s: float = 300.0,
        overload: Overload | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.engine = engine
        self.governor = governor
        self.ladder = ladder
        self.rule = rule
        self.metrics = metrics
        self.poll_events = poll_events
        self.clock = clock
        self.stopping = False
        self.readers: Publisher | None = None  # may be set before `run`
        self._keeps = store is not None
        self._has_moved = False  # on the ladder, since the newest snapshot
        self.intake = Intake(source, overload or Overload(), rewinds=self._rewinds())
        self.connection = Connection(source, engine, metrics, self, gone_s, clock)
        self.outputs = Outputs(engine, sinks, dead_letters, metrics, self)
        self.checkpointing = Checkpointing(
            store,
            schedule,
            identity,
            source=source,
            engine=engine,
            governor=governor,
            outputs=self.outputs,
            metrics=metrics,
            clock=clock,
        )
        self.watch = Watch(
            source,
            self.connection,
            engine,
            governor,
            self.checkpointing,
            self.outputs,
            self.intake,
            restricted_by=lambda: {} if ladder is None else ladder.teaching.restricted_by,
            rule=rule,
            metrics=metrics,
            console=console,
            unsaved_s=unsaved_s,
            clock=clock,
        )
        engine.on_tick = self._on_tick

    def restore(self, loaded: Loaded) -> None:
        """Continue from a snapshot, before `run`; raises ConfigError if it does not fit."""
        self.checkpointing.restore(loaded)
        self.watch.restored()
        if self.ladder is not None:
            self.ladder.move(self.governor.level)  # tells the learner what it teaches on this rung

    def run(self, max_events: int | None = None) -> None:
        """Until the end of the stream, `max_events` events, or `stop`; then a last snapshot.

        Raises:
            SourceGone: exit code 75; what was learned is in a snapshot.
            CheckpointError: the last snapshot could not be written; the ones before it stand.
            Exception: anything else; nothing is checkpointed.
        """
        with ExitStack() as stack:
            stack.enter_context(numerics())
            self.outputs.open(stack)
            self.checkpointing.open(stack)
            stack.callback(self.source.close)
            try:
                self.connection.open()
                self._loop(max_events)
            except SourceGone:  # not an accident: the state is sound
                self.checkpointing.finish()
                raise
            self.checkpointing.finish()
        self.watch.publish(final=True)

    def stop(self) -> None:
        """Finish the event at hand, snapshot, and return from `run`. Any thread, any signal."""
        self.stopping = True
        self.checkpointing.disarm()

    def nap(self, seconds: float, *, snapshots: bool = True) -> None:
        """Wait, but stay alive: signals, snapshots in flight and the progress line go on."""
        until = self.clock() + seconds
        while not self.stopping and self.clock() < until:
            time.sleep(min(POLL_S, max(0.0, until - self.clock())))
            self._housekeeping(snapshots=snapshots)

    def _loop(self, max_events: int | None) -> None:
        engine = self.engine
        last = math.inf if max_events is None else engine.fed + max_events
        while not self.stopping and engine.fed < last:
            start, stage = time.perf_counter(), "wait"
            wanted = int(min(self.poll_events, last - engine.fed))
            try:
                taken = self.intake.poll(wanted, POLL_S)
                fill = _fill(taken.received, wanted)
                stage = "receive" if fill == "full" else "wait"  # the others found it drained
            except NotConnected as error:
                if self._rewinds():
                    engine.drop_open_block()
                self.connection.reopen(error)
                continue
            except EndOfStream:
                self.engine.close_block()
                self.outputs.write()
                break
            finally:
                self.metrics.stage_seconds[stage] += time.perf_counter() - start
            self.connection.delivered()
            self.metrics.polls[fill] += 1
            self._take(taken)
            self._housekeeping()
        if self._rewinds():
            engine.drop_open_block()
        else:
            if self.stopping and engine.fed < last:
                self._take(self.intake.rest())
            engine.close_block()
            self.outputs.write()

    def _rewinds(self) -> bool:
        """Whether events that no tick has taken in come again."""
        return self.source.guarantee is not Guarantee.FIRE_AND_FORGET

    def _take(self, taken: Taken) -> None:
        engine, rewinds = self.engine, self._rewinds()
        if self.ladder is not None and self.intake.policy == "predict_only":
            self.ladder.teaching.ask("overload", "nothing" if taken.is_over else "all")
        for event in taken.items:
            if self.stopping and rewinds:  # what cannot come again is learned before we leave
                break
            if isinstance(event, Shed):
                self._pass_over(event)
                continue
            last = engine.last_fed(event.partition)
            if last is not None and _not_after(event.position, last):
                self.metrics.duplicates_dropped += 1
                continue
            engine.feed(event)
            if self.readers is not None:
                self.readers.publish_if_asked()
            if event.timestamp is not None:
                self.metrics.end_to_end_seconds.observe(time.time() - event.timestamp)
            if self.checkpointing.due() or self._move_is_unsaved():
                self._snapshot()
        else:
            engine.end_of_poll()
            if engine.at_boundary and taken.resume:
                engine.positions = dict(taken.resume)
        self.metrics.events_in[SOURCE] += taken.received
        self.outputs.write()

    def _pass_over(self, shed: Shed) -> None:
        """What was given up counts as applied, and its repetition as a repetition."""
        newer = {
            partition: position
            for partition, position in shed.positions.items()
            if (last := self.engine.last_fed(partition)) is None or not _not_after(position, last)
        }
        self.engine.pass_over(shed.n, newer)

    def _on_tick(self, tick: Tick) -> None:
        """After each tick, before the next one: the only place where the ladder moves."""
        fault("in_tick")
        self.watch.on_tick(tick)
        governor, ladder = self.governor, self.ladder
        level = governor.observe(
            tick.restarted > 0 or tick.refused,
            tick.seconds,
            # sync: reads the device, seldom
            noise=ladder.noise() if ladder is not None and governor.wants_noise else None,
            lag=self.intake.lag() if governor.wants_lag else None,
        )
        if ladder is None or level == ladder.level:
            return
        before = self.rule()
        direction = "down" if level > ladder.level else "up"
        ladder.move(level)
        self._has_moved = True
        self.metrics.fallback_moves[direction, governor.reason] += 1
        _log.warning(
            "fallback: %s -> %s at tick %d (%s)",
            before,
            self.rule(),
            self.engine.step,
            WHY[governor.reason],
        )

    def _move_is_unsaved(self) -> bool:
        """Whether the ladder moved since the newest snapshot, and one may be taken now."""
        return self._has_moved and self._keeps and self.engine.at_boundary

    def _snapshot(self) -> None:
        if self.checkpointing.take():
            self._has_moved = False

    def _housekeeping(self, *, snapshots: bool = True) -> None:
        """Between polls, and at least every `POLL_S` seconds while nothing comes."""
        self.watch.beat()
        if self.readers is not None:
            self.readers.publish_if_asked()
        self.checkpointing.collect()
        if snapshots and (
            self.checkpointing.due()
            or self.checkpointing.due_by_time()
            or self.checkpointing.due_by_wish()
            or self._move_is_unsaved()
        ):
            self._snapshot()
        self.watch.publish_if_due()


def _fill(n_events: int, wanted: int) -> str:
    """What a poll brought, as a label."""
    return "empty" if n_events == 0 else "part" if n_events < wanted else "full"


def _not_after(position: int | str, last: int | str) -> bool:
    """Whether an event at `position` was applied before."""
    if type(position) is not type(last):
        raise TypeError(f"position {position!r} cannot be compared with {last!r}: types differ")
    return position <= last  # type: ignore[operator]
