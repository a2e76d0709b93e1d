"""Answers requests on any thread, from the newest copy of the state, a few at a time."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from stream_rnn.metrics import READ
from stream_rnn.readers.answering import MAX_BYTES, answered, decoded
from stream_rnn.readers.publication import Publication
from stream_rnn.readers.replica import Replica
from stream_rnn.readers.request import BUSY, UNPUBLISHED, Answer, Refused, parse

_log = logging.getLogger(__name__)

PATIENCE_S = 0.25  # for a copy that is newer than an outdated one; then that one must do
FIRST_S = 2.0  # for the first copy of all
TURN_S = 1.0  # for a turn, while others are served
WAITING = 16  # requests that may wait for each one that is served


class Answers(ABC):
    """Whoever answers; where the copies come from is said by who inherits.

    Args:
        replicas: as many requests are served at a time; the others wait for a turn.
        max_bytes: of a request.
        counts: outcome -> requests, to be counted in; by default one that starts at 0.
        clock: seconds, monotonic, as publications are dated.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        max_bytes: int = MAX_BYTES,
        counts: MutableMapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free = list(replicas)
        self._max_bytes = max_bytes
        self._clock = clock
        self._turns = threading.Semaphore(len(replicas))
        self._room = threading.Semaphore(len(replicas) * (1 + WAITING))
        self._counting = threading.Lock()
        self._failing = ""  # class of the accident logged last
        self.counts = dict.fromkeys(READ, 0) if counts is None else counts

    @abstractmethod
    def _current(self) -> Publication:
        """The copy to answer from; may wait for it a while. Raises Refused if there is none."""

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


def unpublished() -> Refused:
    """For who asks before there is a copy."""
    return Refused(UNPUBLISHED, "unpublished", "nothing is published yet; ask again")


def _raise_busy() -> Answer:
    raise _busy()


def _busy() -> Refused:
    return Refused(
        BUSY, "busy", "too many requests at a time ([readers] max_concurrent); ask again"
    )
