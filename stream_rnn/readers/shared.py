"""Copies for a process of readers: written into shared memory by the thread that learns."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from stream_rnn.engine.engine import Engine
from stream_rnn.readers import wire
from stream_rnn.readers.page import WISH, Counts
from stream_rnn.readers.publication import pause_s
from stream_rnn.readers.region import LIVE, PAGE, PAUSE_US, Words, Writer, nameless, to_read

_log = logging.getLogger(__name__)

NO_ROOM_S = 60.0  # until the next copy is tried when there was no memory for one


class Shared:
    """The learner's side: copies when the readers' process wishes for it, and it is time.

    `publish_if_asked` is for the thread that learns, the rest for any.

    Args:
        engine: read between two events only.
        publish_s: the state is copied at most so often.
        clock: seconds, monotonic, the same in all processes.

    Raises:
        OSError: the system has no memory to share.
    """

    def __init__(
        self, engine: Engine, publish_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._publish_s = publish_s
        self._clock = clock
        self._writer = Writer("stream-rnn-copies")
        page = nameless("stream-rnn-readers")
        os.ftruncate(page, PAGE)
        self._page = Words(page, is_ours=True)
        self.words = self._page.words
        self.counts = Counts(self.words)
        self._descriptors = (to_read(self._writer.descriptor), page)
        self._live = self._writer.words
        self._next_at = 0.0
        self._at: float | None = None
        self._ordinal = -1
        self._copy_s: float | None = None

    @property
    def publications(self) -> int:
        """Copies made."""
        return self._writer.n

    @property
    def descriptors(self) -> tuple[int, int]:
        """For the readers' process: the copies, to read, and the page that it writes."""
        return self._descriptors

    def publish_if_asked(self) -> None:
        """Between two events: copy the state, if somebody asked since and it is time."""
        self._live[LIVE] = ordinal = self._engine.ordinal
        if (
            self.words[WISH] > self._writer.n
            and ordinal != self._ordinal  # or nothing happened since
            and self._clock() >= self._next_at
        ):
            self._publish(ordinal)

    def _publish(self, ordinal: int) -> None:
        engine, learner, at = self._engine, self._engine.learner, self._clock()
        parameters = list(learner.parameters())
        hidden = learner.recurrence.hidden(learner.horizon > 0)
        pieces = wire.pieces(
            engine.task,
            engine.lanes,
            [*parameters, *hidden],
            len(parameters),
            step=engine.step,
            ordinal=ordinal,
            at=at,
        )
        try:
            self._writer.write(pieces)
        except OSError as error:
            self._next_at = at + NO_ROOM_S
            _log.error("no memory for a copy for readers, tried again: %s", error)
            return
        self._at, self._ordinal, self._copy_s = at, ordinal, self._clock() - at
        wait_s = pause_s(self._publish_s, self._copy_s)
        self._live[PAUSE_US] = int(wait_s * 1e6)
        self._next_at = at + wait_s

    def age_s(self) -> float | None:
        """Of the newest copy; None: there is none."""
        return None if self._at is None else max(0.0, self._clock() - self._at)

    def newest_copy_s(self) -> float | None:
        """How long the newest copy took; None: there is none."""
        return self._copy_s

    def close(self) -> None:
        """Give the memory back; nothing is published afterwards."""
        self._page.close()
        self._writer.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
