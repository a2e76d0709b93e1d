"""Readers: any thread asks, the thread that learns copies by schedule, nobody waits for a step.

The newest copy is swapped in as a whole and never written again; who reads an older one keeps it
alive until done. While nobody asks nothing is copied, and whether anybody does never changes what
is learned.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from stream_rnn.engine.engine import Engine
from stream_rnn.metrics import READ
from stream_rnn.readers.answering import MAX_BYTES, answered, decoded
from stream_rnn.readers.publication import Publication, publish
from stream_rnn.readers.replica import Replica
from stream_rnn.readers.request import BUSY, UNPUBLISHED, Answer, Refused, parse

_log = logging.getLogger(__name__)

PATIENCE_S = 0.25  # for a copy that is newer than an outdated one; then that one must do
FIRST_S = 2.0  # for the first copy of all
TURN_S = 1.0  # for a turn, while others are served
WAITING = 16  # requests that may wait for each one that is served
SHARE = 0.05  # of the learner's time that copying may take, at most


class Readers:
    """Answers requests beside a learner.

    `predict` and `answer` are for any thread, `publish_if_asked` for the one that learns.

    Args:
        engine: read between two events only, by its own thread; others look at its event count.
        replicas: as many requests are served at a time; the others wait for a turn.
        publish_s: the state is copied at most so often; an answer's may be twice as old.
        max_bytes: of a request.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        replicas: Sequence[Replica],
        publish_s: float = 0.05,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._free = list(replicas)
        self._publish_s = publish_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._turns = threading.Semaphore(len(replicas))
        self._room = threading.Semaphore(len(replicas) * (1 + WAITING))
        self._counting = threading.Lock()
        self._is_new = threading.Condition()
        self._asked = False  # since the newest copy was begun
        self._next_at = 0.0
        self._newest: Publication | None = None
        self._failing = ""  # class of the accident logged last
        self.counts = dict.fromkeys(READ, 0)
        self.publications = 0
        self._copy_s: float | None = None

    # On the thread that learns --------------------------------------------------------------------

    def publish_if_asked(self) -> None:
        """Between two events: copy the state, if somebody asked since and it is time."""
        if self._asked and self._clock() >= self._next_at:
            self._publish()

    def _publish(self) -> None:
        newest = self._newest
        self._asked = False
        if newest is not None and newest.ordinal == self._engine.ordinal:
            return  # nothing happened since
        at = self._clock()
        published = publish(self._engine, at)
        self._copy_s = self._clock() - at
        self._next_at = at + max(self._publish_s, self._copy_s / SHARE)
        self.publications += 1
        with self._is_new:
            self._newest = published
            self._is_new.notify_all()

    # On any thread --------------------------------------------------------------------------------

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """A request as JSON -> a status as in HTTP, and the answer as JSON. Raises nothing."""
        return answered(lambda: self._predict(lambda: decoded(body, self._max_bytes)), self._failed)

    def turned_away(self) -> tuple[int, bytes]:
        """For a request that a transport has no time for: counted, not answered."""
        with self._counting:
            self.counts["busy"] += 1
        return answered(_raise_busy, self._failed)

    def predict(self, asked: Mapping[str, Any]) -> Answer:
        """Predict for a record, or for the last of several in order; nothing of it persists.

        Waits for at most one copy (`PATIENCE_S`, the first one `FIRST_S`) and one turn (`TURN_S`).

        Args:
            asked: `{"record": {...}}` or `{"records": [...]}`, and perhaps the producer's "key".

        Raises:
            Refused: with the status and the reason.
        """
        return self._predict(lambda: asked)

    def _predict(self, ask: Callable[[], Mapping[str, Any]]) -> Answer:
        outcome = "failed"
        try:
            request = parse(ask())
            with self._admitted():
                publication = self._current()
                with self._replica() as replica:
                    made = replica.answer(publication, request, self._clock())
            outcome = "answered"
        except Refused as refused:
            outcome = {BUSY: "busy", UNPUBLISHED: "unpublished"}.get(refused.status, "refused")
            raise
        finally:
            with self._counting:
                self.counts[outcome] += 1
        return made

    def age_s(self) -> float | None:
        """Of the newest copy; None: there is none."""
        newest = self._newest
        return None if newest is None else max(0.0, self._clock() - newest.at)

    def newest_copy_s(self) -> float | None:
        """How long the newest copy took; None: there is none."""
        return self._copy_s

    def _current(self) -> Publication:
        newest = self._newest
        self._asked = True
        if newest is not None:
            if newest.ordinal == self._engine.ordinal:  # nothing happened since
                return newest
            if self._clock() - newest.at < 2 * max(self._publish_s, (self._copy_s or 0) / SHARE):
                return newest
        with self._is_new:
            patience_s = FIRST_S if newest is None else PATIENCE_S
            self._is_new.wait_for(lambda: self._newest is not newest, patience_s)
        newest = self._newest
        if newest is None:
            raise Refused(UNPUBLISHED, "unpublished", "nothing is published yet; ask again")
        return newest

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if not self._room.acquire(blocking=False):
            raise _busy()
        try:
            yield
        finally:
            self._room.release()

    @contextmanager
    def _replica(self) -> Iterator[Replica]:
        if not self._turns.acquire(timeout=TURN_S):
            raise _busy()
        replica = self._free.pop()
        try:
            yield replica
        finally:
            self._free.append(replica)
            self._turns.release()

    def _failed(self, error: Exception) -> None:
        """An accident of ours: logged once, not at every request."""
        name = type(error).__name__
        if self._failing != name:
            self._failing = name
            _log.error("a request to the readers failed", exc_info=error)


def _raise_busy() -> Answer:
    raise _busy()


def _busy() -> Refused:
    return Refused(
        BUSY, "busy", "too many requests at a time ([readers] max_concurrent); ask again"
    )
