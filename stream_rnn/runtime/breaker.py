"""The circuit breaker: a stream that is mostly refused is not dead-lettered to its end.

It counts events and looks at no clock. Its window belongs to the process: a restart begins anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from stream_rnn.console import printable
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.holds import Pause

_log = logging.getLogger(__name__)

BY = "breaker"


class Breaker:
    """Pauses polling when too many of the last events were refused.

    Args:
        events: the window, in events; 0 never trips.
        share: of the window, refused, that trips.
        pause: held until somebody resumes.
        metrics: says whether it is open.
        newest: why the newest event was refused, for people; "": unknown.
    """

    def __init__(
        self,
        events: int,
        share: float,
        pause: Pause,
        metrics: Metrics,
        newest: Callable[[], str] = lambda: "",
    ) -> None:
        self._events = events
        self._trips_at = max(1, round(events * share))
        self._pause = pause
        self._metrics = metrics
        self._newest = newest
        self._window = [""] * events  # the stage that refused an event, "" for one that was used
        metrics.breaker_open = 0
        self.reset()

    def reset(self) -> None:
        """Begin a fresh window, closed."""
        self._window[:] = [""] * self._events
        self._next = self._n_seen = self._n_refused = 0
        self._metrics.breaker_open = 0

    def count(self, refused: Sequence[str | None]) -> None:
        """Events, in order, were used (None), or refused at that stage."""
        if not self._events:
            return
        if not self._n_refused and refused.count(None) == len(refused):  # as nearly always
            self._n_seen += len(refused)
            self._next = (self._next + len(refused)) % self._events
            return
        for each in refused:
            self._count(each)

    def _count(self, refused: str | None) -> None:
        window, i = self._window, self._next
        self._n_seen += 1
        self._n_refused -= window[i] != ""
        window[i] = refused or ""
        self._next = i + 1 if i + 1 < self._events else 0
        if refused is not None:
            self._n_refused += 1
            if self._n_refused >= self._trips_at and BY not in self._pause.reasons:
                self._trip()

    def _trip(self) -> None:
        by_stage = Counter(stage for stage in self._window if stage)
        stage, n = by_stage.most_common(1)[0]
        most = "all" if n == self._n_refused else f"{n}"
        newest = printable(self._newest())
        why = newest and f", the newest: {newest}"
        reason = (
            f"the breaker is open: {self._n_refused} of the last "
            f"{min(self._n_seen, self._events)} events were refused, {most} of them at stage "
            f"{stage}{why}; correct the configuration and start again, or look at the dead "
            "letters, then `stream-rnn ctl CONFIG resume`"
        )
        self._pause.hold(BY, reason)
        self._metrics.breaker_open = 1
        _log.error("polling stops: %s", reason)
