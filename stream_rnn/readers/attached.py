"""Answers in a process of their own, from what the learner's wrote into shared memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from typing_extensions import override

from stream_rnn.readers import answers
from stream_rnn.readers.answers import Answers
from stream_rnn.readers.page import WISH, Counts
from stream_rnn.readers.publication import Publication
from stream_rnn.readers.region import LIVE, PAUSE_US, Reader, Torn
from stream_rnn.readers.replica import Replica

LOOK_S = 0.001  # how often who waits for a copy looks for it


class Attached(Answers):
    """The other side of a `Shared`, answering as `Readers` do.

    Args:
        region: where the copies come.
        words: of the page that is ours to write: wishes and counts.
        decode: a copy's bytes -> a publication.
        replicas: as many requests are served at a time; the others wait for a turn.
        max_bytes: of a request.
        clock: seconds, monotonic, the same as the learner's.
    """

    def __init__(
        self,
        region: Reader,
        words: memoryview[int],
        decode: Callable[[bytearray], Publication],
        replicas: Sequence[Replica],
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(replicas, max_bytes, Counts(words), clock)
        self._region = region
        self._words = words
        self._decode = decode
        self._taking = threading.Lock()
        self._wish = 0, 0.0  # for which copy, and since when
        self._held: tuple[int, Publication] | None = None

    @override
    def _current(self) -> Publication:
        held = self._take()
        if held is not None and self._is_fresh(held):
            return held
        # The learner was told at once and copies when it can: who comes later waits no longer for
        # it than who told it. Steady requests never wait, the first one after a pause does.
        patience_s = min(answers.PATIENCE_S, 2e-6 * self._region.words[PAUSE_US])
        until = self._wish[1] + patience_s if held else self._clock() + answers.FIRST_S
        while self._clock() < until:
            time.sleep(LOOK_S)
            newer = self._take()
            if newer is not held and newer is not None:
                return newer
        if held is None:
            raise answers.unpublished()
        return held

    def _is_fresh(self, held: Publication) -> bool:
        shared = self._region.words
        nothing_happened = held.ordinal == shared[LIVE]
        return nothing_happened or self._clock() - held.at < 2e-6 * shared[PAUSE_US]

    def _take(self) -> Publication | None:
        """The newest copy, or while another thread takes it the one before; wish for the next."""
        held, newest = self._held, self._region.newest
        if self._wish[0] <= newest:
            self._wish = newest + 1, self._clock()
            self._words[WISH] = newest + 1
        if newest and (held is None or held[0] != newest) and self._taking.acquire(blocking=False):
            try:
                n, body = self._region.read()
                held = self._held = n, self._decode(body)
            except Torn:  # the learner was faster than we are: the next look finds it
                pass
            finally:
                self._taking.release()
        return None if held is None else held[1]
