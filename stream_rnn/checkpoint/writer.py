"""The writer's thread: snapshots are saved beside the loop, one at a time, and reported back."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.snapshot import SavedInfo, Snapshot
from stream_rnn.checkpoint.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A snapshot that was not written; the older ones stand and learning goes on."""

    error: Exception
    step: int


class SnapshotWriter:
    """Saves on one background thread, so that the learner's thread never waits for a disk.

    `submit`, `finished`, `drain` and `close` belong to the loop's thread. The writer's starts with
    the first snapshot and dies with the process.

    Args:
        store: open.
        before: flushes sinks and the dead-letter file; on the writer's thread, before each save.
        fault: test seam, called with the name of a stage.
    """

    def __init__(
        self,
        store: Store,
        before: Callable[[], None],
        fault: Callable[[str], None] = fault,
    ) -> None:
        self._store = store
        self._before = before
        self._fault = fault
        self._changed = threading.Condition()
        self._job: Snapshot | None = None  # from submit until its result is in
        self._results: deque[SavedInfo | Failure] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._last_error = ""

    def submit(self, snapshot: Snapshot) -> bool:
        """Hand over a snapshot. False while one is in flight: try again at the next tick."""
        with self._changed:
            if self._closing:
                raise CheckpointError("the snapshot writer is closed")
            if self._job is not None:
                return False
            self._fault("after_clone")
            self._job = snapshot
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def finished(self) -> list[SavedInfo | Failure]:
        """What happened since the last call, oldest first; the caller acks saved positions now.

        A `Failure` whose error is `Fenced` means that this process must stop.
        """
        with self._changed:
            results = list(self._results)
            self._results.clear()
        if any(isinstance(result, SavedInfo) for result in results):
            self._fault("before_ack")
        return results

    def drain(self, timeout_s: float) -> bool:
        """Wait for the snapshot in flight; True once there is none. `finished` tells its result."""
        with self._changed:
            return self._changed.wait_for(lambda: self._job is None, timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Finish the snapshot in flight and end the thread. May be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                _log.warning(
                    "a snapshot is still being written after %.0f s; left behind", timeout_s
                )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._job is not None or self._closing)
                job = self._job
            if job is None:
                return
            result = self._save(job)
            del job  # a copy of the whole state
            with self._changed:
                self._results.append(result)
                self._job = None
                self._changed.notify_all()

    def _save(self, snapshot: Snapshot) -> SavedInfo | Failure:
        try:
            self._before()
            saved = self._store.save(snapshot)
        except Exception as error:  # reported to the loop's thread, which decides; learning goes on
            if str(error) != self._last_error:
                _log.error("snapshot of step %d failed: %s", snapshot.step, error)
                self._last_error = str(error)
            return Failure(error, snapshot.step)
        if self._last_error:
            _log.info("%s: snapshots work again", saved.path)
            self._last_error = ""
        return saved
