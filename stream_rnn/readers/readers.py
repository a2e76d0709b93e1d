"""Readers: any thread asks, the thread that learns copies by schedule, nobody waits for a step.

The newest copy is swapped in as a whole and never written again; who reads an older one keeps it
alive until done. While nobody asks nothing is copied, and whether anybody does never changes what
is learned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from typing_extensions import override

from stream_rnn.engine.engine import Engine
from stream_rnn.readers import answers
from stream_rnn.readers.answering import MAX_BYTES
from stream_rnn.readers.answers import Answers
from stream_rnn.readers.publication import Publication, pause_s, publish
from stream_rnn.readers.replica import Replica


class Readers(Answers):
    """Answers requests beside a learner, in its process.

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
        super().__init__(replicas, max_bytes, clock=clock)
        self._engine = engine
        self._publish_s = publish_s
        self._is_new = threading.Condition()
        self._asked = False  # since the newest copy was begun
        self._next_at = 0.0
        self._newest: Publication | None = None
        self._awaited: tuple[object, float] = (), 0.0  # which copy's successor, and how long
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
        self._next_at = at + pause_s(self._publish_s, self._copy_s)
        self.publications += 1
        with self._is_new:
            self._newest = published
            self._is_new.notify_all()

    # On any thread --------------------------------------------------------------------------------

    def age_s(self) -> float | None:
        """Of the newest copy; None: there is none."""
        newest = self._newest
        return None if newest is None else max(0.0, self._clock() - newest.at)

    def newest_copy_s(self) -> float | None:
        """How long the newest copy took; None: there is none."""
        return self._copy_s

    @override
    def _current(self) -> Publication:
        newest = self._newest
        self._asked = True
        if newest is not None:
            if newest.ordinal == self._engine.ordinal:  # nothing happened since
                return newest
            if self._clock() - newest.at < 2 * pause_s(self._publish_s, self._copy_s or 0):
                return newest
        with self._is_new:
            # one wait for each copy that is outdated: who comes later may stand behind it
            if self._awaited[0] is not newest:
                patience_s = answers.FIRST_S if newest is None else answers.PATIENCE_S
                self._awaited = newest, time.monotonic() + patience_s
            left_s = max(0.0, self._awaited[1] - time.monotonic())
            self._is_new.wait_for(lambda: self._newest is not newest, left_s)
        newest = self._newest
        if newest is None:
            raise answers.unpublished()
        return newest
