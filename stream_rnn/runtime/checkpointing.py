"""When the state is copied, how it becomes durable, and what is acknowledged after that.

Order: sink flush and dead-letter fsync -> state durable -> source ack. A crash between them repeats
work and loses none.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from stream_rnn.checkpoint.attempt import AttemptMark
from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.files import CheckpointError, Fenced
from stream_rnn.checkpoint.quarantine import Quarantine
from stream_rnn.checkpoint.snapshot import Loaded, SavedInfo, Snapshot
from stream_rnn.checkpoint.store import Store
from stream_rnn.checkpoint.writer import Failure, SnapshotWriter
from stream_rnn.config import ConfigError
from stream_rnn.engine.engine import Engine
from stream_rnn.health import Governor
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.attempts import Attempts
from stream_rnn.runtime.collector import uncollected
from stream_rnn.runtime.outputs import Outputs
from stream_rnn.spi import Guarantee, Source, worded

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "source"
LAST_SNAPSHOT_S = 60.0
UNFIT = (
    CheckpointError,
    ValueError,  # also msgspec's and JSON's
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # torch's, and too deep a recursion
)
"""What a state that belongs to another model, or is nonsense, makes its readers raise."""
WAIT_S = 1.0  # between two signs of life

_log = logging.getLogger(__name__)


class Part(Protocol):
    """Something small that influences the future, saved as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values; none where there is nothing to say."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""


@dataclass(frozen=True)
class Identity:
    """What a snapshot says it belongs to.

    Attributes:
        fingerprint: of `model`.
        model: the tables a model is built from, as in effect.
        execution: what computed it: versions, device, threads.
    """

    fingerprint: str
    model: dict[str, Any]
    execution: dict[str, str]


@dataclass(frozen=True)
class Schedule:
    """When a snapshot is due; None never.

    Attributes:
        every_s: seconds between two of them.
        every_events: events between two of them; a due one waits while one is written.
    """

    every_s: float | None
    every_events: int | None


class Checkpointing:
    """Keeps the state of one run; all but the writing itself is on the loop's thread.

    Args:
        store: where snapshots go, open; None keeps nothing.
        schedule: when one is due.
        identity: for the manifest.
        source: gets acknowledgments.
        engine, governor: what is saved.
        outputs: written before a copy is made, flushed before it becomes durable.
        metrics: the daemon's numbers.
        clock: seconds, monotonic.
        parts: what else influences the future, by name; what has no state leaves no trace.
        still_writing: called now and then while the last snapshot is waited for.
    """

    def __init__(
        self,
        store: Store | None,
        schedule: Schedule,
        identity: Identity,
        *,
        source: Source,
        engine: Engine,
        governor: Governor,
        outputs: Outputs,
        metrics: Metrics,
        clock: Callable[[], float],
        parts: Mapping[str, Part] | None = None,
        still_writing: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = identity
        self.schedule = schedule
        self.keeps = store is not None
        self.n_taken = self.n_finished = 0  # snapshots of this process
        self.result: SavedInfo | Failure | None = None  # of the newest that finished
        self.newest: Path | None = None  # the newest durable one
        self._store = store
        self._parts = parts or {}
        self._still_writing = still_writing
        self._source = source
        self._engine = engine
        self._governor = governor
        self._outputs = outputs
        self._metrics = metrics
        self._clock = clock
        self._writer: SnapshotWriter | None = None
        self._attempts: Attempts | None = None
        self._saved_at = clock()  # when the newest try began
        self._all_saved_at = clock()  # nothing was unsaved then, as far as is known
        self._saved_ordinal = 0  # of the newest snapshot handed to the writer
        # ordinals and changes, until their result is collected
        self._in_flight: deque[tuple[int, int]] = deque()
        self._changes = self._durable_changes = 0  # of `parts`: they come without an event
        self._durable_ordinal = -1  # of the newest one known to be durable
        self._durable_at: float | None = None
        self._migrated_from: dict[str, Any] | None = None  # until a snapshot says so

    def restore(self, loaded: Loaded) -> None:
        """Continue from a snapshot; raises ConfigError if it does not fit this model."""
        engine = self._engine
        try:
            host = msgspec.json.decode(loaded.host)
            engine.learner.load_state_dict(dict(loaded.tensors))
            engine.load_state_dict(host["engine"])
            if engine.step != loaded.step:
                raise ValueError(f"host state of step {engine.step} in step {loaded.step}")
            self._governor.load_state_dict(host["governor"])
            for name, each in self._parts.items():
                each.load_state_dict(host.get(name, {}))
            engine.positions = dict(loaded.positions.get(SOURCE, {}))
        except UNFIT as error:
            raise ConfigError(
                f"[state] {loaded.path}: the snapshot does not fit this model: {error!r}; "
                "give it another [state] dir, or start over with --fresh (the old state is kept)"
            ) from error
        self._saved_ordinal = self._durable_ordinal = engine.ordinal
        self.newest = loaded.path
        if self._migrated_from is not None:  # not durable as this model's yet
            self._durable_ordinal -= 1

    def begin_as(self, origin: dict[str, Any] | None) -> None:
        """Before `restore` of a migrated state: the first snapshot records where it is from."""
        self._migrated_from = origin

    def open(self, stack: ExitStack) -> None:
        """Make ready to write; `stack` closes it."""
        if self._store is not None:
            directory = self._store.directory
            mark = AttemptMark(directory / "attempt")
            mark.open()
            stack.callback(mark.close)
            comes_again = self._source.guarantee is not Guarantee.FIRE_AND_FORGET
            if comes_again:
                self._engine.replayed_until = mark.value
            else:
                self._count_the_lost(mark)
            attempts = Attempts(
                mark, Quarantine(directory), counts=comes_again, keep=self._store.keep
            )
            attempts.open(self._engine.block_size)
            self._engine.warm_up()  # before any mark: what fails here is no event's fault
            self._engine.attempts = self._attempts = attempts
            self._writer = SnapshotWriter(self._store, self._outputs.flush)
            stack.callback(self._writer.close)
        self._saved_at = self._all_saved_at = self._clock()

    def _count_the_lost(self, mark: AttemptMark) -> None:
        """What was learned and is in no snapshot, of a source that brings nothing again."""
        lost = max(0, mark.reached - self._engine.ordinal)
        self._metrics.recovery_gap_events = lost
        if lost:
            _log.warning("%d events were learned after the newest snapshot and are lost", lost)
        self._pass_by(mark.value - self._engine.ordinal)

    def _pass_by(self, n: int) -> None:
        """Give what comes next no number that `n` lost events had: their predictions are out."""
        engine = self._engine
        if n <= 0 or len(engine.positions) != 1:
            return
        ((partition, position),) = engine.positions.items()
        if isinstance(position, int):
            engine.positions = {partition: position + n}
            engine.ordinal += n
            self._saved_ordinal += n
            self._durable_ordinal += n

    def disarm(self) -> None:
        """The process was told to stop: how it ends says nothing about the event at hand."""
        if self._attempts is not None:
            self._attempts.disarm()

    def due(self) -> bool:
        """Whether one is due by the count of events: asked after each event."""
        every = self.schedule.every_events
        if self._writer is None or every is None or not self._engine.at_boundary:
            return False
        return self._engine.ordinal // every > self._saved_ordinal // every

    def due_between_polls(self) -> bool:
        """Likewise, or by the clock, or because the source waits for an acknowledgment."""
        if self._writer is None or not self._engine.at_boundary:
            return False
        if self._n_unsaved() <= 0:
            return self.due()
        every_s = self.schedule.every_s
        is_late = every_s is not None and self._clock() - self._saved_at >= every_s
        return is_late or self.due() or (not self._in_flight and self._source.wants_snapshot())

    def take(self) -> bool:
        """Copy the state and hand it to the writer; False while another one is being written."""
        assert self._writer is not None
        if not self._writer.drain(0.0):  # the copy would be thrown away
            return False
        self._outputs.write()
        start = time.perf_counter()
        engine = self._engine
        with uncollected():
            host = self._host_state()
        snapshot = Snapshot(
            step=engine.step,
            tensors=_copied(engine.learner.state_dict()),
            host=host,
            positions={SOURCE: dict(engine.positions)},
            fingerprint=self.identity.fingerprint,
            config=self.identity.model,
            execution=self.identity.execution,
            migrated_from=self._migrated_from,
        )
        taken = self._writer.submit(snapshot)
        if taken:
            self._saved_ordinal = engine.ordinal
            self._in_flight.append((engine.ordinal, self._changes))
            self.n_taken += 1
            self._saved_at = self._clock()
        self._metrics.stage_seconds["snapshot_copy"] += time.perf_counter() - start
        return taken

    def _host_state(self) -> bytes:
        host = {"engine": self._engine.state_dict(), "governor": self._governor.state_dict()}
        host |= {name: state for name, each in self._parts.items() if (state := each.state_dict())}
        return msgspec.json.encode(host)

    def collect(self) -> None:
        """Acknowledge what has become durable; raises Fenced if another process took over."""
        if self._writer is None:
            return
        if self._n_unsaved() <= 0:
            self._all_saved_at = self._clock()
        for result in self._writer.finished():
            ordinal, changes = self._in_flight.popleft()
            self.n_finished += 1
            self.result = result
            if isinstance(result, SavedInfo):
                self._source.ack(result.positions.get(SOURCE, {}))
                fault("after_ack")
                self._metrics.snapshots += 1
                self._metrics.snapshot_seconds = result.seconds
                self._metrics.snapshot_bytes = result.size_bytes
                self._durable_at = self._all_saved_at = self._clock()
                self._durable_ordinal, self._durable_changes = ordinal, changes
                self.newest = result.path
                self._migrated_from = None
                if self._attempts is not None:
                    self._attempts.forget_before(ordinal)
            else:
                self._failed(result)

    @property
    def saved_step(self) -> int | None:
        """Of the snapshot that became durable last; None: the last one failed, or there is none."""
        return self.result.step if isinstance(self.result, SavedInfo) else None

    def finish(self) -> None:
        """Make everything durable; raises CheckpointError if that fails."""
        if self._writer is None:
            return
        self._wait()
        if self._engine.ordinal > self._durable_ordinal or not self.everything_is_durable:
            self.take()
            self._wait()
        lost = self._n_unsaved()
        if lost > 0:
            raise CheckpointError(
                f"[state] the last snapshot could not be written (see above): {lost} "
                f"{worded(lost, 'event is', 'events are')} in none; those of a source that rewinds "
                "come again at the next start"
            )

    def touch(self) -> None:
        """One of `parts` changed: what is durable is no longer what is now."""
        self._changes += 1

    @property
    def everything_is_durable(self) -> bool:
        """Whether the newest durable snapshot holds what is now."""
        return self._n_unsaved() <= 0 and self._changes == self._durable_changes

    def _wait(self) -> None:
        """For the snapshot in flight."""
        assert self._writer is not None
        until = self._clock() + LAST_SNAPSHOT_S
        while not self._writer.drain(WAIT_S) and self._clock() < until:
            self._still_writing()
        self.collect()

    def age_s(self) -> float | None:
        """Of the newest snapshot made durable by this process. Any thread."""
        return None if self._durable_at is None else self._clock() - self._durable_at

    def unsaved_s(self) -> float:
        """For how long there has been something new and nothing durable. Any thread."""
        if self._writer is None or self._n_unsaved() <= 0:
            return 0.0
        return self._clock() - self._all_saved_at

    def _n_unsaved(self) -> int:
        return self._engine.ordinal - max(self._durable_ordinal, 0)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.error, Fenced):
            raise failure.error
        self._metrics.snapshot_failures += 1


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors.items():
        copies[name] = tensor.detach().clone()
        fault("in_clone")
    return copies
