"""The connection to the source: opened, and opened again when it breaks, until patience ends."""

from __future__ import annotations

import logging
from collections.abc import Callable

from stream_rnn.engine.engine import Engine
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.patience import Loop, Patience
from stream_rnn.spi import NotConnected, Source

_log = logging.getLogger(__name__)


class SourceGone(Exception):
    """The source was not reachable for too long: exit code 75."""


class Connection:
    """Opens a source after the newest event that a tick has taken in.

    Args:
        source: opened here, closed by others.
        engine: knows the position to resume from.
        metrics: count the reconnects.
        loop: stays alive meanwhile.
        gone_s: patience with a source that is gone.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        metrics: Metrics,
        loop: Loop,
        gone_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.connected = False
        self.gone_s = gone_s
        self._source = source
        self._engine = engine
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        self._patience = Patience(loop)
        self.gone_since: float | None = None

    def open(self) -> None:
        """Open the source, backing off; raises SourceGone after `gone_s`, returns at the end."""
        while not (self._loop.stopping or self._loop.draining):
            try:
                self._source.open(dict(self._engine.positions) or None)
            except NotConnected as error:
                _log.warning("%s; trying again in %.1f s", error, self._patience.wait_s)
                self._wait(error)
                continue
            self.gone_since = self._clock() if self.gone_since is None else self.gone_since
            self.connected = True
            return

    def reopen(self, error: NotConnected) -> None:
        """The connection broke: go on after the last event that a tick has taken in."""
        _log.warning("the source is not connected: %s", error)
        self.connected = False
        if self.gone_since is not None:  # it opened, and broke before it delivered anything
            self._wait(error)
        self.open()
        self._metrics.reconnects += 1

    def delivered(self) -> None:
        """A poll came back, with events or without: the source is there."""
        self.gone_since = None
        self._patience.renew()

    def _wait(self, error: NotConnected) -> None:
        now = self._clock()
        self.gone_since = now if self.gone_since is None else self.gone_since
        if now - self.gone_since > self.gone_s:
            raise SourceGone(
                f"[source] not reachable for {self.gone_s:g} s ([limits] gone_s): {error}"
            ) from error
        self._patience.wait(self.gone_s)
