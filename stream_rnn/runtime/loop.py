"""The loop: poll, feed, write, snapshot, again and again.

An exception never checkpoints. Nothing that influences learning looks at a clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.snapshot import Loaded
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.engine.engine import Engine
from stream_rnn.engine.frames import Tick, numerics
from stream_rnn.health import Governor
from stream_rnn.metrics import Metrics
from stream_rnn.notify import Notifier
from stream_rnn.overload import Overload
from stream_rnn.runtime.batches import advanced, fill_of, newer, pass_over, stretches
from stream_rnn.runtime.breaker import Breaker
from stream_rnn.runtime.checkpointing import SOURCE, Checkpointing, Identity, Schedule
from stream_rnn.runtime.collector import settled
from stream_rnn.runtime.connection import Connection, SourceGone
from stream_rnn.runtime.control import Control
from stream_rnn.runtime.holds import Freeze, Pause
from stream_rnn.runtime.intake import Intake, Shed, Taken
from stream_rnn.runtime.outputs import MAX_REASON_CHARS, Outputs
from stream_rnn.runtime.publisher import Publisher
from stream_rnn.runtime.rungs import Ladder, Moves
from stream_rnn.runtime.watch import Watch
from stream_rnn.spi import EndOfStream, Event, Guarantee, NotConnected, Sink, Source

POLL_S = 0.2
RUN = 512  # blocks that are learned together, at most; the clock makes it fewer where they are slow
DRAIN_S = 5.0  # for what waits in the queues of a source that cannot rewind


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
        breaker: events, and the share of them refused, that stop polling; no events: never.
        notifier: tells the service manager.
        loses_what_waits: whether what a source has received, and no poll has taken, is lost when
            it closes; None: as its guarantee says. Behind a journal it is the inner source's.
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
        poll_events: int = 512,
        gone_s: float = 3600.0,
        unsaved_s: float = 300.0,
        overload: Overload | None = None,
        breaker: tuple[int, float] = (0, 1.0),
        notifier: Notifier | None = None,
        loses_what_waits: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.engine = engine
        self.governor, self.ladder, self.rule = governor, ladder, rule
        self.metrics = metrics
        self.poll_events = poll_events
        self.clock = clock
        self.stopping = False
        self._drains = not self._rewinds() if loses_what_waits is None else loses_what_waits
        self.readers: Publisher | None = None  # may be set before `run`
        self.intake = Intake(source, overload or Overload(), rewinds=self._rewinds())
        self.moves = Moves(self.intake, engine, governor, ladder, rule, metrics)
        self.notifier = notifier or Notifier()
        self.pause = Pause()
        self.freeze = Freeze(engine, None if ladder is None else ladder.teaching)
        self.breaker = Breaker(*breaker, self.pause, metrics, self._why_refused)
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
            parts={"freeze": self.freeze},
            still_writing=self.notifier.still_stopping,
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
            pause=self.pause,
            freeze=self.freeze,
            notifier=self.notifier,
        )
        self.control = Control(
            engine,
            self.checkpointing,
            self.pause,
            self.freeze,
            self.breaker,
            status=self.watch.status,
            snapshot=self._snapshot,
        )
        engine.on_tick, engine.on_events = self._on_tick, self.breaker.count
        # who listens from the start looks at the scores as of each event
        engine.learn_in_runs(RUN if engine.on_score is None else 1)
        engine.most_ticks = governor.calm_ticks
        engine.stops_every = None if store is None else schedule.every_events

    def restore(self, loaded: Loaded) -> None:
        """Continue from a snapshot, before `run`; raises ConfigError if it does not fit."""
        self.checkpointing.restore(loaded)
        self.watch.restored()
        self.moves.restored()

    def run(self, max_events: int | None = None) -> None:
        """Until the end of the stream, `max_events` events, or `stop`; then a last snapshot.

        Raises:
            SourceGone: exit code 75; what was learned is in a snapshot.
            CheckpointError: the last snapshot could not be written; the ones before it stand.
            Exception: anything else; nothing is checkpointed.
        """
        with ExitStack() as stack:
            stack.enter_context(numerics())
            stack.callback(self.control.abandon)
            self.outputs.open(stack)
            self.checkpointing.open(stack)
            stack.callback(self.source.close)
            try:
                self.connection.open()
                if self.connection.connected:
                    self.notifier.ready()
                with settled():
                    self._loop(max_events)
            except SourceGone:  # not an accident: the state is sound
                self.notifier.stopping()
                self.checkpointing.finish()
                raise
            self.notifier.stopping()
            self.checkpointing.finish()
            self.control.finished()
        self.watch.publish(final=True)

    def stop(self) -> None:
        """Finish the event at hand, snapshot, and return from `run`. Any thread, any signal."""
        self.stopping = True
        self.checkpointing.disarm()

    @property
    def draining(self) -> bool:
        """Whether to leave once what was received is learned and durable."""
        return self.control.draining

    def nap(self, seconds: float, *, snapshots: bool = True) -> None:
        """Wait, but stay alive: signals, snapshots in flight and the progress line go on."""
        until = self.clock() + seconds
        while not (self.stopping or self.clock() >= until or (self.draining and snapshots)):
            time.sleep(min(POLL_S, max(0.0, until - self.clock())))
            self._housekeeping(snapshots=snapshots)

    def _loop(self, max_events: int | None) -> None:
        engine, control = self.engine, self.control
        last = math.inf if max_events is None else engine.fed + max_events
        drained_at = math.inf
        while not self.stopping and (left := last - engine.fed) > 0:
            if control.draining:
                # a source that rewinds brings the rest again; of another one it would be lost
                drained_at = min(drained_at, self.clock() + DRAIN_S)
                waits = self.connection.connected and self._drains and not self.pause.reasons
                if not waits or self.clock() >= drained_at:
                    break
            elif self.pause.reasons:
                self._rest()
                continue
            start, stage = time.perf_counter(), "wait"
            wanted = int(min(self.poll_events, left))
            try:
                taken = self.intake.poll(wanted, 0.0 if control.draining else POLL_S)
                fill = fill_of(taken.received, wanted)
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
            fault("after_poll")
            self.connection.delivered()
            self.metrics.polls[fill] += 1
            self._take(taken)
            self._housekeeping()
            if control.draining and not taken.items:
                break
        if self._rewinds():
            engine.drop_open_block()
        else:
            if (self.stopping or control.draining) and engine.fed < last:
                self._take(self.intake.rest())
            engine.close_block()
            self.outputs.write()

    def _rest(self) -> None:
        """Paused: the source stays open and is not asked, which is its back-pressure."""
        while self.pause.reasons and not (self.stopping or self.draining):
            self.nap(POLL_S)
        self.connection.delivered()  # it is not to blame for the silence

    def _rewinds(self) -> bool:
        """Whether events that no tick has taken in come again."""
        return self.source.guarantee is not Guarantee.FIRE_AND_FORGET

    def _take(self, taken: Taken) -> None:
        engine = self.engine
        if self.ladder is not None and self.intake.policy == "predict_only":
            self.ladder.teaching.ask("overload", "nothing" if taken.is_over else "all")
        timestamps: list[float] = []  # of events that wait
        for some in stretches(taken.items):
            if isinstance(some, Shed):
                pass_over(engine, some)
            elif not self._feed(some, timestamps):
                break
        else:
            engine.end_of_poll()
            self._reached(timestamps)
            if engine.at_boundary and taken.resume:
                engine.positions = advanced(taken.resume, engine.positions)
        self.metrics.events_in[SOURCE] += taken.received
        self.outputs.write()
        fault("after_write")

    def _feed(self, events: Sequence[Event], timestamps: list[float]) -> bool:
        """All but those that were applied before; False: told to stop, and the rest comes again."""
        engine, rewinds = self.engine, self._rewinds()
        fresh = newer(events, engine.last_fed)
        self.metrics.duplicates_dropped += len(events) - len(fresh)
        at = 0
        while at < len(fresh):
            if self.stopping and rewinds:  # what cannot come again is learned before we leave
                return False
            first, at = at, engine.feed_many(fresh, at)
            if self.readers is not None:
                self.readers.publish_if_asked()
            timestamps += [e.timestamp for e in fresh[first:at] if e.timestamp is not None]
            if self.control.waiting:  # a batch may take long
                engine.learn_waiting()
                self._serve()
            if engine.at_boundary:
                self._reached(timestamps)
        return True

    def _reached(self, timestamps: list[float]) -> None:
        """Events with these timestamps were learned, or wait in an open block."""
        for timestamp in timestamps:
            self.metrics.end_to_end_seconds.observe(time.time() - timestamp)
        timestamps.clear()
        if self.checkpointing.due() or (self.moves.is_unsaved and self._may_snapshot()):
            self._snapshot()

    def _why_refused(self) -> str:
        letters = self.engine.letters
        return str(letters[-1]["reason"])[:MAX_REASON_CHARS] if letters else ""

    def _on_tick(self, tick: Tick) -> None:
        """After each tick, before the next one: the only place where the ladder moves."""
        fault("in_tick", tick.n)
        self.watch.on_tick(tick)
        self.moves.on_tick(tick)

    def _may_snapshot(self) -> bool:
        """Whether snapshots are kept, and no block is open."""
        return self.checkpointing.keeps and self.engine.at_boundary

    def _snapshot(self) -> None:
        """Take one, unless a block is open or another one is being written."""
        if self._may_snapshot() and self.checkpointing.take():
            self.moves.is_unsaved = False

    def _serve(self, *, snapshots: bool = True) -> None:
        """Do what a person or a signal asked for."""
        self.checkpointing.collect()
        if self.control.waiting:
            self.control.turn(snapshots=snapshots)

    def _housekeeping(self, *, snapshots: bool = True) -> None:
        """Between polls, and at least every `POLL_S` seconds while nothing comes."""
        self.watch.beat()
        if self.readers is not None:
            self.readers.publish_if_asked()
        self._serve(snapshots=snapshots)
        if snapshots and (
            self.checkpointing.due_between_polls()
            or (self.moves.is_unsaved and self._may_snapshot())
        ):
            self._snapshot()
        self.watch.publish_if_due()
